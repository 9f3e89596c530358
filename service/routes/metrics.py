"""What Prometheus asks, and the same for people."""

from typing import Any

from fastapi import APIRouter, Request, Response

from anykey.service.access.guard import GuardedRoute
from anykey.service.lifecycle import lifecycle_of
from anykey.service.openapi import error_responses
from anykey.service.operations.schemas import MetricsSummary
from anykey.service.requests.address import check_parameters

router = APIRouter(route_class=GuardedRoute)
TEXT: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
ERRORS = error_responses("invalid_request", "internal")


@router.get(
    "/metrics",
    tags=["operation"],
    response_class=Response,
    responses={200: TEXT, **ERRORS},
)
async def metrics(request: Request) -> Response:
    """Gives all metrics to Prometheus: as its text, or as OpenMetrics for who accepts that."""
    check_parameters(request)
    content, media_type = await lifecycle_of(request).metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"content-type": media_type, "cache-control": "no-store"})


@router.get(
    "/metrics-summary",
    tags=["operation"],
    response_class=Response,
    responses={200: {"model": MetricsSummary, **TEXT}, **ERRORS},
)
async def metrics_summary(request: Request) -> Response:
    """Tells people where time goes, as a table; programs that accept JSON alone get that."""
    check_parameters(request)
    content, media_type = await lifecycle_of(request).metrics.summary(request.headers.get("accept", ""))
    return Response(content, headers={"content-type": media_type, "cache-control": "no-store"})
