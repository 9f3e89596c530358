"""The HTTP routes. Each validates, calls one part, and shapes the answer."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.address import check_parameters, key_in_path, parameters, prefix_of
from service.answers import with_hits, write_hits, write_key
from service.body import Take, parser_for, read_body
from service.context import REQUEST_ID, note
from service.errors import DeadlineExceededError
from service.lifecycle import Lifecycle
from service.lookups import ShownImage
from service.openapi import SEARCH_BODY, error_responses
from service.parts import Parts
from service.schemas import (
    IndexInfo,
    InfoResponse,
    KeyResponse,
    Limits,
    ModelInfo,
    SearchResponse,
    StatusResponse,
    Timings,
)
from service.searcher import SearchResult

T = TypeVar("T")
SEARCH_ERRORS = (
    "invalid_request",
    "item_too_large",
    "unsupported_media_type",
    "undecodable_image",
    "unsupported_modality",
    "overloaded",
    "internal",
    "not_ready",
    "index_unavailable",
    "deadline_exceeded",
)
KEY_ERRORS = (
    "invalid_request",
    "not_found",
    "overloaded",
    "internal",
    "not_ready",
    "index_unavailable",
    "deadline_exceeded",
)
INFO_ERRORS = ("internal", "not_ready", "index_unavailable", "deadline_exceeded")

router = APIRouter()
logger = logging.getLogger(__name__)


@router.post(
    "/search",
    response_model=SearchResponse,
    responses=error_responses(*SEARCH_ERRORS),
    openapi_extra=SEARCH_BODY,
    tags=["search"],
    dependencies=[Depends(parameters(hint="; send it in the body"))],
)
async def search(request: Request) -> Response:
    """Finds the keys that match a text, an image, or both best.

    Send JSON, or multipart/form-data with the image as a file. Text and image together are embedded as one
    fused query; `text_weight` shifts the balance.
    """
    started_s = time.monotonic()
    lifecycle = _lifecycle(request)
    parts = lifecycle.parts()
    parse = parser_for(request.headers, limits_of(lifecycle))
    write = partial(write_hits, prefix_of(request))

    async def find(take: Take) -> tuple[float, SearchResult[bytes]]:
        query = await parts.decode_threads.run(parse, body, take)
        read_s = time.monotonic() - started_s
        body.clear()
        note(request, query_modality=query.item.modality, k=query.k)
        return read_s, await parts.searcher.search(query, write)

    with lifecycle.bodies.share() as take:
        arriving = read_body(request, lifecycle.settings.max_body_bytes, take)
        body = await within(lifecycle.settings.body_deadline_ms / 1000, arriving, "whole body")
        note(request, body_bytes=len(body))
        in_time = within(lifecycle.settings.request_deadline_ms / 1000, find(take))
        read_s, result = await _unless_client_leaves(request, in_time)
    timings = _timings(result, read_s, time.monotonic() - started_s)
    note(request, cached=result.is_cached, num_hits=result.num_hits, timings_ms=timings.model_dump())
    answer = SearchResponse(
        hits=[],
        query_modality=result.modality,
        cached=result.is_cached,
        text_cut=result.is_text_cut,
        index_version=parts.index.version,
        model_fingerprint=parts.encoder.fingerprint,
        timings_ms=timings,
    )
    return Response(with_hits(answer, result.hits), media_type="application/json")


@router.get("/info", responses=error_responses(*INFO_ERRORS), tags=["operation"], dependencies=[Depends(parameters())])
async def info(request: Request) -> InfoResponse:
    """Says which index and which model are served, and what a request may ask for."""
    lifecycle = _lifecycle(request)
    parts = lifecycle.parts()
    encoder = parts.encoder
    try:
        facts = await parts.facts.answer()
    except TimeoutError as error:
        raise DeadlineExceededError("the keys are still being counted; ask again") from error
    return InfoResponse(
        name="anykey",
        version=_own_version(),
        index=IndexInfo(
            engine=facts.engine,
            version=facts.details.get("version"),
            created_at=facts.details.get("created_at"),
            num_keys=facts.num_keys,
            modalities={str(name): count for name, count in facts.modalities.items()},
            pools=facts.pools,
            fold_failure=facts.details.get("fold_failure"),
        ),
        model=ModelInfo(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            width=encoder.width,
            fusion=str(encoder.fusion),
            context_length=encoder.context_length,
        ),
        limits=limits_of(lifecycle),
        counters={"batcher": parts.batcher.counters(), "cache": parts.cache.counters()},
    )


@router.get("/livez", tags=["operation"])
async def livez() -> StatusResponse:
    """Answers as long as the process serves requests at all."""
    return StatusResponse(status="alive")


@router.get("/readyz", responses=error_responses("not_ready", "index_unavailable"), tags=["operation"])
async def readyz(request: Request) -> StatusResponse:
    """Answers 200 when searches are answered, else 503 with the reason."""
    _lifecycle(request).parts().watch.require_sound()
    return StatusResponse(status="ready")


KeyPath = Annotated[str, Path(description="The key, percent-encoded (a slash in it as %2F).")]


@router.get(
    "/keys/{key:path}/image",
    responses={
        200: {"description": "The image as it was indexed.", "content": {"image/*": {"schema": {"type": "string"}}}},
        304: {"description": "The image is the one named in If-None-Match."},
        **error_responses(*KEY_ERRORS, "image_not_reached"),
    },
    response_class=Response,
    tags=["keys"],
    dependencies=[Depends(parameters("position"))],
)
async def get_image(
    request: Request,
    key: KeyPath,
    position: Annotated[int, Query(ge=0, le=1_000_000, description="Which of the key's images, from 0.")] = 0,
) -> Response:
    """Gives one image of a key, as it was indexed."""
    parts = _lifecycle(request).parts()
    name, is_image = key_in_path(request)
    if not is_image:  # the key itself ends with "/image"
        check_parameters(request)
        return await _key(request, parts, name)
    image = await parts.lookups.image(name, position, str(request.scope.get(REQUEST_ID, "")))
    return _image_response(request, image)


@router.get(
    "/keys/{key:path}",
    response_model=KeyResponse,
    responses=error_responses(*KEY_ERRORS),
    tags=["keys"],
    dependencies=[Depends(parameters())],
)
async def get_key(request: Request, key: KeyPath) -> Response:
    """Gives one key with its modality, pools and payload."""
    parts = _lifecycle(request).parts()
    return await _key(request, parts, key_in_path(request)[0])


def limits_of(lifecycle: Lifecycle) -> Limits:
    """What a request may ask for, from the settings."""
    return Limits.model_validate(lifecycle.settings.model_dump(include=set(Limits.model_fields)))


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


async def _key(request: Request, parts: Parts, key: str) -> Response:
    written = await parts.lookups.key(key, partial(write_key, prefix_of(request)))
    return Response(written, media_type="application/json")


def _image_response(request: Request, image: ShownImage) -> Response:
    """The image with what keeps a browser from running it and lets it keep it."""
    headers = {
        "etag": image.etag,
        "cache-control": "public, max-age=60",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if image.etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(image.data, media_type=image.media_type, headers=headers)


def _timings(result: SearchResult[bytes], read_s: float, total_s: float) -> Timings:
    stages = result.stages
    seconds = (read_s, stages.decode, stages.queue, stages.encode, stages.search, total_s)
    return Timings(**dict(zip(Timings.model_fields, (round(s * 1000, 3) for s in seconds), strict=True)))


async def within(deadline_s: float, work: Coroutine[Any, Any, T], result: str = "answer") -> T:
    """The work's result, which is called `result` in the message.

    Raises:
        DeadlineExceededError: it took longer than `deadline_s`, and was cancelled.
    """
    try:
        async with asyncio.timeout(deadline_s):
            return await work
    except TimeoutError as error:
        raise DeadlineExceededError(f"no {result} within {deadline_s * 1000:g} ms") from error


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the work is cancelled when the client goes away first.

    Raises:
        ClientDisconnect: the client went away.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait([working, watching])


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _own_version() -> str:
    try:
        return version("anykey")
    except PackageNotFoundError:
        return "0+unknown"
