"""Qdrant's routes that change points. What a point's payload is, is its key's metadata, as it was sent."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from anykey.index.changes import Patch
from anykey.index.errors import InvalidKeyError
from anykey.index.hits import StoredKey
from anykey.index.key_index import EVERYTHING, Scope
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import WrittenAnswer
from anykey.service.compat.fields import Served, read_fields, served_of
from anykey.service.compat.openapi import body_of, dialect_errors
from anykey.service.compat.qdrant.filters import scope_of
from anykey.service.compat.qdrant.points import QdrantRequest, key_of, keys_of, path_of, without, write_result
from anykey.service.compat.qdrant.reading import QdrantAnswer
from anykey.service.compat.qdrant.searches import read_item, vector_or_none
from anykey.service.errors import InvalidRequestError, ItemTooLargeError, from_type
from anykey.service.keys.changes import (
    KeysToDelete,
    KeysToStore,
    KeyToStore,
    unit_vector,
)
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.queries.wrong_values import shown
from anykey.service.requests.body import json_parser
from anykey.service.requests.context import QDRANT, note
from anykey.service.requests.exchange import exchange
from anykey.service.requests.kept_json import check_kept
from anykey.service.routes.changes import EMBED_ERRORS, WRITE_ERRORS

T = TypeVar("T", bound=BaseModel)
router = APIRouter(route_class=GuardedRoute, tags=["compat", QDRANT])

BATCH = ("ids", "vectors", "payloads")
PARAMETERS = ("wait", "ordering", "timeout")  # every answer comes when the change is durable, in its order


class QdrantPoints(QdrantRequest):
    """Points to store in place of those of the same ids."""

    model_config = ConfigDict(
        title="QdrantPoints",
        json_schema_extra={
            "examples": [
                {
                    "points": [
                        {"id": "sku-7", "vector": {"text": "a red mug", "model": "anykey"}, "payload": {"price": 7}}
                    ]
                }
            ]
        },
    )

    points: list[Any] | None = Field(
        None, description="Objects with `id`, `vector` (numbers, or an object for the model to embed) and `payload`."
    )
    batch: Any = Field(None, description="In place of `points`: lists of `ids`, `vectors` and `payloads`.")
    update_filter: Any = Field(None, description="Only absent.")
    update_mode: StrictStr | None = Field(None, description="Only `upsert`.")


class QdrantSelector(QdrantRequest):
    """Which points are meant: those named, or those that a filter leaves."""

    model_config = ConfigDict(title="QdrantSelector", json_schema_extra={"examples": [{"points": ["sku-7"]}]})

    points: list[Any] | None = Field(None, description="Their ids.")
    filter: Any = Field(None, description="In place of `points`: a filter with at least one condition.")


class QdrantPayload(QdrantSelector):
    """Members of the payload to store, and of which points."""

    model_config = ConfigDict(
        title="QdrantPayload", json_schema_extra={"examples": [{"payload": {"price": 5}, "points": ["sku-7"]}]}
    )

    payload: dict[str, Any] | None = Field(None, description="The members.")
    key: Any = Field(None, description="Only absent: members are those of the payload itself.")


class QdrantPayloadKeys(QdrantSelector):
    """Members of the payload to remove, and of which points."""

    model_config = ConfigDict(
        title="QdrantPayloadKeys", json_schema_extra={"examples": [{"keys": ["price"], "points": ["sku-7"]}]}
    )

    keys: list[StrictStr] | None = Field(None, description="Paths of the members, such as `a.b`.")


class QdrantFieldIndex(BaseModel):
    """A field of the payload that is to be filtered by."""

    model_config = ConfigDict(title="QdrantFieldIndex", json_schema_extra={"examples": [{"field_name": "lang"}]})

    field_name: StrictStr | None = Field(None, description="Its path.")


@router.put(
    "/collections/{index_name}/points",
    response_model=QdrantAnswer,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(QdrantPoints),
)
async def upsert(request: Request, index_name: str) -> Response:
    """Stores points for clients of Qdrant, all of them or none where the engine can."""
    served, parts = served_of(request), parts_of(request)

    async def store(fields: QdrantPoints) -> int | None:
        def read() -> KeysToStore:
            keys = _points_of(fields, served)
            return KeysToStore(keys, True, parts.index.capabilities.is_atomic, b"")

        lifecycle = lifecycle_of(request)
        with lifecycle.bodies.share() as take:
            wanted = await lifecycle.image_fetcher.read(read, parts.change_threads.run, take)
        note(request, num_keys=len(wanted.keys))
        await lifecycle_of(request).rate_limits.spend_images(request.scope, wanted)
        stored = await parts.storer.store(wanted, None)
        for outcome in stored.outcomes:
            if outcome.error is not None:
                raise from_type(outcome.error.type, outcome.error.message)
        return stored.seq

    return await _change(request, QdrantPoints, store)


@router.post(
    "/collections/{index_name}/points/delete",
    response_model=QdrantAnswer,
    responses=dialect_errors(*WRITE_ERRORS),
    openapi_extra=body_of(QdrantSelector),
)
async def delete(request: Request, index_name: str) -> Response:
    """Deletes points for clients of Qdrant, by their ids or a filter."""
    served = served_of(request)

    async def work(fields: QdrantSelector) -> int | None:
        keys, scope = _selected(fields, served)
        wanted = KeysToDelete(keys, scope, False, b"")
        applied = await parts_of(request).storer.delete(wanted, None)
        note(request, num_deleted=applied.num_deleted)
        return applied.seq

    return await _change(request, QdrantSelector, work)


@router.post(
    "/collections/{index_name}/points/payload",
    response_model=QdrantAnswer,
    responses=dialect_errors(*WRITE_ERRORS),
    openapi_extra=body_of(QdrantPayload),
)
async def set_payload(request: Request, index_name: str) -> Response:
    """Stores members of payloads beside the others, for clients of Qdrant."""

    def changed(fields: QdrantPayload, metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {**metadata, **_payload_of(fields)}

    return await _change_payloads(request, QdrantPayload, changed)


@router.put(
    "/collections/{index_name}/points/payload",
    response_model=QdrantAnswer,
    responses=dialect_errors(*WRITE_ERRORS),
    openapi_extra=body_of(QdrantPayload),
)
async def overwrite_payload(request: Request, index_name: str) -> Response:
    """Stores payloads in place of those that there are, for clients of Qdrant."""

    def changed(fields: QdrantPayload, _metadata: Mapping[str, Any]) -> dict[str, Any]:
        return _payload_of(fields)

    return await _change_payloads(request, QdrantPayload, changed)


@router.post(
    "/collections/{index_name}/points/payload/delete",
    response_model=QdrantAnswer,
    responses=dialect_errors(*WRITE_ERRORS),
    openapi_extra=body_of(QdrantPayloadKeys),
)
async def delete_payload(request: Request, index_name: str) -> Response:
    """Removes members of payloads, for clients of Qdrant."""

    def changed(fields: QdrantPayloadKeys, metadata: Mapping[str, Any]) -> dict[str, Any]:
        if not fields.keys:
            raise InvalidRequestError("keys: expected paths of members of the payload; they are absent")
        left = dict(metadata)
        for place, path in enumerate(fields.keys):
            left = without(left, path_of(path, f"keys[{place}]"))
        return left

    return await _change_payloads(request, QdrantPayloadKeys, changed)


@router.post(
    "/collections/{index_name}/points/payload/clear",
    response_model=QdrantAnswer,
    responses=dialect_errors(*WRITE_ERRORS),
    openapi_extra=body_of(QdrantSelector),
)
async def clear_payload(request: Request, index_name: str) -> Response:
    """Removes payloads, for clients of Qdrant."""

    def changed(_fields: QdrantSelector, _metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    return await _change_payloads(request, QdrantSelector, changed)


@router.put(
    "/collections/{index_name}/index",
    response_model=QdrantAnswer,
    responses=dialect_errors("invalid_request", "not_found", "not_ready", "index_unavailable"),
    openapi_extra=body_of(QdrantFieldIndex),
)
async def create_field_index(request: Request, index_name: str) -> Response:
    """Tells clients of Qdrant that a field can be filtered by, as every field can."""
    lifecycle, parts, started_s = lifecycle_of(request), parts_of(request), time.monotonic()

    async def answer(fields: QdrantFieldIndex) -> Response:
        if fields.field_name is None:
            raise InvalidRequestError("field_name: expected the path of a field; it is absent")
        return WrittenAnswer([write_result({"operation_id": 0, "status": "completed"}, started_s)])

    read = partial(read_fields, model=QdrantFieldIndex)
    parse = json_parser(request.headers, lifecycle.limits, read, absent="application/json")
    deadline_ms = lifecycle.settings.request_deadline_ms
    return await exchange(request, parts.body_threads, parse, answer, deadline_ms, *PARAMETERS)


async def _change(request: Request, model: type[T], work: Callable[[T], Awaitable[int | None]]) -> Response:
    """Answers a request that changes something; `work` gives the number of the last change.

    It is refused before its body is read where the service cannot change keys.
    """
    lifecycle, parts, started_s = lifecycle_of(request), parts_of(request), time.monotonic()

    async def answer(fields: T) -> Response:
        seq = await work(fields)
        return WrittenAnswer([write_result({"operation_id": seq or 0, "status": "completed"}, started_s)])

    read = partial(read_fields, model=model)
    parse = json_parser(request.headers, lifecycle.limits, read, absent="application/json")
    deadline_ms = lifecycle.settings.change_deadline_ms
    async with parts.storer.writer.held():
        return await exchange(request, parts.change_threads, parse, answer, deadline_ms, *PARAMETERS)


async def _change_payloads(
    request: Request, model: type[T], changed: Callable[[T, Mapping[str, Any]], dict[str, Any]]
) -> Response:
    """Stores what `changed` makes of the fields and a point's metadata, for each of the points that are selected."""
    served, parts = served_of(request), parts_of(request)

    async def work(fields: Any) -> int | None:
        seq = None
        changed(fields, {})  # refuses what is wrong before anything is looked up
        for stored in await _looked_up(request, fields, served):
            metadata = changed(fields, stored.payload.metadata)
            try:
                patch = Patch(stored.key, metadata, overwrites=True, if_seq=stored.seq)
            except InvalidKeyError as error:
                raise InvalidRequestError(str(error)) from error
            outcome, _ = await parts.storer.change(patch, None)
            seq = outcome.seq
        return seq

    return await _change(request, model, work)


