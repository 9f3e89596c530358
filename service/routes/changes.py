"""Keys that are stored, changed and deleted while the service runs."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response
from starlette.types import Receive, Scope, Send

from anykey.index.changes import ABSENT, PRESENT, Delete, Patch, RequestKey
from anykey.service.access.guard import GuardedRoute
from anykey.service.errors import InvalidRequestError, MethodNotAllowedError, UnsupportedMediaTypeError
from anykey.service.indexes.parts import Parts
from anykey.service.keys.changes import (
    KeysToStore,
    RefusedKey,
    deletion_from_json,
    digest_of,
    keys_from_form,
    keys_from_json,
    patch_from_json,
    undo_from_json,
)
from anykey.service.keys.schemas import ChangesResponse, DeletedResponse, KeyOutcome
from anykey.service.keys.storing import REPLAYED, StoredKeys
from anykey.service.keys.stream import MEDIA_TYPES, KeyStream
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.openapi import DELETE_BODY, KEYS_BODY, ONE_KEY_BODY, PATCH_BODY, UNDO_BODY, error_responses
from anykey.service.requests.address import check_parameters, key_in_path
from anykey.service.requests.body import (
    Inflater,
    checked_media_type,
    has_body,
    is_quick,
    media_type_of,
    read_body,
    reader_for,
)
from anykey.service.requests.context import note
from anykey.service.requests.deadline import within
from anykey.service.requests.exchange import read_here
from anykey.service.routes.keys import KeyPath

T = TypeVar("T")
WRITE_ERRORS = (
    "invalid_request",
    "not_found",
    "read_only",
    "index_locked",
    "precondition_failed",
    "item_too_large",
    "unsupported_media_type",
    "idempotency_key_reused",
    "overloaded",
    "internal",
    "not_ready",
    "too_many_connections",
    "index_unavailable",
    "deadline_exceeded",
)
EMBED_ERRORS = (*WRITE_ERRORS, "undecodable_image", "unsupported_modality")
MAX_IDEMPOTENCY_CHARS = 255
ENTITY_TAG = re.compile(r'\s*(?:W/)?"(\d{1,18})"\s*')

router = APIRouter(route_class=GuardedRoute)

Undo = Annotated[
    bool, Query(description="Keeps what was there before for a while, so that POST /keys/undo can undo it.")
]


@router.put(
    "/keys",
    response_model=ChangesResponse | KeyOutcome,
    responses=error_responses(*EMBED_ERRORS),
    openapi_extra=KEYS_BODY,
    tags=["changes"],
)
async def put_keys(request: Request) -> Response:
    """Stores one key, a list of keys, or a stream of them, in place of those of the same names.

    A list is answered with 200 and an outcome for each key, whether it was stored or not, unless `atomic` asks for all
    or nothing. A stream (`application/x-ndjson`) has a key a line and is answered line by line while it arrives.
    """
    if media_type_of(request.headers) in MEDIA_TYPES:
        return _stream(request)
    check_parameters(request, hint=_hint(request, "PUT /keys/{key}"))
    async with _keys_of_body(request, None) as wanted:
        stored = await _stored(request, wanted)
    if not wanted.is_list:
        return _one(stored.outcomes[0], stored.is_repeat)
    num_failed = sum(outcome.error is not None for outcome in stored.outcomes)
    note(request, num_stored=len(stored.outcomes) - num_failed, num_failed=num_failed)
    answer = ChangesResponse(
        outcomes=list(stored.outcomes),
        num_stored=len(stored.outcomes) - num_failed,
        num_failed=num_failed,
        seq=stored.seq,
    )
    written = await parts_of(request).change_threads.run(answer.model_dump_json)
    return _answered(written, stored.is_repeat)


@router.put(
    "/keys/{key:path}",
    response_model=KeyOutcome,
    responses=error_responses(*EMBED_ERRORS, "method_not_allowed"),
    openapi_extra=ONE_KEY_BODY,
    tags=["changes"],
)
async def put_key(request: Request, key: KeyPath, undo: Undo = False) -> Response:
    """Stores one key in place of the one of its name; with JSON, or a form whose images are files."""
    check_parameters(request, "undo", hint="; send it in the body")
    async with _keys_of_body(request, _key_to_change(request), undo) as wanted:
        stored = await _stored(request, wanted)
    return _one(stored.outcomes[0], stored.is_repeat)


@router.patch(
    "/keys/{key:path}",
    response_model=KeyOutcome,
    responses=error_responses(*WRITE_ERRORS, "method_not_allowed"),
    openapi_extra=PATCH_BODY,
    tags=["changes"],
)
async def patch_key(request: Request, key: KeyPath, undo: Undo = False) -> Response:
    """Changes a key's metadata and pools; its vector, text and images stay, so nothing is embedded again."""
    check_parameters(request, "undo", hint="; send it in the body")
    name = _key_to_change(request)
    async with _body(request, partial(patch_from_json, key=name)) as (patch, digest):
        if_seq = _condition(request, patch.if_seq)
        asked = _request_key(request, f"PATCH {name} {if_seq}", digest)
        return await _changed(request, replace(patch, if_seq=if_seq, keeps_earlier=undo), asked)


