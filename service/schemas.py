"""The wire format: what requests and responses look like. Imports no torch.

Validation here knows no settings: bounds that operators choose are checked in `service.query`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    SkipValidation,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from anykey.encoder.item import Modality
from anykey.encoder.protocol import Role
from anykey.service.indexes.schemas import IndexMemory, LeftChanges, MemoryInfo, ProcessMemory


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "lone_surrogate", "half a surrogate pair at character {start}", {"start": error.start}
        ) from error
    return text


class _AtFirst(FailFast):
    """Tells a list's first wrong entry only: an error for each of a million takes seconds and much memory."""

    __hash__ = object.__hash__  # which a type in a union needs, and pydantic's has not


Text = Annotated[StrictStr, AfterValidator(_encodable)]
EXAMPLE_REQUEST_ID = "5e0a4c6f2b7d4d1e9a3b8c7d6e5f4a3b"


DEFAULT_RERANK_TOP = 50
MAX_WEIGHT = 100.0
MAX_FACETS = 20  # of a query
MAX_FACET_VALUES = 1000  # of one
MAX_FACET_VALUES_TOGETHER = 2000
MAX_FACET_RANGES = 50  # of one
Scalar = str | int | float | bool


class RerankRequest(BaseModel):
    """Has the best hits put into the order of a cross-encoder, which reads the query and each key together."""

    model_config = ConfigDict(extra="forbid", title="RerankRequest")

    model: Text | None = Field(None, description="One of `rerankers` of GET /info. Absent: the only one there is.")
    top: StrictInt | None = Field(
        None,
        description="How many of the index's best hits it reads, from `k` to `limits.max_rerank_top` of GET /info. "
        f"Absent: {DEFAULT_RERANK_TOP}, or `k` if that is more.",
    )


class SearchedPart(BaseModel):
    """What both a whole query and one of its parts may be."""

    text: Text | None = Field(None, description="Text to search with. White space only counts as absent.")
    text_weight: StrictFloat = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="The text's share when text and image are fused."
    )
    instruction: Text | None = Field(
        None,
        description="What the model is told to look for, in place of its own prompt for queries; an empty one leaves "
        "that out. Models that follow none refuse it. Absent: the model's own.",
    )
    key: Text | None = Field(None, description="A stored key to find the like of, in place of text and image.")
    vector: StrictStr | Annotated[list[StrictFloat], _AtFirst()] | None = Field(
        None,
        description="A vector of the model's width, in place of text and image: a list of numbers, or base64 of "
        "little-endian float32. Its length does not matter.",
    )
    words: Text | None = Field(
        None,
        description='Words to find keys by, in place of text and image, in names, texts and metadata: "a phrase" and '
        "begin* are understood. They are ranked by BM25.",
    )
    vector_modality: Modality | None = Field(
        None, description="What `vector` is the vector of; only an index that is calibrated by modality needs it."
    )


class FileInForm(BaseModel):
    """An image that a form has as a file."""

    model_config = ConfigDict(extra="forbid", title="FileInForm")

    file: StrictInt = Field(description="Which of the form's `image` files, from 0.")


class PartRequest(SearchedPart):
    """One part of a query: an item (text, image or both), a stored key, a vector, or words, with a weight."""

    model_config = ConfigDict(extra="forbid", title="PartRequest")

    image: StrictStr | FileInForm | Annotated[list[StrictStr | FileInForm], _AtFirst()] | None = Field(
        None,
        description="Image, base64 or `data:` URI, or a file of the form; a list for several frames of one item.",
    )
    weight: StrictFloat = Field(
        1.0,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        description="How much the part counts; negative: not like this. Not 0, and above 0 for words.",
    )


def _absent() -> None:
    return None


Bound = int | float | str | SkipJsonSchema[None]  # which may be left out, but not be null


class FacetRange(BaseModel):
    """Bounds of values, as a filter has them: numbers, or strings, of which dates compare as moments."""

    model_config = ConfigDict(extra="forbid", title="FacetRange", json_schema_extra={"minProperties": 1})

    gt: Bound = Field(default_factory=_absent, description="The value is above this.")
    gte: Bound = Field(default_factory=_absent, description="The value is this or above; not with `gt`.")
    lt: Bound = Field(default_factory=_absent, description="The value is below this.")
    lte: Bound = Field(default_factory=_absent, description="The value is this or below; not with `lt`.")


