"""The wire format of what is answered to searches. Imports no torch."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anykey.encoder.item import Modality
from anykey.service.queries.schemas import FacetRange
from anykey.service.schemas import ErrorResponse, Scalar


class HitGroup(BaseModel):
    """The group that a hit is of."""

    value: str | int | float | bool | None = Field(
        description="The field's value, or the key of the best of near-duplicates; null for a key without the field, "
        "which is a group of its own."
    )
    num_folded: int = Field(description="How many more of its hits were looked at, and are not in the answer.")


class HitPayload(BaseModel):
    """What the corpus says about a key; a search that says what to include leaves out the rest."""

    text: str | None = Field(None, description="The key's text, if it has one.")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="The corpus row's metadata, as it was indexed, or the members asked for."
    )
    image_urls: list[str] = Field(
        default_factory=list, description="Paths of the key's images on this host, a proxy's prefix included."
    )


class PartScores(BaseModel):
    """How well a hit matches one part of the query, whatever the part's weight."""

    score: float = Field(description="Cosine similarity to the part.")
    text: float | None = Field(
        description="That to the text alone; null for a key, a vector, and an item without a text."
    )
    image: float | None = Field(
        description="That to the images alone; null for a key, a vector, and an item without images."
    )


class WireHit(BaseModel):
    """One hit."""

    key: str
    score: float | None = Field(
        description="Cosine similarity, higher is better; null for a query of words alone, which has no vector."
    )
    words_score: float | None = Field(
        None, description="How well the key fits the words (BM25); absent without any, and for a key with none of them."
    )
    rerank_score: float | None = Field(
        description="What the reranker gives, which the hits are sorted by; null without one, and for a key that it "
        "cannot read, which comes after those that it can."
    )
    rank: int = Field(description="Place among the query's hits, from 1; later pages go on counting.")
    modality: Modality
    payload: HitPayload
    vector: list[float] | None = Field(None, description="The key's unit vector, where `include` names it.")
    part_scores: list[PartScores] | None = Field(
        None, description="One for each part of the query, where `include` names them."
    )
    group: HitGroup | None = Field(None, description="Null where no groups were asked for.")


class Timings(BaseModel):
    """Milliseconds each stage took; zero for a stage that was skipped."""

    read: float = Field(description="Receiving and parsing the body.")
    decode: float = Field(description="Decoding images and splitting text into tokens, waiting included.")
    queue: float = Field(description="Waiting for a place in an encoder batch.")
    encode: float = Field(description="The encoder batch this query was part of.")
    search: float = Field(description="Searching the index and writing the hits, waiting included.")
    rerank: float = Field(description="Scoring hits by the reranker and writing them, waiting included.")
    total: float = Field(description="From the first byte read to the hits.")


class Reranking(BaseModel):
    """What put the hits into their order."""

    model: str = Field(description="The reranker's name.")
    fingerprint: str = Field(description="Equal fingerprints give equal scores.")
    num_candidates: int = Field(description="How many hits of the index it was given.")
    num_scored: int = Field(description="How many of them it could read, so that they have a score.")


class Cutoff(BaseModel):
    """What the automatic cutoff left out."""

    score: float | None = Field(
        description="Hits below it were left out; null where there are too few keys to tell, and nothing was."
    )
    num_cut: int = Field(description="How many of the `k` places of the ranking that were asked for were left out.")


class GroupSearch(BaseModel):
    """How the groups were found."""

    num_candidates: int = Field(description="How many hits were looked at.")
    is_complete: bool = Field(
        description="Whether more could not have changed the answer; false where `limits.max_depth` did not suffice."
    )


class PartExplanation(BaseModel):
    """Where the vector of one part came from."""

    source: Literal["memory", "redis", "encoder", "index", "request", "words"] = Field(
        description="The cache in memory or in Redis, the encoder, the index for a stored key, the request for a "
        "vector; words have none."
    )
    decode_ms: float = Field(description="Zero where nothing was encoded, like the other two.")
    queue_ms: float = Field(description="Waiting for its batch.")
    encode_ms: float = Field(description="Its batch.")