@router.delete(
    "/keys/{key:path}",
    response_model=KeyOutcome,
    responses=error_responses(*WRITE_ERRORS, "method_not_allowed"),
    tags=["changes"],
)
async def delete_key(request: Request, key: KeyPath, undo: Undo = False) -> Response:
    """Deletes one key."""
    check_parameters(request, "undo")
    name = _key_to_change(request)
    if has_body(request.headers):
        raise InvalidRequestError("expected no body; what must be stored is said by If-Match")
    if_seq = _condition(request, None)
    asked = _request_key(request, f"DELETE {name} {if_seq}", b"")
    return await _changed(request, Delete(name, if_seq, undo), asked)


@router.post(
    "/keys/delete",
    response_model=DeletedResponse,
    responses=error_responses(*WRITE_ERRORS),
    openapi_extra=DELETE_BODY,
    tags=["changes"],
)
async def delete_keys(request: Request) -> Response:
    """Deletes the keys that are named, or those in a scope, and says how many they were; `dry_run` only counts them."""
    check_parameters(request, hint=_hint(request, "DELETE /keys/{key}"))
    _refuse_conditions(request, "DELETE /keys/{key} takes them")
    parts = parts_of(request)
    async with _body(request, partial(deletion_from_json, limits=lifecycle_of(request).limits)) as wanted:
        asked = None if wanted.dry_run else _request_key(request, "POST /keys/delete", wanted.digest)
        notes = await parts.lookups.notes(wanted.scope)  # before: a field may go with the last key that had it
        applied = await within(_deadline_s(request), parts.storer.delete(wanted, asked), "deletion")
    note(request, num_deleted=applied.num_deleted)
    release = None if wanted.dry_run else parts.storer.release
    answer = DeletedResponse(
        num_deleted=applied.num_deleted,
        dry_run=wanted.dry_run,
        seq=applied.seq,
        release=release,
        notes=[] if applied.is_repeat else notes,
    )
    return _answered(answer.model_dump_json(), applied.is_repeat)


@router.post(
    "/keys/undo",
    response_model=KeyOutcome,
    responses=error_responses(*WRITE_ERRORS),
    openapi_extra=UNDO_BODY,
    tags=["changes"],
)
async def undo_change(request: Request) -> Response:
    """Takes a change back that was made with `undo=true`: its key is again as it was before.

    Unless another change of the key came since: then the answer is 412, and nothing is changed.
    """
    check_parameters(request, hint="; send it in the body")
    _refuse_conditions(request, "a change is taken back only while its key is as it left it")
    async with _body(request, undo_from_json) as (seq, digest):
        asked = _request_key(request, "POST /keys/undo", digest)
        undoing = parts_of(request).storer.undo(seq, asked)
        outcome, is_repeat = await within(_deadline_s(request), undoing, "end of the change")
    return _one(outcome, is_repeat)