class FacetRequest(BaseModel):
    """Asks for the values of one field with counts, or for the counts of ranges."""

    model_config = ConfigDict(
        extra="forbid",
        title="FacetRequest",
        json_schema_extra={"examples": [{"field": "price", "ranges": [{"lt": 10}, {"gte": 10}]}]},
    )

    field: Text | list[Text] = Field(description="A member of the metadata, named as in filters.")
    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_FACET_VALUES,
        description=f"Most values; those of all facets at most {MAX_FACET_VALUES_TOGETHER} together. Absent: 10.",
    )
    prefix: Text | None = Field(
        None, description="Only values that begin with this, which strings do; letter case counts. Absent: all values."
    )
    ranges: list[FacetRange] | None = Field(
        None,
        min_length=1,
        max_length=MAX_FACET_RANGES,
        description="Counts keys with a value within each of these bounds, which may overlap, in place of values.",
    )


class SearchRequest(SearchedPart):
    """A query: a text, one or several images, or both fused; a key, a vector, or parts. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        title="SearchRequest",
        json_schema_extra={"examples": [{"text": "a small red circle", "k": 5, "modalities": ["image", "fused"]}]},
    )

    image: StrictStr | Annotated[list[StrictStr], _AtFirst()] | None = Field(
        None, description="Image, base64 or `data:image/...;base64,` URI; a list for several frames of one item."
    )
    parts: Annotated[list[PartRequest], _AtFirst()] | None = Field(
        None,
        min_length=1,
        description="All that the query looks for, in place of the fields for one thing; at most `limits.max_parts`. "
        "The query's vector is the weighted sum of its parts' unit vectors.",
    )
    join: Literal["rank", "weight"] | None = Field(
        None,
        description="How the ranking by words is joined with the others: by reciprocal rank, or by weighted scores. "
        "Absent: by rank.",
    )
    k: StrictInt = Field(10, description="How many hits, from 1 to `limits.max_k` of GET /info.")
    modalities: Annotated[list[Modality], _AtFirst()] | None = Field(
        None, min_length=1, description="Only keys of these modalities. Absent: all."
    )
    pool: Text | None = Field(None, description="Only keys of this pool, see GET /info. Absent: the whole corpus.")
    exclude: Annotated[list[Text], _AtFirst()] = Field(
        default_factory=list, description="Keys that must not come back; k hits are returned all the same."
    )
    filter: Any = Field(
        None,
        description='Only keys whose metadata fits, such as `{"field": "price", "lt": 20}`; see `Filter`. Absent: all.',
    )
    within: Annotated[list[Text], _AtFirst()] | None = Field(
        None, description="Only these keys, as far as there are such keys; at most `limits.max_within`. Absent: all."
    )
    exclude_query_keys: StrictBool = Field(
        True, description="Whether stored keys that the query looks for the like of are left out of its hits."
    )
    exact: StrictBool = Field(
        False, description="Whether every key of the scope is compared: slower, and what the index loses is seen by it."
    )
    rerank: RerankRequest | None = Field(
        None, description="Has a cross-encoder rank the best hits again. Absent: the index's order."
    )
    snapshot: Text | None = Field(
        None,
        description="The `snapshot` of an earlier answer: this one is of the same moment of the index. Absent: now.",
    )
    min_score: StrictFloat | None = Field(
        None, ge=-1, le=1, allow_inf_nan=False, description="Hits whose score is lower are left out. Absent: none are."
    )
    include: Annotated[list[Text], _AtFirst()] | None = Field(
        None,
        description="What is shown of each hit: some of `text`, `metadata`, `metadata.NAME`, `image_urls`, `vector` "
        "and `part_scores`. Absent: `text`, `metadata` and `image_urls`.",
    )
    facets: Annotated[list[Text | FacetRequest] | None, SkipValidation()] = Field(
        None,
        min_length=1,
        max_length=MAX_FACETS,
        description="Fields whose values are counted, of all keys of the scope: those that `modalities`, `pool`, "
        "`filter`, `within` and `exclude` leave, whether or not they are hits. Absent: none.",
    )
    explain: StrictBool = Field(False, description="Whether the answer tells how it was made.")
    offset: StrictInt | None = Field(
        None,
        ge=0,
        description="How many hits (of groups: groups) come before the first of this answer; `offset + k` is at most "
        "`limits.max_depth`. Give it from the first page on, as 0, and the snapshot with each later one.",
    )
    cutoff: Literal["auto"] | None = Field(
        None, description="`auto` leaves out the irrelevant tail, by the shape of this query's scores. Absent: nothing."
    )
    group_by: Text | Annotated[list[Text], _AtFirst()] | None = Field(
        None,
        description="A member of the metadata, as filters name it, or `duplicates` for keys with nearly the same "
        "vector: `k` groups come back, the best of each. Absent: no groups.",
    )
    group_size: StrictInt | None = Field(None, description="Most hits of a group. Absent: 1.")
    duplicate_score: StrictFloat | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="From which cosine on keys are duplicates. Absent: 0.95."
    )
    diversity: StrictFloat | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much it counts that a hit differs from those before it (maximal marginal relevance). "
        "Absent: nothing.",
    )


class BatchRequest(BaseModel):
    """Queries that are answered together."""

    model_config = ConfigDict(
        extra="forbid",
        title="BatchRequest",
        json_schema_extra={"examples": [{"queries": [{"text": "a red mug", "k": 5}, {"text": "a blue one", "k": 5}]}]},
    )

    queries: list[SearchRequest] = Field(
        min_length=1, description="Each as the body of a POST /search; at most `limits.max_batch_queries` of GET /info."
    )


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


class VectorEncoding(StrEnum):
    """How a vector is written."""

    FLOAT = "float"
    BASE64 = "base64"


class EmbedItem(BaseModel):
    """An item to embed: a text, one or several images, or both fused."""

    model_config = ConfigDict(extra="forbid", title="EmbedItem")

    text: Text | None = Field(None, description="Text of the item. White space only counts as absent.")
    image: StrictStr | Annotated[list[StrictStr], _AtFirst()] | None = Field(
        None, description="Image, base64 or `data:image/...;base64,` URI; a list for several frames of one item."
    )
    text_weight: StrictFloat = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="The text's share when text and image are fused."
    )
    instruction: Text | None = Field(
        None,
        description="What the model is told to look for, in place of its own prompt; models that follow none refuse "
        "it. Absent: the model's own.",
    )


class EmbedRequest(BaseModel):
    """Items to embed. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        title="EmbedRequest",
        json_schema_extra={"examples": [{"items": [{"text": "a small red circle"}], "role": "query"}]},
    )

    items: list[EmbedItem] = Field(
        min_length=1,
        description="The items, at most `limits.max_embed_items` of GET /info; one that is wrong has an "
        "error of its own in the answer.",
    )
    role: Role = Field(
        Role.QUERY,
        description="What they are embedded for: many models prompt queries and keys differently. What is searched "
        "with is a query, what is stored is a key.",
    )
    encoding: VectorEncoding = Field(
        VectorEncoding.FLOAT, description="Vectors as lists of numbers, or as base64 of little-endian float32."
    )
    width: StrictInt | None = Field(
        None,
        description="How many numbers of each vector: one of `widths` of GET /info, to which the model was trained to "
        "be cut. Absent: all.",
    )


