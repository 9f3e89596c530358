"""The indexes that are served, and whether each of them answers."""

import asyncio

from fastapi import APIRouter, Request

from anykey.service.access.callers import caller_of
from anykey.service.access.guard import GuardedRoute
from anykey.service.errors import ServiceError
from anykey.service.indexes.memory import MemoryAccounts
from anykey.service.indexes.named import ServedIndex
from anykey.service.indexes.schemas import IndexesResponse, ListedIndex
from anykey.service.lifecycle import index_of, lifecycle_of
from anykey.service.openapi import error_responses
from anykey.service.operations.schemas import ReadyResponse
from anykey.service.requests.address import check_parameters

router = APIRouter(route_class=GuardedRoute)
below_one = APIRouter(route_class=GuardedRoute)  # what only an address with an index's name has


@router.get("/indexes", tags=["operation"], responses=error_responses("internal", "invalid_request"))
async def list_indexes(request: Request) -> IndexesResponse:
    """Lists the indexes that are served; each answers `/indexes/NAME/search` and what else the default one answers."""
    check_parameters(request)
    lifecycle = lifecycle_of(request)
    indexes, caller = lifecycle.indexes, caller_of(request.scope)
    seen = [served for served in indexes.all() if caller.may_see(served.name)]
    listed = await asyncio.gather(*(_listed(served, lifecycle.memory) for served in seen))
    memory = await lifecycle.memory.of_process(caller.may_see)
    default = indexes.default if caller.may_see(indexes.default) else None
    return IndexesResponse(default=default, indexes=list(listed), memory=memory)


@below_one.get("/readyz", tags=["operation"], responses=error_responses("not_found", "not_ready", "index_unavailable"))
async def readyz(request: Request) -> ReadyResponse:
    """Answers 200 when searches of this index are answered, else 503 with the reason."""
    served = index_of(request)
    served.require_ready()
    problems = {} if served.problem is None else {served.name: served.problem}
    return ReadyResponse(status="ready", failing={}, problems=problems)


async def _listed(served: ServedIndex, memory: MemoryAccounts) -> ListedIndex:
    listed = ListedIndex(
        name=served.name,
        status="ready",
        reason=None,
        release=None,
        problem=served.problem,
        encoder=None,
        memory=None,
        left_changes=served.left_changes,
    )
    try:
        serving = served.serving()
        listed.release, listed.encoder = serving.name, serving.parts.encoder.fingerprint
        serving.acquire()
        try:
            listed.memory = await memory.of_index(serving.parts)
        finally:
            serving.let_go()
        served.require_ready()
    except ServiceError as error:
        listed.status, listed.reason = "loading" if served.is_loading else "failing", error.message
    return listed
