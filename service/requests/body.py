"""Reads a request's body under a limit and makes one query of it."""

import functools
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request

from anykey.service.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ItemTooLargeError,
    OverloadedError,
    UnsupportedMediaTypeError,
)
from anykey.service.queries.known import SHORT_BYTES, KnownQueries
from anykey.service.queries.query import Query
from anykey.service.requests.multipart import (
    Part,
    parse_header,
    parse_parts,
    query_from_multipart,
    without_transfer_encoding,
)
from anykey.service.schemas import Limits

JSON = "application/json"
MULTIPART = "multipart/form-data"
UTF_8 = ("utf-8", "utf8", "us-ascii", "ascii")
GZIP, ZLIB, RAW_DEFLATE = 31, 15, -15  # zlib's numbers for them
PIECE_BYTES = 2**12  # what is decompressed at a time, and what the end of a stream may copy of the next ones
INFLATED_BYTES = 2**20  # made at a time of a body that is read as it arrives
MAX_STREAMS = 10_000  # of gzip, one behind the other; those that write blocks put tens of kilobytes into each
QUICK_BYTES = 2**17  # of a body that is one image in base64, mostly, and read in a fraction of a millisecond
QUICK_COMMAS = 64  # in it; base64 has none, and what has many may take long to read, however short it is

T = TypeVar("T")
Take = Callable[[int], None]


def parser_for(headers: Headers, limits: Limits, known: KnownQueries) -> Callable[[bytearray, Take], Query]:
    """What turns a body with these headers into a query; see `reader_for`."""
    return reader_for(
        headers,
        limits,
        from_json=known.read,
        from_form=lambda body, content_type: query_from_multipart(body, content_type, limits),
    )


def reader_for(
    headers: Headers,
    limits: Limits,
    *,
    from_json: Callable[[bytearray], T],
    from_form: Callable[[bytearray, str], T] | None = None,
) -> Callable[[bytearray, Take], T]:
    """What reads a body with these headers; decided before the body arrives.

    It also wants what to call before it keeps more bytes than the body has.

    Args:
        headers: The request's.
        limits: What a request may ask for.
        from_json: Reads a JSON body.
        from_form: Reads a multipart body, given the Content-Type; absent: only JSON is taken.

    Raises:
        InvalidRequestError: there are several Content-Types.
        UnsupportedMediaTypeError: neither JSON nor multipart, in letters other than UTF-8, or compressed in a way that
            is not read.
    """
    media_types = (JSON,) if from_form is None else (JSON, MULTIPART)
    media_type = checked_media_type(headers, media_types)
    content_type = headers.get("content-type", "")
    decompress = _decompressor(headers, limits)
    if media_type == JSON or from_form is None:
        return lambda body, take: from_json(decompress(body, take))
    return lambda body, take: from_form(decompress(body, take), content_type)


def media_type_of(headers: Headers) -> str:
    """The media type of a body in lower case, empty where none is said; of several, the first."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def json_parser(
    headers: Headers, limits: Limits, read: Callable[[bytearray], T], *, absent: str = ""
) -> Callable[[bytearray, Take], T]:
    """What reads a JSON body with these headers; decided before the body is read.

    Args:
        headers: The request's.
        limits: What a request may ask for.
        read: What the text of the body says.
        absent: What a body without a Content-Type is; empty: refused.

    Raises:
        InvalidRequestError: there are several Content-Types.
        UnsupportedMediaTypeError: no JSON, in letters other than UTF-8, or compressed in a way that is not read.
    """
    checked_media_type(headers, (JSON,), absent)
    decompress = _decompressor(headers, limits)
    return lambda body, take: read(decompress(body, take))


def form_parser(headers: Headers, limits: Limits, read: Callable[[list[Part]], T]) -> Callable[[bytearray, Take], T]:
    """What reads a form with these headers; raises as `json_parser`.

    Args:
        headers: The request's.
        limits: What a request may ask for.
        read: What the parts of the form say.
    """
    checked_media_type(headers, (MULTIPART,))
    content_type = headers.get("content-type", "")
    decompress = _decompressor(headers, limits)

    def parse(body: bytearray, take: Take) -> T:
        parts = parse_parts(decompress(body, take), content_type)
        for part in parts:
            part.data = without_transfer_encoding(part)
        return read(parts)

    return parse


def checked_media_type(headers: Headers, known: Sequence[str], absent: str = "") -> str:
    """What a body is, one of those that are known, and `absent` where nobody says it; raises as `json_parser`."""
    content_types = headers.getlist("content-type")
    if len(content_types) > 1:
        raise InvalidRequestError(f"expected one Content-Type, got {len(content_types)}")
    return _checked_type((content_types or [absent])[0], tuple(known))


@functools.lru_cache(maxsize=64)  # clients send few
def _checked_type(content_type: str, known: tuple[str, ...]) -> str:
    """The media type that a Content-Type header names, one of those that are known, and JSON in UTF-8."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in known:
        came = ascii(media_type[:80]) if media_type else "none"
        raise UnsupportedMediaTypeError(f"expected Content-Type {' or '.join(known)}, got {came}")
    charset = parse_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if media_type != MULTIPART and charset.lower() not in UTF_8:  # each part of a form may say its own
        raise UnsupportedMediaTypeError(f"expected Content-Type {media_type} in UTF-8, got charset {charset[:40]!a}")
    return media_type