class ItemVector(BaseModel):
    """The vector of an item, or what is wrong with the item."""

    vector: list[float] | str | None = Field(description="Of unit norm; null where there is an error.")
    modality: Modality | None = Field(description="What the item is: text, image, or fused (both).")
    text_cut: bool = Field(
        description="Whether the text is longer than the model's context, so that its end was not used."
    )
    cached: bool = Field(description="Whether the vector came from the cache.")
    error: "ErrorDetail | None" = Field(description="What is wrong with this item, as for a request; else null.")


class EmbedResponse(BaseModel):
    """Vectors, in the order of the items."""

    items: list[ItemVector]
    role: Role
    encoding: VectorEncoding
    width: int = Field(description="Numbers of each vector.")
    num_tokens: int = Field(description="Image and text tokens of all items.")
    model: str
    model_fingerprint: str


class KeyResponse(BaseModel):
    """One key of the corpus."""

    key: str
    modality: Modality
    pools: list[str]
    seq: int | None = Field(
        description="Number of the change that stored it, which a change may depend on (`if_seq`, `If-Match`); null "
        "for a Milvus collection."
    )
    payload: HitPayload
    vector: list[float] | None = Field(None, description="Its unit vector, where `include=vector` asks for it.")


class FieldExtent(BaseModel):
    """Between which the values of a type lie."""

    min: Scalar
    max: Scalar


