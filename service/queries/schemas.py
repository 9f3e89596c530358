"""The wire format of searches, as they are asked for. Imports no torch.

Validation here knows no settings: bounds that operators choose are checked in `query.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic.json_schema import SkipJsonSchema

from anykey.encoder.item import Modality
from anykey.service.schemas import AtFirst, Text

DEFAULT_RERANK_TOP = 50
MAX_WEIGHT = 100.0
MAX_FACETS = 20  # of a query
MAX_FACET_VALUES = 1000  # of one
MAX_FACET_VALUES_TOGETHER = 2000
MAX_FACET_RANGES = 50  # of one


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
    vector: StrictStr | Annotated[list[StrictFloat], AtFirst()] | None = Field(
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

    image: StrictStr | FileInForm | Annotated[list[StrictStr | FileInForm], AtFirst()] | None = Field(
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

    image: StrictStr | Annotated[list[StrictStr], AtFirst()] | None = Field(
        None, description="Image, base64 or `data:image/...;base64,` URI; a list for several frames of one item."
    )
    parts: Annotated[list[PartRequest], AtFirst()] | None = Field(
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
    modalities: Annotated[list[Modality], AtFirst()] | None = Field(
        None, min_length=1, description="Only keys of these modalities. Absent: all."
    )
    pool: Text | None = Field(None, description="Only keys of this pool, see GET /info. Absent: the whole corpus.")
    exclude: Annotated[list[Text], AtFirst()] = Field(
        default_factory=list, description="Keys that must not come back; k hits are returned all the same."
    )
    filter: Any = Field(
        None,
        description='Only keys whose metadata fits, such as `{"field": "price", "lt": 20}`; see `Filter`. Absent: all.',
    )
    within: Annotated[list[Text], AtFirst()] | None = Field(
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
    include: Annotated[list[Text], AtFirst()] | None = Field(
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
    group_by: Text | Annotated[list[Text], AtFirst()] | None = Field(
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