async def _stored(request: Request, wanted: KeysToStore) -> StoredKeys:
    asked = _request_key(request, "PUT", wanted.digest)
    return await within(_deadline_s(request), parts_of(request).storer.store(wanted, asked), "end of the changes")


async def _changed(request: Request, change: Patch | Delete, asked: RequestKey | None) -> Response:
    changing = parts_of(request).storer.change(change, asked)
    outcome, is_repeat = await within(_deadline_s(request), changing, "end of the change")
    return _one(outcome, is_repeat)


def _one(outcome: KeyOutcome, is_repeat: bool) -> Response:
    """The answer about one key, with the entity tag that a later change may depend on."""
    response = _answered(outcome.model_dump_json(), is_repeat)
    if outcome.seq is not None and outcome.status == "stored":
        response.headers["etag"] = f'"{outcome.seq}"'
    return response


def _answered(written: str, is_repeat: bool) -> Response:
    return Response(written, media_type="application/json", headers=REPLAYED if is_repeat else None)


@asynccontextmanager
async def _keys_of_body(request: Request, name: str | None, keeps_earlier: bool = False) -> AsyncIterator[KeysToStore]:
    """What the body wants stored, with what the headers say about the only key."""
    limits = lifecycle_of(request).limits
    reading = _body(
        request,
        lambda body: keys_from_json(body, name, limits),
        lambda body, content_type: keys_from_form(body, content_type, name, limits),
    )
    async with reading as wanted:
        await lifecycle_of(request).rate_limits.spend_images(request.scope, wanted)
        only = wanted.keys[0]
        if wanted.is_list or isinstance(only, RefusedKey):
            _refuse_conditions(request, "in a list each key may have an if_seq")
            yield wanted
        else:
            if_seq = _condition(request, only.if_seq)
            digest = digest_of([wanted.digest.hex(), only.key, if_seq])
            yield replace(wanted, keys=(replace(only, if_seq=if_seq, keeps_earlier=keeps_earlier),), digest=digest)


@asynccontextmanager
async def _body(
    request: Request,
    from_json: Callable[[bytearray], T],
    from_form: Callable[[bytearray, str], T] | None = None,
) -> AsyncIterator[T]:
    """What a body says, with the index's lock for the length of the block.

    A request is refused before its body is read where the service cannot change keys, and its body counts as held until
    what it asks for is done.
    """
    lifecycle, parts = lifecycle_of(request), parts_of(request)
    parse = reader_for(request.headers, lifecycle.limits, from_json=from_json, from_form=from_form)
    async with parts.storer.writer.held():
        with lifecycle.bodies.share() as take:
            arriving = read_body(request, lifecycle.settings.max_body_bytes, take)
            body = await within(lifecycle.settings.body_deadline_ms / 1000, arriving, "whole body")
            note(request, body_bytes=len(body))
            run = read_here if is_quick(body, request.headers) else parts.change_threads.run
            yield await lifecycle.image_fetcher.read(partial(parse, body, take), run, take)


def _key_to_change(request: Request) -> str:
    name, is_image = key_in_path(request)
    if is_image:
        raise MethodNotAllowedError(
            "an image is changed with its key, so this address takes GET and HEAD; a slash in a key is %2F"
        )
    if not name.strip():
        raise InvalidRequestError("expected a key in the address that is not blank")
    return name


def _hint(request: Request, of_one_key: str) -> str:
    """What to do instead of a parameter of this address."""
    return f"; {of_one_key} takes it" if "undo" in request.query_params else "; send it in the body"


def _refuse_conditions(request: Request, instead: str) -> None:
    """Refuses the headers that say what must be stored, where there is not one key that they are about."""
    if "if-match" in request.headers or "if-none-match" in request.headers:
        raise InvalidRequestError(f"If-Match and If-None-Match are for one key; {instead}")