def has_body(headers: Headers) -> bool:
    """Whether something follows a request's headers."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip() not in ("", "0")


def _decompressor(headers: Headers, limits: Limits) -> Callable[[bytearray, Take], bytearray]:
    """What takes a body's compression off; raises as `json_parser`."""
    transfer = headers.get("transfer-encoding", "").strip().lower()
    if transfer not in ("", "chunked", "identity"):
        raise UnsupportedMediaTypeError(f"expected Transfer-Encoding chunked or none, got {transfer[:80]!a}")
    return decompressor_for(",".join(headers.getlist("content-encoding")), limits.max_body_bytes)


def decompressor_for(content_encoding: str, max_bytes: int) -> Callable[[bytearray, Take], bytearray]:
    """What takes a body's compression off.

    Args:
        content_encoding: The request's Content-Encoding header; empty when absent.
        max_bytes: Longest body accepted, compressed or not.

    Raises:
        UnsupportedMediaTypeError: it names something else than gzip or deflate, or several.
    """
    names = _encodings(content_encoding)
    if not names:
        return lambda body, take: body
    if names in (["gzip"], ["x-gzip"]):
        return lambda body, take: _decompressed(body, "gzip", GZIP, max_bytes, take)
    if names == ["deflate"]:
        return lambda body, take: _decompressed(
            body, "deflate", ZLIB if _has_zlib_header(body) else RAW_DEFLATE, max_bytes, take
        )
    came = ascii(", ".join(names)[:80])
    raise UnsupportedMediaTypeError(f"expected Content-Encoding gzip, deflate or none, got {came}")


def _encodings(content_encoding: str) -> list[str]:
    names = [name.strip().lower() for name in content_encoding.split(",")]
    return [name for name in names if name not in ("", "identity")]


def _decompressed(body: bytearray, name: str, window_bits: int, max_bytes: int, take: Take) -> bytearray:
    """The contents; never more than `max_bytes` of them are made, and what they have more than the body is taken."""
    contents = bytearray()
    taken_bytes = len(body)
    try:
        for piece in _inflated(body, name, window_bits, max_bytes):
            contents += piece
            if len(contents) > max_bytes:
                raise ItemTooLargeError(
                    f"the body has more than {max_bytes} bytes without its {name}, the most accepted"
                )
            take(max(0, len(contents) - taken_bytes))
            taken_bytes = max(taken_bytes, len(contents))
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not what its Content-Encoding says, {name}") from error
    return contents


def _inflated(body: bytearray, name: str, window_bits: int, max_bytes: int) -> Iterator[bytes]:
    """The contents in pieces, none of more than a byte over `max_bytes`; some may be empty."""
    inflater = Inflater(name, window_bits, max_bytes + 1)
    for start in range(0, len(body), PIECE_BYTES):
        yield from inflater.feed(body[start : start + PIECE_BYTES])
    inflater.finish()


