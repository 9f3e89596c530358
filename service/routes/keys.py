"""The keys that are stored: all of them page by page, how many, one, and its images."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from anykey.index.hits import StoredKey
from anykey.index.key_index import Scope
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import WrittenAnswer, write_key, write_keys
from anykey.service.errors import InvalidRequestError
from anykey.service.indexes.parts import Parts
from anykey.service.keys.changes import scope_from_fields, scope_from_json
from anykey.service.keys.schemas import CountResponse, KeyResponse, KeysResponse
from anykey.service.lifecycle import lifecycle_of, parts_of
from anykey.service.openapi import SCOPE_BODY, error_responses
from anykey.service.queries.strict_json import parse_json
from anykey.service.requests.address import check_parameters, key_in_path, prefix_of
from anykey.service.requests.body import is_quick, read_body, reader_for
from anykey.service.requests.context import REQUEST_ID
from anykey.service.requests.cursor import cursor_of, name_in
from anykey.service.requests.deadline import within
from anykey.service.routes.direct import DirectRoute
from anykey.service.schemas import Limits
from anykey.service.searching.lookups import ShownImage, thumbnail_etag
from anykey.service.searching.thumbnails import WIDTHS_PX, width_made

KEY_ERRORS = (
    "invalid_request",
    "not_found",
    "overloaded",
    "internal",
    "not_ready",
    "too_many_connections",
    "index_unavailable",
    "deadline_exceeded",
)

SCOPE_ERRORS = (*KEY_ERRORS, "item_too_large", "unsupported_media_type")
PAGE_KEYS = 100  # where no limit is given
SCOPE_PARAMETERS = ("modalities", "pool", "filter")

router = APIRouter(route_class=GuardedRoute)

KeyPath = Annotated[str, Path(description="The key, percent-encoded (a slash in it as %2F).")]


@router.get(
    "/keys/{key:path}/image",
    responses={
        200: {
            "description": "The image as it was indexed, or its thumbnail.",
            "content": {"image/*": {"schema": {"type": "string"}}},
        },
        304: {"description": "The image is the one named in If-None-Match."},
        **error_responses(*KEY_ERRORS, "image_not_reached", "item_too_large", "undecodable_image"),
    },
    response_class=Response,
    tags=["keys"],
)
async def get_image(
    request: Request,
    key: KeyPath,
    position: Annotated[int, Query(ge=0, le=1_000_000, description="Which of the key's images, from 0.")] = 0,
    width: Annotated[
        int | None,
        Query(
            ge=1,
            le=WIDTHS_PX[-1],
            description="Gives a thumbnail that is at most about so many pixels wide: the next of "
            f"{', '.join(map(str, WIDTHS_PX))}. Absent: the image as it was indexed.",
        ),
    ] = None,
) -> Response:
    """Gives one image of a key as it was indexed, or a thumbnail: an upright JPEG, of an animation its first frame."""
    check_parameters(request, "position", "width")
    parts = parts_of(request)
    name, is_image = key_in_path(request)
    if not is_image:  # the key itself ends with "/image"
        check_parameters(request)
        return await _key(request, parts, name)
    image = await parts.lookups.image(name, position, str(request.scope.get(REQUEST_ID, "")))
    if width is None:
        return _image_response(request, image)
    width_px = width_made(width)
    if is_known(request, thumbnail_etag(image, width_px)):
        return Response(status_code=304, headers=_image_headers(request, thumbnail_etag(image, width_px)))
    return _image_response(request, await parts.lookups.thumbnail(image, width_px))


async def get_key(
    request: Request,
    key: KeyPath,
    include: Annotated[str | None, Query(description="vector: gives the key's vector, too.")] = None,
) -> Response:
    """Gives one key with its modality, pools and payload."""
    check_parameters(request, "include")
    parts = parts_of(request)
    return await _key(request, parts, key_in_path(request)[0], include)


router.add_api_route(
    "/keys/{key:path}",
    get_key,
    methods=["GET"],
    response_model=KeyResponse,
    responses={
        304: {"description": "The key is as it was at the change named in If-None-Match."},
        **error_responses(*KEY_ERRORS),
    },
    tags=["keys"],
    route_class_override=DirectRoute,  # applications ask for one key after the other
)


@router.get(
    "/keys",
    response_model=KeysResponse,
    responses=error_responses(*KEY_ERRORS),
    tags=["keys"],
)
async def list_keys(
    request: Request,
    cursor: Annotated[str | None, Query(description="What the page before gave. Absent: the first page.")] = None,
    limit: Annotated[int, Query(description="Most keys, from 1 to `limits.max_keys` of GET /info.")] = PAGE_KEYS,
    modalities: Annotated[str | None, Query(description="Only keys of these modalities, split at commas.")] = None,
    pool: Annotated[str | None, Query(description="Only keys of this pool.")] = None,
    filter: Annotated[str | None, Query(description="Only keys whose metadata fits: a `Filter` as JSON.")] = None,
) -> Response:
    """Gives keys in the order of their names, page by page; those that stay as they are come once each."""
    check_parameters(request, "cursor", "limit", *SCOPE_PARAMETERS)
    limits, parts = lifecycle_of(request).limits, parts_of(request)
    if not 1 <= limit <= limits.max_keys:
        raise InvalidRequestError(f"limit must be a whole number from 1 to {limits.max_keys}, got {limit}")
    scope = scope_of_parameters(modalities, pool, filter, limits)
    after = None if cursor is None else name_in(cursor)
    notes = await parts.lookups.notes(scope)

    def write(page: list[StoredKey]) -> bytes:
        shown = page[:limit]
        return write_keys(prefix_of(request), shown, cursor_of(shown[-1].key) if len(page) > limit else None, notes)

    written = await parts.lookups.page(after, limit + 1, scope, write)
    return WrittenAnswer([written])


@router.post(
    "/keys/count",
    response_model=CountResponse,
    responses=error_responses(*SCOPE_ERRORS),
    openapi_extra=SCOPE_BODY,
    tags=["keys"],
)
async def count_keys(request: Request) -> Response:
    """Counts the keys of a scope."""
    check_parameters(request, hint="; send it in the body")
    lifecycle, parts = lifecycle_of(request), parts_of(request)
    limits = lifecycle.limits
    parse = reader_for(request.headers, limits, from_json=lambda body: scope_from_json(body, limits))
    with lifecycle.bodies.share() as take:
        arriving = read_body(request, lifecycle.settings.max_body_bytes, take)
        body = await within(lifecycle.settings.body_deadline_ms / 1000, arriving, "whole body")
        is_parsed_here = is_quick(body, request.headers)
        scope = parse(body, take) if is_parsed_here else await parts.body_threads.run(parse, body, take)
        answer = CountResponse(num_keys=await parts.lookups.count(scope), notes=await parts.lookups.notes(scope))
    return Response(answer.model_dump_json(), media_type="application/json")


def scope_of_parameters(modalities: str | None, pool: str | None, filter: str | None, limits: Limits) -> Scope:
    """The scope that parameters of an address tell.

    Args:
        modalities: Names, split at commas.
        pool: A pool.
        filter: A filter as JSON.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: they can be no scope; says why.
    """
    fields: dict[str, Any] = {}
    if modalities is not None:
        fields["modalities"] = [name.strip() for name in modalities.split(",")]
    if pool is not None:
        fields["pool"] = pool
    if filter is not None:
        fields["filter"] = parse_json(filter.encode("utf-8", "surrogatepass"), "filter")
    return scope_from_fields(fields, limits)


async def _key(request: Request, parts: Parts, key: str, include: str | None = None) -> Response:
    if include not in (None, "", "vector"):
        raise InvalidRequestError(f"include must be vector, got {include[:40]!a}")

    def write(stored: StoredKey) -> tuple[int | None, bytes]:
        return stored.seq, write_key(prefix_of(request), stored)

    seq, written = await parts.lookups.key(key, write, with_vector=include == "vector")
    headers = {} if seq is None else {"etag": f'"{seq}"'}
    if headers and is_known(request, headers["etag"]):
        return Response(status_code=304, headers=headers)
    return WrittenAnswer([written], headers)


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has what this entity tag names, by its If-None-Match."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in known or known == ["*"]


def _image_response(request: Request, image: ShownImage) -> Response:
    """The image with what keeps a browser from running it and lets it keep it."""
    headers = _image_headers(request, image.etag)
    if is_known(request, image.etag):
        return Response(status_code=304, headers=headers)
    return Response(image.data, media_type=image.media_type, headers=headers)


def _image_headers(request: Request, etag: str) -> dict[str, str]:
    shared = "private" if lifecycle_of(request).callers.are_required else "public"
    return {
        "etag": etag,
        "cache-control": f"{shared}, max-age=60",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
    }