class Explanation(BaseModel):
    """How an answer was made."""

    parts: list[PartExplanation] = Field(description="One for each part of the query.")
    structure: str | None = Field(
        description="What found keys by the vector: `exact`, a FAISS factory string, `gpu` and a structure, or Milvus' "
        "name of one; null where there is no vector."
    )
    exact: bool = Field(description="Whether every key of the scope was compared.")
    num_keys: int = Field(description="Keys of the index.")
    num_in_scope: int | None = Field(
        description="Those that the scope left to be found by the vector; null where there is none."
    )
    num_compared: int | None = Field(
        description="Vectors, or codes of them, that the search structure compared; of inverted lists, all that they "
        "have. Null where the structure does not tell."
    )
    num_reranked: int = Field(description="Candidates of the structure whose exact scores decided.")
    num_recent: int = Field(description="Keys of the scope newer than the published version; each of them is compared.")
    num_with_words: int | None = Field(
        description="Keys of the scope that have some of the words; null where none are looked for."
    )
    scope_looked_up: bool = Field(
        description="Whether the keys of the scope were looked up first, so that only they could be found."
    )
    num_searches: int = Field(description="How many searches of the index by vectors it took.")
    num_together: int = Field(description="How many queries shared them, whose counts and times these are together.")
    wait_ms: float = Field(description="Waiting for a thread.")
    scope_ms: float = Field(description="Looking up the scope.")
    compare_ms: float = Field(description="Comparing.")
    words_ms: float = Field(description="Finding keys by their words, and joining rankings.")
    payload_ms: float = Field(description="Reading what the hits carry.")
    facets_ms: float = Field(description="Counting facets.")
    choose_ms: float = Field(
        description="The cut, groups, diversity, scores of parts, and all else of the index's call."
    )
    write_ms: float = Field(description="Writing the hits as JSON, and the rest of `search`.")


class FacetValue(BaseModel):
    """A value of a field."""

    value: Scalar = Field(
        description="A string, number or boolean. Equal ones are one value: dates that name the same moment are "
        "written in UTC, and whole numbers as integers."
    )
    num_keys: int = Field(description="Keys that have it.")


class FacetRangeCount(FacetRange):
    """Bounds as they were asked for, and how many keys have a value within."""

    model_config = ConfigDict(title="FacetRangeCount")

    num_keys: int


class Facet(BaseModel):
    """How many keys of the scope have what values of a field."""

    field: str
    num_keys: int = Field(description="Keys of the scope with a value of the field; a key with several counts once.")
    num_missing: int = Field(description="Keys of the scope without one.")
    values: list[FacetValue] | None = Field(
        description="The most frequent values first, equally frequent ones in their order; null for ranges."
    )
    num_other_values: int | None = Field(description="How many more values there are; null for ranges.")
    ranges: list[FacetRangeCount] | None = Field(description="In the order asked for; null for values.")


class SearchResponse(BaseModel):
    """Hits, best first."""

    hits: list[WireHit]
    facets: list[Facet] | None = Field(
        None, description="In the order asked for, of the moment of the hits; null where none were asked for."
    )
    query_modality: Modality | None = Field(
        description="What the query was: text, image, or fused (both), all its parts together; null for a vector of "
        "which nobody says it, and for words alone."
    )
    cached: bool = Field(description="Whether the query's vector came from the cache, or the whole answer did.")
    result_cached: bool = Field(
        description="Whether the whole answer was kept from an earlier equal request; it is of the moment of this one."
    )
    text_cut: bool = Field(
        description="Whether the query's text is longer than the model's context (model.context_length tokens in "
        "/info), so that its end was not used."
    )
    num_below_min_score: int | None = Field(
        description="How many of the hits were left out because of `min_score`; null without it."
    )
    notes: list[str] = Field(description="What whoever asked should know, a sentence each, such as what was not used.")
    release: str | None = Field(description="The release that answered; null where there are none.")
    index_version: str | None = Field(description="The index version that answered; null for a Milvus collection.")
    index_seq: int | None = Field(
        description="Number of the last change of the index that is in the answer; null for a Milvus collection."
    )
    snapshot: str | None = Field(
        description="Names the index at this moment, to be asked for by later requests; null for a Milvus collection."
    )
    query_id: str | None = Field(
        None, description="By what POST /feedback names this answer; null where it is not in the query log."
    )
    model_fingerprint: str
    explanation: Explanation | None = Field(
        None, description="How the answer was made; null where that was not asked for."
    )
    reranking: Reranking | None = Field(description="Null where none was asked for.")
    cutoff: Cutoff | None = Field(None, description="Null where none was asked for.")
    grouping: GroupSearch | None = Field(None, description="Null where none was asked for.")
    timings_ms: Timings


class BatchTimings(BaseModel):
    """Milliseconds; the answers have those of each query."""

    read: float = Field(description="Receiving and parsing the body.")
    total: float = Field(description="From the first byte read to the last answer.")


class BatchResponse(BaseModel):
    """What became of each query of a batch, in their order."""

    answers: list[SearchResponse | ErrorResponse] = Field(
        description="What POST /search answers to the query; its error, where it has one."
    )
    timings_ms: BatchTimings
