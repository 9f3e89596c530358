"""What the metadata of the keys really hold: fields, types, values."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Exists, Path
from anykey.index.filtering.facets import FieldsPage
from anykey.index.filtering.filters import field_of_path, parse_path
from anykey.index.key_index import Moment
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import WrittenAnswer, write_fields
from anykey.service.errors import InvalidRequestError
from anykey.service.keys.schemas import FieldsResponse
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.openapi import error_responses
from anykey.service.requests.address import check_parameters
from anykey.service.requests.cursor import cursor_of, name_in
from anykey.service.routes.keys import KEY_ERRORS, SCOPE_PARAMETERS, scope_of_parameters

FIELDS = 100  # where no limit is given
MAX_FIELDS = 1000

router = APIRouter(route_class=GuardedRoute)


@router.get("/fields", response_model=FieldsResponse, responses=error_responses(*KEY_ERRORS), tags=["keys"])
async def list_fields(
    request: Request,
    cursor: Annotated[str | None, Query(description="What the page before gave. Absent: the first page.")] = None,
    limit: Annotated[int, Query(description=f"Most fields, from 1 to {MAX_FIELDS}.")] = FIELDS,
    modalities: Annotated[str | None, Query(description="Only of keys of these modalities, split at commas.")] = None,
    pool: Annotated[str | None, Query(description="Only of keys of this pool.")] = None,
    filter: Annotated[str | None, Query(description="Only of keys whose metadata fits: a `Filter` as JSON.")] = None,
) -> Response:
    """Gives the fields of the metadata with their types, their most frequent values, and what these lie between.

    What is told is counted, over all keys of the scope at this moment.
    """
    check_parameters(request, "cursor", "limit", *SCOPE_PARAMETERS)
    limits, parts = lifecycle_of(request).limits, parts_of(request)
    if not 1 <= limit <= MAX_FIELDS:
        raise InvalidRequestError(f"limit must be a whole number from 1 to {MAX_FIELDS}, got {limit}")
    scope = scope_of_parameters(modalities, pool, filter, limits)
    after = None if cursor is None else _field_in(cursor)
    notes = await parts.lookups.notes(scope)

    def write(page: FieldsPage, moment: Moment) -> bytes:
        following = None if page.last is None else cursor_of(field_of_path(page.last))
        return write_fields(page, following, moment.version, moment.seq, notes)

    return WrittenAnswer([await parts.lookups.fields(after, limit, scope, write)])


def _field_in(cursor: str) -> Path:
    try:
        return Exists(parse_path(name_in(cursor))).path  # which checks what a path may be
    except InvalidFilterError as error:
        raise InvalidRequestError("cursor must be one that an earlier page gave") from error
