"""The search."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from anykey.service.address import check_parameters, prefix_of
from anykey.service.answers import WrittenAnswer, with_hits, write_hits
from anykey.service.body import is_quick, parser_for, read_body
from anykey.service.context import REQUEST_ID, note
from anykey.service.deadline import within
from anykey.service.embedding import Embedded
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.openapi import SEARCH_BODY, error_responses
from anykey.service.parts import Parts
from anykey.service.query import Query
from anykey.service.reranking import LoadedReranker
from anykey.service.schemas import Reranking, SearchResponse, Timings
from anykey.service.searching import Found

SEARCH_ERRORS = (
    "invalid_request",
    "snapshot_expired",
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

router = APIRouter()


@router.post(
    "/search",
    response_model=SearchResponse,
    responses=error_responses(*SEARCH_ERRORS),
    openapi_extra=SEARCH_BODY,
    tags=["search"],
)
async def search(request: Request) -> Response:
    """Finds the keys that match a text, an image, or both best.

    Send JSON, or multipart/form-data with the image as a file. Text and image together are embedded as one
    fused query; `text_weight` shifts the balance.
    """
    started_s = time.monotonic()
    check_parameters(request, hint="; send it in the body")
    lifecycle = lifecycle_of(request)
    parts, settings = parts_of(request), lifecycle.settings
    parse = parser_for(request.headers, lifecycle.limits)
    with lifecycle.bodies.share() as take:
        arriving = read_body(request, settings.max_body_bytes, take)
        body = await within(settings.body_deadline_ms / 1000, arriving, "whole body")
        note(request, body_bytes=len(body))
        async with _while_client_waits(request):
            finding = _find(request, parts, partial(parse, body, take), body, started_s)
            answer, hits = await within(settings.request_deadline_ms / 1000, finding)
    answer.timings_ms.total = _ms(time.monotonic() - started_s)
    note(request, timings_ms=answer.timings_ms.model_dump())
    return WrittenAnswer(with_hits(answer, hits))


async def _find(
    request: Request, parts: Parts, parse: Callable[[], Query], body: bytearray, started_s: float
) -> tuple[SearchResponse, bytes]:
    """The answer without its hits and its total time, and the hits as JSON; empties the body."""
    query = parse() if is_quick(body, request.headers) else await parts.decode_threads.run(parse)
    read_s = time.monotonic() - started_s
    body.clear()
    note(request, k=query.k)
    reranker = None if query.rerank is None else parts.rerankers.named(query.rerank.model)
    if reranker is not None:
        reranker.check_query(query)
    embedded = await parts.embedder.embed(query)
    note(request, query_modality=embedded.modality)
    ranked = await (
        _search(parts, query, embedded, prefix_of(request))
        if reranker is None
        else _search_and_rerank(request, parts, query, embedded, reranker)
    )
    note(request, cached=embedded.is_cached, num_hits=ranked.num_hits)
    answer = SearchResponse(
        hits=[],
        query_modality=embedded.modality,
        cached=embedded.is_cached,
        text_cut=embedded.is_text_cut,
        index_version=ranked.found.version,
        index_seq=ranked.found.seq,
        snapshot=ranked.found.snapshot,
        model_fingerprint=parts.encoder.fingerprint,
        reranking=ranked.reranking,
        timings_ms=Timings(
            read=_ms(read_s),
            decode=_ms(embedded.decode_s),
            queue=_ms(embedded.queue_s),
            encode=_ms(embedded.encode_s),
            search=_ms(ranked.search_s),
            rerank=_ms(ranked.rerank_s),
            total=0.0,
        ),
    )
    return answer, ranked.written


@dataclass(frozen=True)
class _Ranked:
    """Hits as JSON, how many they are, what they were chosen from, how they were ranked, and how long both took."""

    written: bytes
    num_hits: int
    found: Found
    search_s: float
    rerank_s: float = 0.0
    reranking: Reranking | None = None


async def _search(parts: Parts, query: Query, embedded: Embedded, prefix: str) -> _Ranked:
    """The hits in the index's order."""
    started_s = time.monotonic()
    written, found = await parts.searcher.search(
        embedded.vector_D,
        embedded.modality,
        query.k,
        query.scope,
        partial(_write, prefix),
        query.exact,
        query.snapshot,
    )
    return _Ranked(written, len(found.hits), found, time.monotonic() - started_s)


async def _search_and_rerank(
    request: Request, parts: Parts, query: Query, embedded: Embedded, reranker: LoadedReranker
) -> _Ranked:
    """More hits than are wanted, and of them the best by the reranker."""
    assert query.rerank is not None
    assert query.item is not None
    started_s = time.monotonic()
    found = await parts.searcher.search(
        embedded.vector_D,
        embedded.modality,
        query.rerank.top,
        query.scope,
        _as_found,
        query.exact,
        query.snapshot,
    )
    hits = found.hits
    found_s = time.monotonic()
    ranked = await reranker.rerank(query.item, hits, str(request.scope.get(REQUEST_ID, "")))
    best = ranked[: query.k]
    scores = [one.score for one in best]
    written = await parts.decode_threads.run(write_hits, prefix_of(request), [one.hit for one in best], scores)
    reranking = Reranking(
        model=reranker.scorer.name,
        fingerprint=reranker.scorer.fingerprint,
        num_candidates=len(hits),
        num_scored=sum(one.score is not None for one in ranked),
    )
    return _Ranked(written, len(best), found, found_s - started_s, time.monotonic() - found_s, reranking)


def _write(prefix: str, found: Found) -> tuple[bytes, Found]:
    return write_hits(prefix, found.hits), found


def _as_found(found: Found) -> Found:
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


@asynccontextmanager
async def _while_client_waits(request: Request) -> AsyncIterator[None]:
    """Cancels the block when the client goes away.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.current_task()
    assert task is not None
    watching = asyncio.create_task(_cancel_when_client_leaves(request, task))
    try:
        yield
    except asyncio.CancelledError:
        if watching.done() and task.uncancel() == 0:  # else somebody else cancels too, such as a server that stops
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


async def _cancel_when_client_leaves(request: Request, task: "asyncio.Task[Any]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
