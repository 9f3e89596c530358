"""Vectors of items, in our own words."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from anykey.encoder.protocol import ItemEncoder
from anykey.service.answers.written import WrittenAnswer, write_json
from anykey.service.embedding.asked import ItemsToEmbed, items_from_json
from anykey.service.embedding.query_embedder import EmbeddedPart
from anykey.service.embedding.schemas import EmbedResponse, VectorEncoding
from anykey.service.embedding.vectors import cut_vector, width_of, written_vector
from anykey.service.errors import ServiceError
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.openapi import embed_body, error_responses
from anykey.service.requests.body import json_parser
from anykey.service.requests.context import REQUEST_ID, note
from anykey.service.requests.exchange import exchange
from anykey.service.routes.direct import DirectRoute

EMBED_ERRORS = (
    "invalid_request",
    "item_too_large",
    "unsupported_media_type",
    "overloaded",
    "internal",
    "not_ready",
    "too_many_connections",
    "index_unavailable",
    "deadline_exceeded",
)

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/embed",
    response_model=EmbedResponse,
    responses=error_responses(*EMBED_ERRORS),
    openapi_extra=embed_body(),
    tags=["embed"],
)
async def embed(request: Request) -> Response:
    """Gives the vectors of texts, images, or both fused.

    Each entry of the answer is the vector of the item in its place, or says what is wrong with that item.
    """
    lifecycle, parts = lifecycle_of(request), parts_of(request)
    encoder = parts.encoder

    async def answer(asked: ItemsToEmbed) -> Response:
        note(request, num_items=len(asked.items), role=asked.role)
        width = width_of(asked.width, "width", encoder)
        made = await parts.items_embedder.embed(asked.items, asked.role)
        write = partial(_written, str(request.scope.get(REQUEST_ID, "")), encoder, asked, width, made)
        return WrittenAnswer([await parts.body_threads.run(write)])

    parse = json_parser(request.headers, lifecycle.limits, partial(items_from_json, limits=lifecycle.limits))
    return await exchange(request, parts.body_threads, parse, answer, lifecycle.settings.embed_deadline_ms)


def _written(
    request_id: str,
    encoder: ItemEncoder,
    asked: ItemsToEmbed,
    width: int,
    made: Sequence[EmbeddedPart | ServiceError],
) -> bytes:
    """The answer as JSON."""
    answer = {
        "items": [
            _refused(request_id, one) if isinstance(one, ServiceError) else _embedded(one, width, asked.encoding)
            for one in made
        ],
        "role": asked.role,
        "encoding": asked.encoding,
        "width": width,
        "num_tokens": sum(one.num_tokens for one in made if isinstance(one, EmbeddedPart)),
        "model": encoder.name,
        "model_fingerprint": encoder.fingerprint,
    }
    return write_json(answer)


def _embedded(one: EmbeddedPart, width: int, encoding: VectorEncoding) -> dict[str, Any]:
    return {
        "vector": written_vector(cut_vector(one.vector_D, width), encoding),
        "modality": one.modality,
        "text_cut": one.is_text_cut,
        "cached": one.is_cached,
        "error": None,
    }


def _refused(request_id: str, error: ServiceError) -> dict[str, Any]:
    told = {"type": error.type, "message": error.message, "request_id": request_id}
    return {"vector": None, "modality": None, "text_cut": False, "cached": False, "error": told}