class FieldTypes(BaseModel):
    """How many keys have a value of each type; one with several counts for each."""

    boolean: int
    number: int
    date: int = Field(description="Strings that are dates, as filters compare them.")
    string: int = Field(description="All other strings.")


class FieldInfo(BaseModel):
    """What the keys really hold at one path of their metadata."""

    field: str = Field(description="As filters, facets and `group_by` name it.")
    num_keys: int = Field(description="Keys with a value of it.")
    types: FieldTypes
    num_values: int = Field(description="How many values there are, equal ones counted once; exact.")
    values: list[FacetValue] = Field(description="The ten most frequent ones.")
    numbers: FieldExtent | None = Field(description="The lowest and the highest number; null without any.")
    dates: FieldExtent | None = Field(description="The first and the last date; null without any.")


class FieldsResponse(BaseModel):
    """Fields of the metadata, those within an object before the object's own values."""

    fields: list[FieldInfo]
    cursor: str | None = Field(description="Gives the fields that follow; null at the end.")
    num_keys: int = Field(description="Keys of the scope.")
    index_version: str | None = Field(description="The index version that answered.")
    index_seq: int | None = Field(description="Number of the last change of the index that is in the answer.")


class FoldFailure(BaseModel):
    """The last failure to fold changes into a new version; searches go on, and take the changes from memory."""

    at: str = Field(description="When, ISO 8601, UTC.")
    kind: str = Field(description="What it was, in a few words; the writer's log has all of it.")
    num_failures: int = Field(description="How often in a row.")
    next_try_at: str = Field(description="When its writer tries again.")


class SearchTrial(BaseModel):
    """How fast searches are alone and together; times are milliseconds a search."""

    most_together: int = Field(description="How many searches that wait may share a call of the index.")
    alone_ms: float | None = Field(description="Each with a call of its own; null where it was not measured.")
    together_ms: dict[str, float] = Field(description="By how many share a call; empty where it was not measured.")


class SearchPace(BaseModel):
    """What decides how many searches share a call of the index, measured with random queries."""

    usual: SearchTrial = Field(description="Of searches by the index's structure.")
    exact: SearchTrial = Field(description="Of searches that compare every key.")


class IndexInfo(BaseModel):
    """The index being served, counted when it was asked for; an answer is given again for a second."""

    engine: str = Field(description="faiss for an index directory, milvus for a Milvus collection.")
    version: str | None = Field(description="The published version; null for a Milvus collection.")
    created_at: str | None = Field(description="When that was published; null for a Milvus collection.")
    num_keys: int
    modalities: dict[str, int] = Field(description="Number of keys of each modality.")
    pools: dict[str, int] = Field(description="Number of keys in each pool.")
    fold_failure: FoldFailure | None = Field(
        description="What is said of folding changes into a new version, while that fails; else null."
    )
    pace: SearchPace


class ModelInfo(BaseModel):
    """The loaded encoder."""

    name: str
    fingerprint: str
    width: int
    widths: list[int] = Field(
        description="Widths that vectors may be cut to, because the model was trained for it; none but its own: empty."
    )
    fusion: str
    context_length: int = Field(description="Most tokens of a text that are used, its start's and end's included.")
    device: str = Field(description="Where it computes: cpu, cuda, ...")
    backend: str = Field(description="Library that computes it: torch, compile, onnx or openvino.")
    precision: str = Field(description="Number format that it computes in: fp32, bf16, fp16 or int8.")
    why: str = Field(description="What was tried before these were chosen; empty where they were set.")


class RerankerInfo(BaseModel):
    """A loaded cross-encoder."""

    name: str = Field(description="What `rerank.model` of a search calls it.")
    fingerprint: str
    modalities: list[Modality] = Field(description="Kinds of query and key that it reads.")
    max_tokens: int = Field(description="Most tokens of a query's and a key's text together that are read.")
    device: str = Field(description="Where it computes: cpu, cuda, ...")


