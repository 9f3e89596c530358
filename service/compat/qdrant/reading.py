"""Qdrant's routes that search and look up. A collection is an index that is served, by its name."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from anykey.index.hits import StoredKey
from anykey.program.machine import release
from anykey.service.access.callers import caller_of
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import WrittenAnswer
from anykey.service.compat.fields import checked_fields, read_fields, served_of
from anykey.service.compat.openapi import body_of, dialect_errors
from anykey.service.compat.qdrant.filters import scope_of
from anykey.service.compat.qdrant.points import QdrantRequest, Shown, id_of, key_of, keys_of, read_shown, write_result
from anykey.service.compat.qdrant.searches import (
    QdrantGroupsQuery,
    QdrantQuery,
    QdrantSearch,
    read_groups,
    read_search,
)
from anykey.service.compat.searching import SEARCH_ERRORS, Found, Searches, answer_searches
from anykey.service.errors import DeadlineExceededError, InvalidRequestError, NotFoundError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.requests.address import check_parameters, image_urls, prefix_of
from anykey.service.requests.body import json_parser
from anykey.service.requests.context import QDRANT
from anykey.service.requests.exchange import exchange

router = APIRouter(route_class=GuardedRoute, tags=["compat", QDRANT])

PARAMETERS = ("consistency", "timeout")  # there is one answer, and it has a deadline of its own
ERRORS = dialect_errors(*SEARCH_ERRORS)
QDRANT_VERSION = "1.20.0"  # whose clients are driven against these routes; they warn of one that is far from their own
DEFAULT_PAGE = 10


class QdrantQueries(BaseModel):
    """Several searches."""

    model_config = ConfigDict(
        title="QdrantQueries",
        json_schema_extra={"examples": [{"searches": [{"query": {"text": "a mug", "model": "anykey"}, "limit": 3}]}]},
    )

    searches: list[Any] | None = Field(None, description="Each as for `POST /collections/NAME/points/query`.")


class QdrantScroll(QdrantRequest):
    """Which points to list."""

    model_config = ConfigDict(title="QdrantScroll", json_schema_extra={"examples": [{"limit": 10}]})

    filter: Any = Field(None, description="Which points. Absent: all.")
    limit: StrictInt | None = Field(None, description="Most points. Absent: 10.")
    offset: Any = Field(None, description="The id of the first point, as `next_page_offset` tells it.")
    with_payload: Any = Field(None, description="Whether payloads are shown, or which members of them. Absent: yes.")
    with_vector: Any = Field(None, description="Whether vectors are shown. Absent: no.")
    order_by: Any = Field(None, description="Only absent: points come in the order of their ids as strings.")


class QdrantIds(QdrantRequest):
    """Which points to give."""

    model_config = ConfigDict(title="QdrantIds", json_schema_extra={"examples": [{"ids": ["sku-7"]}]})

    ids: list[Any] | None = Field(None, description="Their ids; those that there are not are left out.")
    with_payload: Any = Field(None, description="Whether payloads are shown, or which members of them. Absent: yes.")
    with_vector: Any = Field(None, description="Whether vectors are shown. Absent: no.")


class QdrantCount(QdrantRequest):
    """Which points to count."""

    model_config = ConfigDict(title="QdrantCount", json_schema_extra={"examples": [{"exact": True}]})

    filter: Any = Field(None, description="Which points. Absent: all.")
    exact: StrictBool | None = Field(None, description="Every answer is exact.")


class QdrantAnswer(BaseModel):
    """An answer as Qdrant's clients read it."""

    result: Any = Field(description="What was asked for.")
    status: str = Field(description="`ok`.")
    time: float = Field(description="Seconds.")


class QdrantVersion(BaseModel):
    """What Qdrant's clients ask before anything else."""

    title: str
    version: str = Field(description="The version of Qdrant whose clients these routes are tested with.")
    anykey: str = Field(description="AnyKey's own version.")


@router.get("/", responses=dialect_errors("invalid_request"))
async def version(request: Request) -> QdrantVersion:
    """Tells clients of Qdrant which version of it they may think that they talk to."""
    check_parameters(request)
    return QdrantVersion(title="anykey - speaks a part of qdrant", version=QDRANT_VERSION, anykey=release())


@router.get("/collections", responses=dialect_errors("invalid_request"))
async def collections(request: Request) -> QdrantAnswer:
    """Names the indexes that are served, for clients of Qdrant."""
    check_parameters(request)
    named = [{"name": name} for name in _seen(request)]
    return QdrantAnswer(result={"collections": named}, status="ok", time=0.0)


@router.get("/collections/{index_name}/exists", responses=dialect_errors("invalid_request"))
async def exists(request: Request, index_name: str) -> QdrantAnswer:
    """Tells clients of Qdrant whether there is an index of this name."""
    check_parameters(request)
    return QdrantAnswer(result={"exists": index_name in _seen(request)}, status="ok", time=0.0)


