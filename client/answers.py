"""What the service answers, typed. Members that a newer service adds are kept, and found as attributes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["text", "image", "fused"]


class Answer(BaseModel):
    """Root of the answers; each never changes."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Payload(Answer):
    """What a key carries besides its vector."""

    text: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    image_urls: list[str] = Field(default_factory=list)


class PartScores(Answer):
    """How well a hit matches one part of the query: the cosine with all of it, its text and its images."""

    score: float
    text: float | None
    image: float | None


class HitGroup(Answer):
    """The group that a hit is of, and how many more of its hits were looked at."""

    value: str | int | float | bool | None
    num_folded: int


class Hit(Answer):
    """One result; `score` is the cosine similarity, higher is better, and null for a query of words alone."""

    key: str
    score: float | None
    rank: int
    modality: Modality
    payload: Payload
    words_score: float | None = None
    rerank_score: float | None = None
    vector: list[float] | None = None
    part_scores: list[PartScores] | None = None
    group: HitGroup | None = None


class Reranking(Answer):
    """The cross-encoder that put hits in order, how many it was given, and how many it could read."""

    model: str
    fingerprint: str
    num_candidates: int
    num_scored: int


class Cutoff(Answer):
    """From which score on hits were kept, and how many were left out."""

    score: float | None
    num_cut: int


class GroupSearch(Answer):
    """How many hits were looked at for groups, and whether more could not have changed the answer."""

    num_candidates: int
    is_complete: bool


class ValueCount(Answer):
    """A value of a field, and how many keys have it."""

    value: str | int | float | bool
    num_keys: int


class RangeCount(Answer):
    """Bounds as they were asked for, and how many keys have a value within."""

    gt: str | int | float | None = None
    gte: str | int | float | None = None
    lt: str | int | float | None = None
    lte: str | int | float | None = None
    num_keys: int


class Facet(Answer):
    """What a field has in the scope of a search: its most frequent values, or counts of ranges, whichever was asked."""

    field: str
    num_keys: int
    num_missing: int
    values: list[ValueCount] | None
    num_other_values: int | None
    ranges: list[RangeCount] | None


class Extent(Answer):
    """The lowest and the highest value of a field."""

    min: str | int | float
    max: str | int | float


class FieldInfo(Answer):
    """A field of the metadata; `types` says how many keys have a value of each type."""

    field: str
    num_keys: int
    types: dict[str, int]
    num_values: int
    values: list[ValueCount]
    numbers: Extent | None
    dates: Extent | None


class FieldsPage(Answer):
    """Fields of the metadata, and what gives those behind them."""

    fields: list[FieldInfo]
    cursor: str | None
    num_keys: int
    index_version: str | None = None
    index_seq: int | None = None
    notes: list[str] = Field(default_factory=list)


class SearchAnswer(Answer):
    """Hits, best first, and what was answered of."""

    hits: list[Hit]
    facets: list[Facet] | None = None
    query_modality: Modality | None = None
    cached: bool
    result_cached: bool = False
    text_cut: bool
    num_below_min_score: int | None = None
    notes: list[str] = Field(default_factory=list)
    release: str | None = None
    index_version: str | None
    index_seq: int | None = None
    snapshot: str | None = None
    query_id: str | None = None
    model_fingerprint: str
    explanation: dict[str, Any] | None = None
    reranking: Reranking | None = None
    cutoff: Cutoff | None = None
    grouping: GroupSearch | None = None
    timings_ms: dict[str, float]

    @property
    def keys(self) -> list[str]:
        """The keys of the hits, best first."""
        return [hit.key for hit in self.hits]


class ErrorDetail(Answer):
    """Why one of several things failed."""

    type: str
    message: str
    request_id: str = ""


class FailedQuery(Answer):
    """A query of a batch that was not answered."""

    error: ErrorDetail


class BatchAnswer(Answer):
    """What became of each query of a batch, in their order."""

    answers: list[SearchAnswer | FailedQuery]
    timings_ms: dict[str, float] = Field(default_factory=dict)


class StoredKey(Answer):
    """One key of the corpus; `seq` is the number of the change that stored it."""

    key: str
    modality: Modality
    pools: list[str]
    payload: Payload
    seq: int | None = None
    vector: list[float] | None = None


class KeysPage(Answer):
    """Keys in the order of their names, and what gives those behind them."""

    keys: list[StoredKey]
    cursor: str | None
    notes: list[str] = Field(default_factory=list)


class KeyOutcome(Answer):
    """What became of one key: stored, deleted or failed, and why."""

    key: str | None
    status: Literal["stored", "deleted", "failed"]
    seq: int | None
    is_new: bool = False
    text_cut: bool | None = None
    error: ErrorDetail | None = None
    release: str | None = None
    undo_s: float | None = None


class StreamSummary(Answer):
    """How a stream of keys ended; `error` says why it was broken off, with lines left that were not read."""

    done: bool
    num_lines: int
    num_stored: int
    num_failed: int
    seq: int | None
    error: ErrorDetail | None


class ChangesAnswer(Answer):
    """What became of several keys, in the order of the request."""

    outcomes: list[KeyOutcome]
    num_stored: int
    num_failed: int
    seq: int | None


class Deleted(Answer):
    """How many keys were deleted, or would be."""

    num_deleted: int
    dry_run: bool
    seq: int | None
    release: str | None = None
    notes: list[str] = Field(default_factory=list)


class Count(Answer):
    """How many keys are in a scope."""

    num_keys: int
    notes: list[str] = Field(default_factory=list)


class ItemVector(Answer):
    """The unit vector of an item, or what is wrong with the item."""

    vector: list[float] | None
    modality: Modality | None
    text_cut: bool
    cached: bool
    error: ErrorDetail | None


class EmbedAnswer(Answer):
    """Vectors, in the order of the items."""

    items: list[ItemVector]
    role: Literal["query", "key"]
    width: int
    num_tokens: int
    model: str
    model_fingerprint: str

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors; raises `ValueError` if one item has none."""
        vectors = [item.vector for item in self.items]
        if failed := [number for number, vector in enumerate(vectors) if vector is None]:
            error = self.items[failed[0]].error
            raise ValueError(f"item {failed[0]} was not embedded: {error.message if error else 'nobody says why'}")
        return [vector for vector in vectors if vector is not None]


class Info(Answer):
    """What is served; `index`, `model` and `limits` are as GET /info has them."""

    name: str
    version: str
    index: dict[str, Any]
    model: dict[str, Any]
    limits: dict[str, Any]
    changes: dict[str, Any] = {}


class LeftChanges(Answer):
    """Changes that were made to the release before, and that the one that answers may not have."""

    release: str
    num_changes: int


class ListedIndex(Answer):
    """One of the indexes that are served."""

    name: str
    status: str
    reason: str | None
    release: str | None = None
    problem: str | None = None
    encoder: str | None = None
    memory: dict[str, Any] | None = None
    left_changes: LeftChanges | None = None


class AccessAnswer(Answer):
    """What the caller may ask for; `indexes` is null where it may see all."""

    keys_required: bool
    name: str | None
    scopes: list[str]
    indexes: list[str] | None


class IndexesAnswer(Answer):
    """The indexes that are served, and which one addresses without a name mean, if the caller may see it."""

    default: str | None
    indexes: list[ListedIndex]
    memory: dict[str, Any] | None = None
