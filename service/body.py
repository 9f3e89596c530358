"""Reads a request's body under a limit and makes one query of it."""

from collections.abc import Callable

from starlette.requests import Request

from service.errors import InvalidRequestError, ItemTooLargeError, UnsupportedMediaTypeError
from service.multipart import query_from_multipart
from service.query import Query, query_from_json
from service.schemas import Limits

JSON = "application/json"
MULTIPART = "multipart/form-data"


def parser_for(content_type: str, limits: Limits) -> Callable[[bytes], Query]:
    """What turns a body of this Content-Type into a query; decided before the body is read.

    Args:
        content_type: The request's Content-Type header.
        limits: What a request may ask for.

    Raises:
        UnsupportedMediaTypeError: neither JSON nor multipart.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == JSON:
        return lambda body: query_from_json(body, limits)
    if media_type == MULTIPART:
        return lambda body: query_from_multipart(body, content_type, limits)
    came = ascii(media_type[:80]) if media_type else "none"
    raise UnsupportedMediaTypeError(f"expected Content-Type {JSON} or {MULTIPART}, got {came}")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, refused as soon as it is known to be too long, with or without a Content-Length.

    Args:
        request: The request; its body has not been read.
        max_bytes: Longest body accepted.

    Raises:
        InvalidRequestError: the Content-Length is no number.
        ItemTooLargeError: the body is longer than `max_bytes`; the rest is not read.
        starlette.requests.ClientDisconnect: the client went away.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise InvalidRequestError("Content-Length must be a whole number")
    if int(declared) > max_bytes:
        raise ItemTooLargeError(f"the body has {int(declared)} bytes, at most {max_bytes} are accepted")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ItemTooLargeError(f"the body has more than {max_bytes} bytes, the most accepted")
    return bytes(body)
