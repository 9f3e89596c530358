"""The search."""

import time
from functools import partial

from fastapi import APIRouter, Request, Response

from anykey.service.answers.answering import Asker, answer, answer_all, in_ms, written_batch
from anykey.service.answers.schemas import BatchResponse, BatchTimings, SearchResponse
from anykey.service.answers.written import WrittenAnswer
from anykey.service.errors import ServiceError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.openapi import BATCH_BODY, SEARCH_BODY, error_responses
from anykey.service.queries.query import Query, queries_from_json
from anykey.service.requests.address import prefix_of
from anykey.service.requests.body import json_parser, parser_for
from anykey.service.requests.context import REQUEST_ID, note
from anykey.service.requests.exchange import exchange
from anykey.service.routes.direct import DirectRoute

SEARCH_ERRORS = (
    "invalid_request",
    "not_found",
    "snapshot_expired",
    "item_too_large",
    "unsupported_media_type",
    "undecodable_image",
    "unsupported_modality",
    "overloaded",
    "internal",
    "not_ready",
    "too_many_connections",
    "index_unavailable",
    "deadline_exceeded",
)

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/search",
    response_model=SearchResponse,
    responses=error_responses(*SEARCH_ERRORS),
    openapi_extra=SEARCH_BODY,
    tags=["search"],
)
async def search(request: Request) -> Response:
    """Finds the keys that match a text, an image, or both best, or a stored key, a vector, or weighted parts of these.

    Send JSON, or multipart/form-data with the image as a file. Text and image together are embedded as one
    fused query; `text_weight` shifts the balance.
    """
    started_s = time.monotonic()
    lifecycle, parts = lifecycle_of(request), parts_of(request)

    async def answer_it(query: Query) -> Response:
        read_s = time.monotonic() - started_s
        note(request, k=query.k)
        found = await answer(parts, query, asker_of(request))
        fields, timings = found.fields, found.fields.timings_ms
        timings.read, timings.total = in_ms(read_s), in_ms(time.monotonic() - started_s)
        note(request, query_modality=fields.query_modality, cached=fields.cached, num_hits=found.num_hits)
        note(request, timings_ms=timings.model_dump())
        return WrittenAnswer(found.written())

    parse = parser_for(request.headers, lifecycle.limits, lifecycle.known_queries)
    deadline_ms = lifecycle.settings.request_deadline_ms
    return await exchange(request, parts.body_threads, parse, answer_it, deadline_ms, admission=parts.admission)


@router.post(
    "/search/batch",
    response_model=BatchResponse,
    responses=error_responses(*SEARCH_ERRORS),
    openapi_extra=BATCH_BODY,
    tags=["search"],
)
async def search_batch(request: Request) -> Response:
    """Answers many queries together, which takes far less than one after the other.

    Send JSON. The queries share the batches of the encoder, and those that differ in nothing but what they look for
    share calls of the index. Each has its own answer, or its own error.
    """
    started_s = time.monotonic()
    lifecycle = lifecycle_of(request)
    parts, limits, deadline_ms = parts_of(request), lifecycle.limits, lifecycle.settings.request_deadline_ms
    parse = json_parser(request.headers, limits, partial(queries_from_json, limits=limits))

    async def answer_them(queries: list[Query | ServiceError]) -> Response:
        read_s = time.monotonic() - started_s
        answers = await answer_all(parts, queries, asker_of(request), deadline_ms / 1000)
        num_errors = sum(isinstance(one, ServiceError) for one in answers)
        note(request, num_queries=len(queries), num_errors=num_errors)
        timings = BatchTimings(read=in_ms(read_s), total=in_ms(time.monotonic() - started_s))
        request_id = str(request.scope.get(REQUEST_ID, ""))
        return WrittenAnswer(await parts.body_threads.run(written_batch, answers, timings, request_id))

    # Each query has the deadline of a request, beyond which it is answered with an error.
    return await exchange(request, parts.body_threads, parse, answer_them, 2 * deadline_ms, admission=parts.admission)


def asker_of(request: Request) -> Asker:
    """What answers to a request depend on besides its query."""
    return Asker(prefix_of(request), str(request.scope.get(REQUEST_ID, "")))
