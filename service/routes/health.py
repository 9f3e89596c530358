"""Whether the process lives, and whether it answers searches."""

from fastapi import APIRouter, Request

from anykey.service.access.guard import GuardedRoute
from anykey.service.lifecycle import lifecycle_of
from anykey.service.openapi import error_responses
from anykey.service.operations.schemas import ReadyResponse, StatusResponse

router = APIRouter(route_class=GuardedRoute)


@router.get("/livez", tags=["operation"])
async def livez() -> StatusResponse:
    """Answers as long as the process serves requests at all."""
    return StatusResponse(status="alive")


@router.get("/readyz", responses=error_responses("not_ready", "index_unavailable"), tags=["operation"])
async def readyz(request: Request) -> ReadyResponse:
    """Answers 200 when searches are answered, else 503 with the reason.

    Where there are several indexes: once each of them has been loaded or could not be, and as long as one answers.
    """
    indexes = lifecycle_of(request).indexes
    return ReadyResponse(status="ready", failing=indexes.require_ready(), problems=indexes.problems())
