"""OpenAI's search of vector stores. A store is an index that is served, by its name, and a file is a key."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Condition
from anykey.index.filtering.filters import MAX_DEPTH, parse_condition
from anykey.index.key_index import Scope
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import write_json
from anykey.service.compat.content import item_part
from anykey.service.compat.fields import Served, read_fields, served_of
from anykey.service.compat.openapi import body_of, dialect_errors
from anykey.service.compat.searching import SEARCH_ERRORS, Found, Searches, answer_searches
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.include import Include
from anykey.service.queries.parts import finite_number
from anykey.service.queries.query import Query
from anykey.service.queries.wrong_values import shown

router = APIRouter(route_class=GuardedRoute, tags=["compat"])

COMPARISONS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin")
SHOWN = Include(image_urls=False)


class VectorStoreSearch(BaseModel):
    """What to search for. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(
        title="VectorStoreSearch", json_schema_extra={"examples": [{"query": "a red mug", "max_num_results": 5}]}
    )

    query: Any = Field(None, description="A text, or a list of texts whose mean is searched for.")
    image: Any = Field(None, description="An image as base64, which is fused with a text; not of OpenAI's own fields.")
    max_num_results: StrictInt | None = Field(None, description="How many results. Absent: 10.")
    filters: Any = Field(
        None, description="A comparison with `type`, `key` and `value`, or `and` or `or` of several `filters`."
    )
    ranking_options: Any = Field(None, description="`score_threshold`: results of a lower cosine are left out.")
    rewrite_query: StrictBool | None = Field(None, description="Only false: a query is searched for as it is.")


class VectorStoreText(BaseModel):
    """A text of a result."""

    type: str = Field(description="`text`.")
    text: str


class VectorStoreResult(BaseModel):
    """One result."""

    file_id: str = Field(description="The key.")
    filename: str = Field(description="The key once more.")
    score: float = Field(description="Cosine similarity.")
    attributes: dict[str, Any] = Field(description="The key's metadata.")
    content: list[VectorStoreText] = Field(description="The key's text, if it has one.")


class VectorStoreResponse(BaseModel):
    """The results, best first."""

    object: str = Field(description="`vector_store.search_results.page`.")
    search_query: list[str]
    data: list[VectorStoreResult]
    has_more: bool = Field(description="Always false: ask for more at once.")
    next_page: str | None


@router.post(
    "/v1/vector_stores/{index_name}/search",
    response_model=VectorStoreResponse,
    responses=dialect_errors(*SEARCH_ERRORS),
    openapi_extra=body_of(VectorStoreSearch),
)
async def search(request: Request, index_name: str) -> Response:
    """Searches an index for clients of OpenAI."""
    return await answer_searches(request, partial(_asked, served_of(request)))


def _asked(served: Served, body: bytearray) -> Searches:
    fields, limits = read_fields(body, VectorStoreSearch), served.limits
    if fields.rewrite_query:
        raise InvalidRequestError("rewrite_query: a query is searched for as it is; leave it out")
    texts = [fields.query] if isinstance(fields.query, str) else fields.query or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError(f"query: expected a text or a list of texts, got {shown(fields.query)}")
    if len(texts) > limits.max_parts:
        raise InvalidRequestError(f"query: at most {limits.max_parts} texts, got {len(texts)}")
    if fields.image is not None and len(texts) > 1:
        raise InvalidRequestError(f"image: expected at most one text beside it, got {len(texts)}")
    if fields.image is None and not texts:
        raise InvalidRequestError("query: expected a text, image, or both; both are absent")
    items: list[dict[str, Any]] = [{"text": text, "image": fields.image} for text in texts] or [{"image": fields.image}]
    k = 10 if fields.max_num_results is None else fields.max_num_results
    if not 1 <= k <= limits.max_k:
        raise InvalidRequestError(f"max_num_results must be a whole number from 1 to {limits.max_k}, got {k}")
    query = Query(
        tuple(item_part(item, f"query[{at}]" if len(items) > 1 else "query", limits) for at, item in enumerate(items)),
        k=k,
        scope=Scope(condition=None if fields.filters is None else _condition(fields.filters)),
        min_score=_threshold(fields.ranking_options),
        include=SHOWN,
        max_depth=limits.max_depth,
    )
    return Searches((query,), partial(_written, texts))


def _written(texts: Sequence[str], found: Sequence[Found]) -> bytes:
    data = [_result(hit) for hit in found[0].hits]
    head = {"object": "vector_store.search_results.page", "search_query": list(texts)}
    return write_json({**head, "data": data, "has_more": False, "next_page": None})


def _result(hit: dict[str, Any]) -> dict[str, Any]:
    payload = hit["payload"]
    content = [] if payload["text"] is None else [{"type": "text", "text": payload["text"]}]
    names = {"file_id": hit["key"], "filename": hit["key"]}
    return {**names, "score": hit["score"], "attributes": payload["metadata"], "content": content}


def _threshold(options: Any) -> float | None:
    if options is None:
        return None
    if isinstance(options, dict) and options.get("hybrid_search") is not None:
        raise InvalidRequestError("ranking_options.hybrid_search: results are found by vectors alone; leave it out")
    score = options.get("score_threshold") if isinstance(options, dict) else options
    if score is None:
        return None
    return finite_number(score, "ranking_options.score_threshold")


def _condition(filters: Any) -> Condition:
    try:
        return parse_condition(_translated(filters, "filters", 1))
    except InvalidFilterError as error:
        raise InvalidRequestError(f"filters, which here are a filter of metadata: {error}") from error


def _translated(value: Any, where: str, depth: int) -> dict[str, Any]:
    """A filter in our grammar."""
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        raise InvalidRequestError(f"{where}: expected an object, at most {MAX_DEPTH} deep, got {shown(value)}")
    kind = value.get("type")
    if kind in ("and", "or"):
        inner = value.get("filters")
        if not isinstance(inner, list):
            raise InvalidRequestError(f"{where}.filters: expected a list of filters, got {shown(inner)}")
        return {kind: [_translated(one, f"{where}.filters[{at}]", depth + 1) for at, one in enumerate(inner)]}
    if kind not in COMPARISONS:
        known = ", ".join([*COMPARISONS, "and", "or"])
        raise InvalidRequestError(f"{where}.type: expected one of {known}, got {shown(kind)}")
    positive = str({"ne": "eq", "nin": "in"}.get(kind, kind))
    condition: dict[str, Any] = {"field": value.get("key"), positive: value.get("value")}
    return condition if positive == kind else {"not": condition}
