"""What a caller may ask for."""

from fastapi import APIRouter, Request

from anykey.service.access.api_keys import AccessScope
from anykey.service.access.callers import NOBODY
from anykey.service.access.guard import GuardedRoute
from anykey.service.access.schemas import AccessResponse
from anykey.service.errors import ServiceError
from anykey.service.lifecycle import lifecycle_of
from anykey.service.openapi import error_responses
from anykey.service.requests.address import check_parameters

router = APIRouter(route_class=GuardedRoute)


@router.get("/access", tags=["operation"], responses=error_responses("internal", "invalid_request"))
async def access(request: Request) -> AccessResponse:
    """Says whether API keys are required, and what the one that was sent allows.

    Without one, or with one that is not taken, that is what may be done without.
    """
    check_parameters(request)
    callers = lifecycle_of(request).callers
    try:
        caller = callers.find(request.scope["headers"])
    except ServiceError:
        caller = NOBODY
    return AccessResponse(
        keys_required=callers.are_required,
        name=caller.name,
        scopes=[scope.value for scope in AccessScope if scope in caller.scopes],
        indexes=None if caller.indexes is None else sorted(caller.indexes),
    )