class Limits(BaseModel):
    """What a request may ask for."""

    max_k: int
    max_depth: int
    max_body_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_image_aspect: float
    max_images: int
    max_parts: int
    max_text_chars: int
    max_exclude: int
    max_within: int
    max_keys: int
    max_rerank_top: int
    max_batch_queries: int
    max_embed_items: int
    request_deadline_ms: float


class ReleaseInfo(BaseModel):
    """The release that answers."""

    number: str | None = Field(description="Its name; null where there are no releases.")
    created_at: str | None = Field(description="When it was published, ISO 8601, UTC.")
    note: str | None = Field(description="What whoever published it said of it.")
    problem: str | None = Field(description="Why the current release is not the one that answers; null if it is.")


class ChangesInfo(BaseModel):
    """What may be done to keys."""

    writable: bool = Field(description="Whether this service changes keys; one process at a time has the index's lock.")
    undo_s: float | None = Field(
        description="How long a change made with `undo=true` can be undone; null where it cannot be, as in a Milvus "
        "collection, which takes no conditions and idempotency keys either."
    )


class InfoResponse(BaseModel):
    """What is being served."""

    name: str
    version: str
    index: IndexInfo
    model: ModelInfo
    release: ReleaseInfo
    rerankers: list[RerankerInfo]
    limits: Limits
    changes: ChangesInfo
    memory: MemoryInfo
    counters: dict[str, dict[str, int]] = Field(
        description="Counters of the batcher, the cache and each reranker since start, and what is held now."
    )


class StatusResponse(BaseModel):
    """Answer of the health checks."""

    status: str


class ReadyResponse(StatusResponse):
    """Answer of the check whether searches are answered."""

    failing: dict[str, str] = Field(
        description="Where there are several indexes: why some do not answer, by the index's name."
    )
    problems: dict[str, str] = Field(
        description="What is wrong with indexes that answer, such as a release that cannot be loaded, by name."
    )


class ListedIndex(BaseModel):
    """One of the indexes that are served."""

    name: str = Field(description="What addresses call it: /indexes/NAME/search.")
    status: Literal["loading", "ready", "failing"]
    reason: str | None = Field(description="Why its searches are not answered; null when they are.")
    release: str | None = Field(description="The release that answers; null where there are none.")
    problem: str | None = Field(
        description="What is wrong though it answers, such as a release that cannot be loaded; else null."
    )
    encoder: str | None = Field(description="Fingerprint of its encoder, of those below `memory`; null if not loaded.")
    memory: IndexMemory | None = Field(description="What it holds; null if it does not answer.")
    left_changes: LeftChanges | None = Field(
        description="Changes that were made over HTTP to the release before, which this one has only if they were made "
        "before its index was copied; null if there were none."
    )


class AccessResponse(BaseModel):
    """What a caller may ask for."""

    keys_required: bool = Field(description="Whether requests need an API key.")
    name: str | None = Field(description="What the API key is called. Null: none was sent, or it is not taken.")
    scopes: list[Literal["search", "embed", "write", "admin"]] = Field(description="What the caller may do.")
    indexes: list[str] | None = Field(description="Indexes that the caller may see. Null: all.")


class IndexesResponse(BaseModel):
    """The indexes that are served."""

    default: str | None = Field(
        description="The one that addresses without a name mean. Null: the caller may not see it."
    )
    indexes: list[ListedIndex]
    memory: ProcessMemory


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str = Field(description="Stable name of the error.")
    message: str = Field(description="What was expected, what came, where.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail


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


class StageSummary(BaseModel):
    """How long a stage of requests took."""

    stage: str
    count: int = Field(description="How many times; those of a batch's queries count once each.")
    p50_ms: float
    p90_ms: float
    p99_ms: float
    share: float = Field(description="Of the time of all requests to that route; stages of a batch's queries overlap.")


class RouteSummary(BaseModel):
    """Where the time of a route's requests went."""

    index: str = Field(description="The index that answered; empty where none was asked.")
    route: str
    stages: list[StageSummary]


class MetricsSummary(BaseModel):
    """Where time goes."""

    recent_s: float = Field(description="What `recent` covers, about.")
    since_start: list[RouteSummary]
    recent: list[RouteSummary]