async def _looked_up(request: Request, fields: QdrantSelector, served: Served) -> list[StoredKey]:
    """The points that are selected; those named that there are not are left out, as Qdrant does."""
    keys, scope = _selected(fields, served)
    most = served.limits.max_within
    if keys is not None:
        scope = Scope(within=frozenset(keys))
    page = await parts_of(request).lookups.page(None, most + 1, scope, list)
    if len(page) > most:
        raise InvalidRequestError(f"filter: payloads of at most {most} points are changed at once; it leaves more")
    return page


def _selected(fields: QdrantSelector, served: Served) -> tuple[tuple[str, ...] | None, Scope]:
    """Names of points, or the scope that a filter describes."""
    if (fields.points is None) == (fields.filter is None):
        raise InvalidRequestError("expected points or filter, got " + ("neither" if fields.points is None else "both"))
    if fields.points is not None:
        return tuple(keys_of(fields.points, served.limits.max_within, "points")), EVERYTHING
    scope = scope_of(fields.filter, "filter", served.limits)
    if scope == EVERYTHING:
        raise InvalidRequestError(
            'filter: expected at least one condition; POST /keys/delete with "all": true empties an index'
        )
    return None, scope


def _payload_of(fields: QdrantPayload) -> dict[str, Any]:
    if fields.payload is None:
        raise InvalidRequestError("payload: expected an object; it is absent")
    if fields.key is not None:
        raise InvalidRequestError("key: only members of the payload itself are set, not those of a part of it")
    check_kept(fields.payload, "payload")
    return fields.payload


