"""Reads a request's body under a limit and makes one query of it."""

import zlib
from collections.abc import Callable

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import InvalidRequestError, ItemTooLargeError, UnsupportedMediaTypeError
from service.multipart import query_from_multipart
from service.query import Query, query_from_json
from service.schemas import Limits

JSON = "application/json"
MULTIPART = "multipart/form-data"
UTF_8 = ("utf-8", "utf8", "us-ascii", "ascii")
GZIP, ZLIB, RAW_DEFLATE = 31, 15, -15  # zlib's numbers for them


def parser_for(headers: Headers, limits: Limits) -> Callable[[list[bytes]], Query]:
    """What turns the pieces of a body with these headers into a query; decided before the body is read.

    Args:
        headers: The request's.
        limits: What a request may ask for.

    Raises:
        UnsupportedMediaTypeError: neither JSON nor multipart, in letters other than UTF-8, or compressed in a way that
            is not read.
    """
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in (JSON, MULTIPART):
        came = ascii(media_type[:80]) if media_type else "none"
        raise UnsupportedMediaTypeError(f"expected Content-Type {JSON} or {MULTIPART}, got {came}")
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in UTF_8:
        raise UnsupportedMediaTypeError(f"expected Content-Type {media_type} in UTF-8, got charset {charset[:40]!a}")
    decompress = decompressor_for(",".join(headers.getlist("content-encoding")), limits.max_body_bytes)
    if media_type == JSON:
        return lambda pieces: query_from_json(decompress(b"".join(pieces)), limits)
    return lambda pieces: query_from_multipart(decompress(b"".join(pieces)), content_type, limits)


def decompressor_for(content_encoding: str, max_bytes: int) -> Callable[[bytes], bytes]:
    """What takes a body's compression off.

    Args:
        content_encoding: The request's Content-Encoding header; empty when absent.
        max_bytes: Longest body accepted, compressed or not.

    Raises:
        UnsupportedMediaTypeError: it names something else than gzip or deflate, or several.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return lambda body: body
    if names in (["gzip"], ["x-gzip"]):
        return lambda body: _decompressed(body, "gzip", GZIP, max_bytes)
    if names == ["deflate"]:
        return lambda body: _decompressed(body, "deflate", ZLIB if _has_zlib_header(body) else RAW_DEFLATE, max_bytes)
    came = ascii(", ".join(names)[:80])
    raise UnsupportedMediaTypeError(f"expected Content-Encoding gzip, deflate or none, got {came}")


def _decompressed(body: bytes, name: str, window_bits: int, max_bytes: int) -> bytes:
    """The contents; never more than `max_bytes` of them are made."""
    contents = bytearray()
    while True:  # gzip may be several streams, one behind the other
        stream = zlib.decompressobj(window_bits)
        try:
            contents += stream.decompress(body, max_bytes + 1 - len(contents))
        except zlib.error as error:
            raise InvalidRequestError(f"the body is not what its Content-Encoding says, {name}") from error
        if len(contents) > max_bytes:
            raise ItemTooLargeError(f"the body has more than {max_bytes} bytes without its {name}, the most accepted")
        if not stream.eof:
            raise InvalidRequestError(f"the body is cut short: its {name} has no end")
        body = stream.unused_data
        if not body:
            return bytes(contents)


def _has_zlib_header(body: bytes) -> bool:
    """Deflate is zlib's format by its definition, and without its header by some clients."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


async def read_body(request: Request, max_bytes: int) -> list[bytes]:
    """The whole body in pieces, refused as soon as it is known to be too long, with or without a Content-Length.

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
    pieces, num_bytes = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            raise ItemTooLargeError(f"the body has more than {max_bytes} bytes, the most accepted")
    return pieces
