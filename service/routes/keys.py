"""One key, and its images."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from anykey.service.address import check_parameters, key_in_path, prefix_of
from anykey.service.answers import WrittenAnswer, write_key
from anykey.service.context import REQUEST_ID
from anykey.service.lifecycle import parts_of
from anykey.service.lookups import ShownImage
from anykey.service.openapi import error_responses
from anykey.service.parts import Parts
from anykey.service.schemas import KeyResponse

KEY_ERRORS = (
    "invalid_request",
    "not_found",
    "overloaded",
    "internal",
    "not_ready",
    "index_unavailable",
    "deadline_exceeded",
)

router = APIRouter()

KeyPath = Annotated[str, Path(description="The key, percent-encoded (a slash in it as %2F).")]


@router.get(
    "/keys/{key:path}/image",
    responses={
        200: {"description": "The image as it was indexed.", "content": {"image/*": {"schema": {"type": "string"}}}},
        304: {"description": "The image is the one named in If-None-Match."},
        **error_responses(*KEY_ERRORS, "image_not_reached"),
    },
    response_class=Response,
    tags=["keys"],
)
async def get_image(
    request: Request,
    key: KeyPath,
    position: Annotated[int, Query(ge=0, le=1_000_000, description="Which of the key's images, from 0.")] = 0,
) -> Response:
    """Gives one image of a key, as it was indexed."""
    check_parameters(request, "position")
    parts = parts_of(request)
    name, is_image = key_in_path(request)
    if not is_image:  # the key itself ends with "/image"
        check_parameters(request)
        return await _key(request, parts, name)
    image = await parts.lookups.image(name, position, str(request.scope.get(REQUEST_ID, "")))
    return _image_response(request, image)


@router.get(
    "/keys/{key:path}",
    response_model=KeyResponse,
    responses=error_responses(*KEY_ERRORS),
    tags=["keys"],
)
async def get_key(request: Request, key: KeyPath) -> Response:
    """Gives one key with its modality, pools and payload."""
    check_parameters(request)
    parts = parts_of(request)
    return await _key(request, parts, key_in_path(request)[0])


async def _key(request: Request, parts: Parts, key: str) -> Response:
    written = await parts.lookups.key(key, partial(write_key, prefix_of(request)))
    return WrittenAnswer([written])


def _image_response(request: Request, image: ShownImage) -> Response:
    """The image with what keeps a browser from running it and lets it keep it."""
    headers = {
        "etag": image.etag,
        "cache-control": "public, max-age=60",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if image.etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(image.data, media_type=image.media_type, headers=headers)