@router.get("/collections/{index_name}", responses=ERRORS)
async def collection(request: Request, index_name: str) -> QdrantAnswer:
    """Tells clients of Qdrant how many points an index has, and of which width.

    What they insist on reading, and what nothing here has, is zero.
    """
    check_parameters(request)
    parts, started_s = parts_of(request), time.monotonic()
    try:
        facts = await parts.facts.answer()
    except TimeoutError as error:
        raise DeadlineExceededError("the keys are still being counted; ask again") from error
    result = {
        "status": "green",
        "optimizer_status": "ok",
        "points_count": facts.num_keys,
        "indexed_vectors_count": facts.num_keys,
        "segments_count": 1,
        "config": {
            "params": {"vectors": {"size": parts.encoder.width, "distance": "Cosine"}},
            "hnsw_config": {"m": 0, "ef_construct": 0, "full_scan_threshold": 0},
            "optimizer_config": {"default_segment_number": 1, "flush_interval_sec": 0},
        },
        "payload_schema": {},
    }
    return QdrantAnswer(result=result, status="ok", time=round(time.monotonic() - started_s, 6))


@router.api_route("/collections/{index_name}", methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)
async def change_collection(index_name: str) -> None:
    """Tells clients of Qdrant that would make, change or remove a collection where collections come from."""
    raise InvalidRequestError(
        "collections are the indexes that this service serves, and are not made, changed or removed over HTTP; "
        "make an index with `anykey-index build`"
    )


@router.post(
    "/collections/{index_name}/points/query",
    response_model=QdrantAnswer,
    responses=ERRORS,
    openapi_extra=body_of(QdrantQuery),
)
async def query(request: Request, index_name: str) -> Response:
    """Searches an index for clients of Qdrant."""
    served = served_of(request)

    def read(body: bytearray) -> Searches:
        search = read_search(read_fields(body, QdrantQuery), served)
        return _searches([search], lambda found: write_result(_points(found[0], search.shown), found[0].started_s))

    return await answer_searches(request, read, *PARAMETERS)


@router.post(
    "/collections/{index_name}/points/query/batch",
    response_model=QdrantAnswer,
    responses=ERRORS,
    openapi_extra=body_of(QdrantQueries),
)
async def query_batch(request: Request, index_name: str) -> Response:
    """Answers several searches together for clients of Qdrant; all of them, or none."""
    served = served_of(request)

    def read(body: bytearray) -> Searches:
        values = read_fields(body, QdrantQueries).searches or []
        most = served.limits.max_batch_queries
        if not 1 <= len(values) <= most:
            raise InvalidRequestError(f"searches: expected from 1 to {most} of them, got {len(values)}")
        places = [f"searches[{number}]" for number in range(len(values))]
        fields = [checked_fields(value, QdrantQuery, at) for value, at in zip(values, places, strict=True)]
        searches = [read_search(each, served, at) for each, at in zip(fields, places, strict=True)]

        def write(found: Sequence[Found]) -> bytes:
            results = [_points(one, search.shown) for one, search in zip(found, searches, strict=True)]
            return write_result(results, found[0].started_s)

        return _searches(searches, write)

    return await answer_searches(request, read, *PARAMETERS)


@router.post(
    "/collections/{index_name}/points/query/groups",
    response_model=QdrantAnswer,
    responses=ERRORS,
    openapi_extra=body_of(QdrantGroupsQuery),
)
async def query_groups(request: Request, index_name: str) -> Response:
    """Searches an index for the best groups of points, for clients of Qdrant."""
    served = served_of(request)

    def read(body: bytearray) -> Searches:
        search = read_groups(read_fields(body, QdrantGroupsQuery), served)
        return _searches([search], lambda found: write_result(_groups(found[0], search.shown), found[0].started_s))

    return await answer_searches(request, read, *PARAMETERS)


@router.post(
    "/collections/{index_name}/points/scroll",
    response_model=QdrantAnswer,
    responses=ERRORS,
    openapi_extra=body_of(QdrantScroll),
)
async def scroll(request: Request, index_name: str) -> Response:
    """Lists points in the order of their ids as strings, for clients of Qdrant."""
    served, started_s = served_of(request), time.monotonic()

    async def answer(fields: QdrantScroll) -> Response:
        showing = read_shown(fields.with_payload, fields.with_vector, default=True)
        scope = scope_of(fields.filter, "filter", served.limits)
        limit = DEFAULT_PAGE if fields.limit is None else fields.limit
        if not 1 <= limit <= served.limits.max_depth:
            raise InvalidRequestError(f"limit must be a whole number from 1 to {served.limits.max_depth}, got {limit}")
        if fields.order_by is not None:
            raise InvalidRequestError("order_by: points come in the order of their ids as strings")
        lookups = parts_of(request).lookups
        page: list[StoredKey] = []
        after = None
        if fields.offset is not None:
            after = key_of(fields.offset, "offset")
            within = frozenset({after}) if scope.within is None else frozenset({after}).intersection(scope.within)
            page = await lookups.page(None, 1, replace(scope, within=within), list)
        page += await lookups.page(after, limit + 1 - len(page), scope, list)
        following = id_of(page[limit].key) if len(page) > limit else None
        stored = page[:limit]
        if showing.vector:
            stored = await _stored(request, [one.key for one in stored], with_vector=True)
        prefix = prefix_of(request)

        def write() -> bytes:
            points = [_record(prefix, one, showing) for one in stored]
            return write_result({"points": points, "next_page_offset": following}, started_s)

        return WrittenAnswer([await parts_of(request).body_threads.run(write)])

    return await _look_up(request, QdrantScroll, answer)