def _points_of(fields: QdrantPoints, served: Served) -> tuple[KeyToStore, ...]:
    if fields.update_filter is not None or fields.update_mode not in (None, "upsert"):
        raise InvalidRequestError("update_filter and update_mode: points are stored in place of those of their ids")
    if (fields.points is None) == (fields.batch is None):
        raise InvalidRequestError("expected points or batch, got " + ("neither" if fields.points is None else "both"))
    points = _of_batch(fields.batch) if fields.points is None else fields.points
    if not points:
        raise InvalidRequestError("points: expected at least one, got none")
    if len(points) > served.limits.max_keys:
        raise ItemTooLargeError(f"points: {len(points)}, at most {served.limits.max_keys} are accepted")
    return tuple(_point(point, served, f"points[{place}]") for place, point in enumerate(points))


def _of_batch(batch: Any) -> list[dict[str, Any]]:
    """The points that lists of the same length describe."""
    ids, vectors, payloads = (batch.get(name) if isinstance(batch, dict) else None for name in BATCH)
    if isinstance(vectors, dict):
        vectors = vectors.get("") if len(vectors) == 1 else None
    if not isinstance(ids, list) or not isinstance(vectors, list):
        raise InvalidRequestError("batch: expected lists of ids and of vectors without a name")
    if payloads is None:
        payloads = [None] * len(ids)
    if not isinstance(payloads, list) or not len(ids) == len(vectors) == len(payloads):
        raise InvalidRequestError("batch: expected as many ids as vectors and payloads")
    names = ("id", "vector", "payload")
    return [dict(zip(names, values, strict=True)) for values in zip(ids, vectors, payloads, strict=True)]


def _point(point: Any, served: Served, where: str) -> KeyToStore:
    if not isinstance(point, dict):
        raise InvalidRequestError(f"{where}: expected an object with id, vector and payload, got {shown(point)}")
    payload = point.get("payload") or {}
    if not isinstance(payload, dict):
        raise InvalidRequestError(f"{where}.payload: expected an object, got {shown(payload)}")
    check_kept(payload, f"{where}.payload")
    key = KeyToStore(key_of(point.get("id"), f"{where}.id"), metadata=payload, where=where)
    vector = point.get("vector")
    numbers = vector_or_none(vector, f"{where}.vector")
    if numbers is not None:
        return replace(key, vector_D=unit_vector(numbers, f"{where}.vector"))
    if isinstance(vector, dict) and len(vector) == 1 and isinstance(vector.get(""), dict):
        vector = vector[""]
    if not isinstance(vector, dict):
        came = shown(vector)
        raise InvalidRequestError(f"{where}.vector: expected numbers, or an object for the model to embed; got {came}")
    if any(_is_of_numbers(one) for one in vector.values()):
        names = ", ".join(map(shown, list(vector)[:5]))
        raise InvalidRequestError(f"{where}.vector: each point has one vector, without a name; got {names}")
    item = read_item(vector, served, f"{where}.vector").item
    images: Sequence[bytes] = [image for image in item.images if isinstance(image, bytes)]
    return replace(key, text=item.text, images=tuple(images))


def _is_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)
