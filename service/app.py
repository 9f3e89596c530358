"""Puts the application together."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from anykey.encoder.protocol import ItemEncoder
from anykey.service.compat import clip_retrieval, cohere, immich, infinity, openai, reranking, vector_stores, voyage
from anykey.service.compat.qdrant import reading as qdrant_reading
from anykey.service.compat.qdrant import writing as qdrant_writing
from anykey.service.errors import InvalidRequestError, ServiceError, from_status
from anykey.service.indexes.parts import load_encoder
from anykey.service.indexes.serving import Leases
from anykey.service.lifecycle import INDEX_NAME, Lifecycle
from anykey.service.openapi import describe, serve_document
from anykey.service.queries.wrong_values import wrong_value
from anykey.service.requests.context import RequestContext, UnforeseenFailures, error_response
from anykey.service.requests.proxy import ProxyPrefix, client_address, parse_proxies
from anykey.service.routes import (
    access,
    changes,
    embed,
    feedback,
    fields,
    health,
    indexes,
    keys,
    metrics,
    operation,
    page,
    search,
)
from anykey.service.searching.reranking import PairScorer
from anykey.service.searching.searcher import SearchableIndex
from anykey.service.settings import ServiceSettings

DIALECTS = (openai, infinity, cohere, voyage, reranking, immich, clip_retrieval)
OF_COLLECTIONS = (
    qdrant_reading,
    qdrant_writing,
    vector_stores,
)  # dialects whose addresses name the index in their own way
# FastAPI's own would tell a collector what was wrong with requests, contents among it; see `operations/traces.py`.
NO_TELEMETRY = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
EXPOSED = [
    *("X-Request-ID", "Retry-After", "Allow", "ETag", "Idempotency-Replayed"),
    *("WWW-Authenticate", "RateLimit", "RateLimit-Policy"),
]  # headers that scripts of other origins may read, of errors too
DESCRIPTION = "Search a corpus of images, texts and image+text pages with an image, a text, or both."


def create_app(
    settings: ServiceSettings,
    *,
    encoder: ItemEncoder | None = None,
    index: SearchableIndex | None = None,
    rerankers: Sequence[PairScorer] | None = None,
    on_failure: Callable[[], None] | None = None,
    on_ready: Callable[[], None] | None = None,
    load_encoder: Callable[[ServiceSettings], ItemEncoder] = load_encoder,
) -> FastAPI:
    """The ASGI application; nothing is loaded before its lifespan begins.

    Args:
        settings: The service's settings.
        encoder: Used instead of loading any checkpoint.
        index: Used instead of opening the default index; the caller closes it.
        rerankers: Used instead of loading `settings.rerankers`.
        on_failure: Called once when loading fails; `app.state.lifecycle.failure` says why.
        on_ready: Called when everything is loaded, and again whenever another release has taken over, or failed to.
        load_encoder: Makes an encoder of an index's settings.

    Returns:
        The application. With encoder and index given it is ready when its lifespan has begun; else it loads in the
        background and `/readyz` tells.
    """
    lifecycle = Lifecycle(settings, encoder, index, on_failure, on_ready, rerankers, load_encoder)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with lifecycle.running():
            yield

    app = FastAPIOffline(  # serves the scripts of /docs itself instead of naming a CDN
        telemetry=NO_TELEMETRY,
        redoc_url=None,
        title="AnyKey",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.lifecycle = lifecycle
    resources = (search, keys, changes, fields, embed, operation, page, *DIALECTS)
    of_one = [route for resource in resources for route in resource.router.routes]
    # A router within a router costs each request its matching, so that the routes of the default index are in none.
    of_collections = [route for dialect in OF_COLLECTIONS for route in dialect.router.routes]
    of_service = [
        *access.router.routes,
        *metrics.router.routes,
        *feedback.router.routes,
        *indexes.router.routes,
        *page.of_service.routes,
    ]
    # A request is compared with one route after the other: those that are asked most come first.
    app.router.routes.extend([*health.router.routes, *of_one, *of_service, *of_collections])
    app.router.routes.append(Mount(f"/indexes/{{{INDEX_NAME}}}", routes=[*of_one, *indexes.below_one.routes]))
    _answer_errors(app, settings.retry_after_s)
    _add_layers(app, settings, lifecycle)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    serve_document(app)
    return app


def _add_layers(app: FastAPI, settings: ServiceSettings, lifecycle: Lifecycle) -> None:
    """What is around the routes, from within outwards."""
    app.add_middleware(Leases)
    app.add_middleware(UnforeseenFailures, retry_after_s=settings.retry_after_s)
    app.add_middleware(
        ProxyPrefix,
        root_path=settings.root_path,
        proxies=settings.forwarded_allow_ips,
        retry_after_s=settings.retry_after_s,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    address_of = partial(client_address, proxies=parse_proxies(settings.forwarded_allow_ips))
    refusal_pace = lifecycle.resources.refusal_pace
    app.add_middleware(RequestContext, watcher=lifecycle.watcher, refusal_pace=refusal_pace, address_of=address_of)


def _answer_errors(app: FastAPI, retry_after_s: int) -> None:
    """Gives every expected error the documented shape; the unforeseen ones belong to `RequestContext`."""

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return error_response(request.scope, error, retry_after_s)

    async def on_invalid_parameter(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        message = wrong_value(f"parameter {first['loc'][-1]}", first)
        return error_response(request.scope, InvalidRequestError(message), retry_after_s)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods_of(request.app.routes, request.scope)))
        message = {
            404: "no such address; /docs lists those there are",
            405: f"this address takes {headers.get('Allow', 'another method')}, not {request.method[:20]}",
        }.get(error.status_code, str(error.detail))
        return error_response(request.scope, from_status(error.status_code, message), retry_after_s, headers)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)
    app.add_exception_handler(HTTPException, on_http_error)


def _methods_of(routes: Sequence[BaseRoute], scope: Scope) -> set[str]:
    """All methods that an address takes, of whichever routes."""
    found: set[str] = set()
    for route in routes:
        match, inner = route.matches(scope)
        if match is Match.NONE:
            continue
        if isinstance(route, Mount):
            found |= _methods_of(route.routes or (), {**scope, **inner})
        elif isinstance(route, Route):
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found