class Inflater:
    """Takes the compression off what arrives piece by piece."""

    def __init__(self, name: str, window_bits: int, max_piece_bytes: int) -> None:
        """Begins before the first byte.

        Args:
            name: What the compression is called, for messages.
            window_bits: zlib's number for it.
            max_piece_bytes: Most bytes that are made at a time.
        """
        self._name = name
        self._window_bits = window_bits
        self._max_piece_bytes = max_piece_bytes
        self._stream, self._num_streams = zlib.decompressobj(window_bits), 1

    @classmethod
    def of(cls, content_encoding: str) -> "Inflater | None":
        """What takes off the compression that a Content-Encoding header names; `None` for none.

        Raises:
            UnsupportedMediaTypeError: it names something else than gzip, or several.
        """
        names = _encodings(content_encoding)
        if not names:
            return None
        if names in (["gzip"], ["x-gzip"]):
            return cls("gzip", GZIP, INFLATED_BYTES)
        raise UnsupportedMediaTypeError(f"expected Content-Encoding gzip or none, got {', '.join(names)[:80]!a}")

    def feed(self, piece: bytes | bytearray) -> Iterator[bytes]:
        """The contents of one more piece; some may be empty.

        Raises:
            zlib.error: it is not what it is said to be.
            InvalidRequestError: there are too many streams in one.
        """
        while piece:
            if self._stream.eof:  # gzip may be several streams, one behind the other
                self._stream, self._num_streams = zlib.decompressobj(self._window_bits), self._num_streams + 1
            if self._num_streams > MAX_STREAMS:
                raise InvalidRequestError(f"the body has more than {MAX_STREAMS} streams of {self._name}")
            yield self._stream.decompress(piece, self._max_piece_bytes)
            piece = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail

    def all_of(self, piece: bytes) -> bytes:
        """The contents of one more piece at once; raises `InvalidRequestError` where it is not what it should be."""
        try:
            return b"".join(self.feed(piece))
        except zlib.error as error:
            raise InvalidRequestError(f"the body is not what its Content-Encoding says, {self._name}") from error

    def finish(self) -> None:
        """Raises `InvalidRequestError` unless the end has come."""
        if not self._stream.eof:
            raise InvalidRequestError(f"the body is cut short: its {self._name} has no end")


def _has_zlib_header(body: bytearray) -> bool:
    """Deflate is zlib's format by its definition, and without its header by some clients."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


class BodyMemory:
    """What the bodies of all requests under way take together, bounded; any thread may take of it.

    Attributes:
        taken_bytes: What is taken now.
        num_shares: Requests that have a share now.
        num_refused: How often there was too little left.
    """

    def __init__(self, max_bytes: int) -> None:
        """Begins with nothing taken.

        Args:
            max_bytes: Most bytes taken at a time.
        """
        self._max_bytes = max_bytes
        self.taken_bytes = self.num_shares = self.num_refused = 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[Take]:
        """One request's share, given back at the end; what is given takes that many bytes more.

        Raises:
            OverloadedError: others have taken too much.
            DeadlineExceededError: the share was given back; a thread still reads for a request that has ended.
        """
        own_bytes = 0
        is_over = False
        with self._lock:
            self.num_shares += 1

        def take(num_bytes: int) -> None:
            nonlocal own_bytes
            with self._lock:
                if is_over:
                    raise DeadlineExceededError("the request is over")
                if self.taken_bytes + num_bytes > self._max_bytes:
                    self.num_refused += 1
                    raise OverloadedError(
                        f"the bodies of the requests under way take {self.taken_bytes} bytes, at most "
                        f"{self._max_bytes} are accepted; retry in a moment"
                    )
                self.taken_bytes += num_bytes
                own_bytes += num_bytes

        try:
            yield take
        finally:
            with self._lock:
                is_over = True
                self.taken_bytes -= own_bytes
                self.num_shares -= 1


def is_quick(body: bytearray, headers: Headers) -> bool:
    """Whether a body may be parsed in the event loop: that takes less than to hand it to a thread, or about as much."""
    if "content-encoding" in headers:  # it is longer than it seems
        return False
    return len(body) <= SHORT_BYTES or (
        len(body) <= QUICK_BYTES and media_type_of(headers) == JSON and body.count(b",") <= QUICK_COMMAS
    )


def is_short(headers: Headers) -> bool:
    """Whether a body with these headers will be short, so that it is `is_quick` whatever is in it."""
    declared = headers.get("content-length", "")
    return declared.isdecimal() and int(declared) <= SHORT_BYTES and "content-encoding" not in headers


async def read_body(request: Request, max_bytes: int, take: Take) -> bytearray:
    """The whole body, refused as soon as it is known to be too long, with or without a Content-Length.

    Args:
        request: The request; its body has not been read.
        max_bytes: Longest body accepted.
        take: Called with the length of each piece before it is kept.

    Raises:
        InvalidRequestError: the Content-Length is no number.
        ItemTooLargeError: the body is longer than `max_bytes`; the rest is not read.
        OverloadedError: `take` refuses.
        starlette.requests.ClientDisconnect: the client went away.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise InvalidRequestError("Content-Length must be a whole number")
    if int(declared) > max_bytes:
        raise ItemTooLargeError(f"the body has {int(declared)} bytes, at most {max_bytes} are accepted")
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > max_bytes:
            raise ItemTooLargeError(f"the body has more than {max_bytes} bytes, the most accepted")
        take(len(piece))
        body += piece
    return body