@router.post(
    "/collections/{index_name}/points",
    response_model=QdrantAnswer,
    responses=ERRORS,
    openapi_extra=body_of(QdrantIds),
)
async def retrieve(request: Request, index_name: str) -> Response:
    """Gives points by their ids, for clients of Qdrant."""
    served, started_s = served_of(request), time.monotonic()

    async def answer(fields: QdrantIds) -> Response:
        showing = read_shown(fields.with_payload, fields.with_vector, default=True)
        keys = list(dict.fromkeys(keys_of(fields.ids or [], served.limits.max_keys, "ids")))
        stored, prefix = await _stored(request, keys, with_vector=showing.vector), prefix_of(request)

        def write() -> bytes:
            return write_result([_record(prefix, one, showing) for one in stored], started_s)

        return WrittenAnswer([await parts_of(request).body_threads.run(write)])

    return await _look_up(request, QdrantIds, answer)


@router.post(
    "/collections/{index_name}/points/count",
    response_model=QdrantAnswer,
    responses=ERRORS,
    openapi_extra=body_of(QdrantCount),
)
async def count(request: Request, index_name: str) -> Response:
    """Counts points, for clients of Qdrant."""
    served, started_s = served_of(request), time.monotonic()

    async def answer(fields: QdrantCount) -> Response:
        num_points = await parts_of(request).lookups.count(scope_of(fields.filter, "filter", served.limits))
        return WrittenAnswer([write_result({"count": num_points}, started_s)])

    return await _look_up(request, QdrantCount, answer)


def _seen(request: Request) -> list[str]:
    """Names of the indexes that the caller may see."""
    caller = caller_of(request.scope)
    return [served.name for served in lifecycle_of(request).indexes.all() if caller.may_see(served.name)]


async def _look_up(request: Request, model: type[Any], answer: Any) -> Response:
    """Answers a request that looks something up, given its fields."""
    lifecycle, threads = lifecycle_of(request), parts_of(request).body_threads
    read = partial(read_fields, model=model)
    parse = json_parser(request.headers, lifecycle.limits, read, absent="application/json")
    return await exchange(request, threads, parse, answer, lifecycle.settings.request_deadline_ms, *PARAMETERS)


async def _stored(request: Request, keys: Sequence[str], *, with_vector: bool) -> list[StoredKey]:
    """Those of the keys that there are, in this order."""
    found = []
    for key in keys:
        try:
            found.append(await parts_of(request).lookups.key(key, _itself, with_vector=with_vector))
        except NotFoundError:
            continue
    return found


def _itself(stored: StoredKey) -> StoredKey:
    return stored


def _searches(searches: Sequence[QdrantSearch], write: Any) -> Searches:
    return Searches(tuple(search.query for search in searches), write)


def _record(prefix: str, stored: StoredKey, showing: Shown) -> dict[str, Any]:
    payload = stored.payload
    record: dict[str, Any] = {"id": id_of(stored.key)}
    if showing.payload:
        urls = image_urls(prefix, stored.key, payload.num_images)
        record["payload"] = showing.payload_of(payload.text, payload.metadata, urls)
    if showing.vector and stored.vector_D is not None:
        record["vector"] = stored.vector_D.tolist()
    return record


def _points(found: Found, showing: Shown) -> dict[str, Any]:
    return {"points": [_scored(hit, showing) for hit in found.hits]}


def _groups(found: Found, showing: Shown) -> dict[str, Any]:
    """The points group by group, in the order of the groups; 1 and "1" are two of them."""
    groups = []
    for _, hits in itertools.groupby(found.hits, lambda hit: json.dumps(hit["group"]["value"])):
        of_group = list(hits)
        points = [_scored(hit, showing) for hit in of_group]
        groups.append({"id": _group_id(of_group[0]["group"]["value"]), "hits": points})
    return {"groups": groups}


def _group_id(value: Any) -> str | int:
    """A field's value as the id of a group: Qdrant's clients take strings and whole numbers."""
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return value if is_id else json.dumps(value)


def _scored(hit: dict[str, Any], showing: Shown) -> dict[str, Any]:
    point: dict[str, Any] = {"id": id_of(hit["key"]), "version": 0, "score": hit["score"]}
    if showing.payload:
        payload = hit["payload"]
        point["payload"] = showing.payload_of(payload["text"], payload["metadata"], payload["image_urls"])
    if "vector" in hit:
        point["vector"] = hit["vector"]
    return point
