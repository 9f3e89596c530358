"""The indexes that are served, and whether each of them answers."""

from fastapi import APIRouter, Request

from anykey.service.errors import ServiceError
from anykey.service.indexes.named import ServedIndex
from anykey.service.lifecycle import index_of, lifecycle_of
from anykey.service.openapi import error_responses
from anykey.service.requests.address import check_parameters
from anykey.service.schemas import IndexesResponse, ListedIndex, ReadyResponse

router = APIRouter()
below_one = APIRouter()  # what only an address with an index's name has


@router.get("/indexes", tags=["operation"], responses=error_responses("internal", "invalid_request"))
async def list_indexes(request: Request) -> IndexesResponse:
    """Lists the indexes that are served; each answers `/indexes/NAME/search` and what else the default one answers."""
    check_parameters(request)
    indexes = lifecycle_of(request).indexes
    return IndexesResponse(default=indexes.default, indexes=[_listed(served) for served in indexes.all()])


@below_one.get("/readyz", tags=["operation"], responses=error_responses("not_found", "not_ready", "index_unavailable"))
async def readyz(request: Request) -> ReadyResponse:
    """Answers 200 when searches of this index are answered, else 503 with the reason."""
    served = index_of(request)
    served.require_ready()
    problems = {} if served.problem is None else {served.name: served.problem}
    return ReadyResponse(status="ready", failing={}, problems=problems)


def _listed(served: ServedIndex) -> ListedIndex:
    listed = ListedIndex(name=served.name, status="ready", reason=None, release=None, problem=served.problem)
    try:
        listed.release = served.serving().name
        served.require_ready()
    except ServiceError as error:
        listed.status, listed.reason = "loading" if served.is_loading else "failing", error.message
    return listed