def _condition(request: Request, if_seq: int | None) -> int | None:
    """What must be stored under the key's name: as the body says, or the headers.

    Raises:
        InvalidRequestError: it is said twice, or in another form.
    """
    said = [value for name in ("if-match", "if-none-match") for value in request.headers.getlist(name)]
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is None and none_match is None:
        return if_seq
    if len(said) + (if_seq is not None) > 1:
        raise InvalidRequestError("expected one of If-Match, If-None-Match and if_seq, once")
    if none_match is not None:
        if none_match.strip() != "*":
            raise InvalidRequestError("If-None-Match of a change must be *: only if there is no such key")
        return ABSENT
    assert match is not None
    if match.strip() == "*":
        return PRESENT
    found = ENTITY_TAG.fullmatch(match)
    if found is None:
        raise InvalidRequestError('If-Match must be one entity tag, such as "17", or *')
    return int(found[1])


def _request_key(request: Request, what: str, digest: bytes) -> RequestKey | None:
    """By what the request is known if it is repeated: its name, and all that it says."""
    name = _idempotency_key(request)
    return None if name is None else RequestKey(name, digest_of([what, digest.hex()]))


def _idempotency_key(request: Request) -> str | None:
    names = request.headers.getlist("idempotency-key")
    if not names:
        return None
    name = names[0].strip()
    if len(names) > 1 or not 1 <= len(name) <= MAX_IDEMPOTENCY_CHARS or not name.isascii() or not name.isprintable():
        raise InvalidRequestError(
            f"Idempotency-Key must be given once and have 1 to {MAX_IDEMPOTENCY_CHARS} ASCII characters"
        )
    return name


def _deadline_s(request: Request) -> float:
    return lifecycle_of(request).settings.change_deadline_ms / 1000


def _stream(request: Request) -> Response:
    """The answer to a stream, which is read while it is answered.

    Raises:
        InvalidRequestError: a parameter, header or condition that a stream does not take.
    """
    check_parameters(request, "outcomes")
    outcomes = request.query_params.get("outcomes", "all")
    if outcomes not in ("all", "failed"):
        raise InvalidRequestError("outcomes must be all or failed")
    checked_media_type(request.headers, sorted(MEDIA_TYPES))
    _refuse_conditions(request, "in a stream each line may have an if_seq")
    if _idempotency_key(request) is not None:
        raise InvalidRequestError(
            "Idempotency-Key is not for a stream, which is stored piece by piece; to send it again is safe"
        )
    lifecycle, parts = lifecycle_of(request), parts_of(request)
    transfer = request.headers.get("transfer-encoding", "").strip().lower()
    if transfer not in ("", "chunked", "identity"):
        raise UnsupportedMediaTypeError(f"expected Transfer-Encoding chunked or none, got {transfer[:80]!a}")
    stream = KeyStream(
        parts.storer,
        lifecycle.limits,
        threads=parts.change_threads,
        pause_s=lifecycle.settings.body_deadline_ms / 1000,
        only_failed=outcomes == "failed",
        inflater=Inflater.of(",".join(request.headers.getlist("content-encoding"))),
        fetcher=lifecycle.image_fetcher,
        spend=partial(lifecycle.rate_limits.spend_images, request.scope),
    )
    return _StreamedAnswer(request, parts, stream)


class _StreamedAnswer(Response):
    """A response that is written while the request's body is read."""

    def __init__(self, request: Request, parts: Parts, stream: KeyStream) -> None:
        super().__init__()
        self._request = request
        self._parts = parts
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads and answers."""
        lifecycle = lifecycle_of(self._request)
        with lifecycle.bodies.share() as take:
            take(lifecycle.settings.max_body_bytes)
            try:
                await self._stream.run(receive, send)
            finally:
                note(self._request, **self._stream.counts)
