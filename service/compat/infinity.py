"""Addresses of infinity, whose embeddings are OpenAI's, and whose client asks for its health before each call."""

import time

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from anykey.service.access.guard import GuardedRoute
from anykey.service.compat import openai
from anykey.service.compat.openai import EmbeddingsRequest, EmbeddingsResponse, ModelsResponse
from anykey.service.compat.openapi import EMBED_ERRORS, body_of, dialect_errors
from anykey.service.lifecycle import parts_of

router = APIRouter(route_class=GuardedRoute, tags=["compat"])


class HealthResponse(BaseModel):
    """Answer of a service that is ready."""

    unix: float = Field(description="Seconds since 1970.")


@router.post(
    "/embeddings",
    response_model=EmbeddingsResponse,
    responses=dialect_errors(*EMBED_ERRORS),
    openapi_extra=body_of(EmbeddingsRequest),
)
async def embeddings(request: Request) -> Response:
    """Embeds items for clients of infinity; the same as `POST /v1/embeddings`."""
    return await openai.answer(request)


@router.get("/models", responses=dialect_errors("not_ready", "index_unavailable"))
async def models(request: Request) -> ModelsResponse:
    """Names the served model and the rerankers; the same as `GET /v1/models`."""
    return await openai.models(request)


@router.get("/health", responses=dialect_errors("not_ready", "index_unavailable"))
async def health(request: Request) -> HealthResponse:
    """Answers when `GET /readyz` does, for clients of infinity and vLLM."""
    parts = parts_of(request)
    parts.watch.require_sound()
    parts.rerankers.require_alive()
    return HealthResponse(unix=time.time())
