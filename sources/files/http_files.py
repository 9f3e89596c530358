"""Files over HTTP: their state, their bytes or a part of them, and a reader that asks again only after a jump.

Nothing is kept on disk. A redirect is followed; a server that is silent for a minute has failed, and so has one that
takes longer than a limit for an answer to begin, or for each of its chunks. What fails for a passing reason (a lost
connection, 429, 5xx) is tried again twice; a file that is read in order goes on where it broke off, unless it has
changed.
"""

import atexit
import functools
import io
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import BinaryIO, TypeVar

import httpx

from anykey.sources.files.time_limits import LIMIT_S, LateError, in_time

SILENCE_S = 60.0
PAUSES_S = (0.2, 1.0)  # before another try
MOST_BREAKS = 100  # of one file that is read in order: its server is not to be waited for any longer
CHUNK_BYTES = 256 * 1024
BUFFER_BYTES = 1024 * 1024
SKIPPED_BYTES = 1024 * 1024  # a jump ahead that is no longer than this is read over: cheaper than asking again

MAX_REDIRECTS = 10  # where each is looked at

T = TypeVar("T")
Check = Callable[[str], None]


class PassingError(OSError):
    """A failure that may be gone in a moment."""


class BrokenOffError(OSError):
    """A file broke off that nothing tells from another one: what follows may be no part of it."""


class UrlRefusedError(PermissionError):
    """A `Check` refused a URL."""


@dataclass(frozen=True)
class FileState:
    """What tells cheaply whether a file is still the one that was read.

    Attributes:
        size_bytes: Its size, where that is told.
        version: Its time, entity tag or the like, where one is told; equal versions mean equal content.
        has_ranges: Whether a part of it can be read without what lies before.
        told: All that is told of it, in one line.
    """

    size_bytes: int | None
    version: str | None
    has_ranges: bool = True
    told: str = field(default="", compare=False)


def http_state(url: str, check: Check | None = None, limit_s: float = LIMIT_S) -> FileState:
    """Asks for one byte of a file, and so learns all that the server tells of it, also where `HEAD` is forbidden.

    Args:
        url: The file.
        check: Raises `UrlRefusedError` for a URL that may not be asked; called with each that a redirect names.
        limit_s: Longest time that a try may take.

    Raises:
        UrlRefusedError: `check` refused.
        OSError: there is no such file, or no answer.
    """
    return tried(lambda: _on_time(lambda: _state(url) if check is None else _checked_state(url, check), limit_s))


def read_http(url: str, start: int, size_bytes: int | None, max_bytes: int | None, limit_s: float = LIMIT_S) -> bytes:
    """Reads a file, or a part of it.

    Args:
        url: The file.
        start: Where the part begins.
        size_bytes: How long it is; to the end when absent.
        max_bytes: The most that is read; a file that is longer is refused.
        limit_s: Longest time that a try may take.

    Raises:
        OSError: it cannot be read whole, is longer than `max_bytes`, or the server serves no parts of files.
    """
    return tried(lambda: _on_time(lambda: _read(url, start, size_bytes, max_bytes, limit_s), limit_s))


def open_http(url: str, limit_s: float = LIMIT_S, known: FileState | None = None) -> BinaryIO:
    """Opens a file for reading; in order it takes one request, and it can be read again elsewhere after `seek`.

    Args:
        url: The file.
        limit_s: Longest time that an answer may take to begin, and each of its chunks to come.
        known: What is known of the file, which it must still be; one without a version is not read on once it broke
            off. It is asked for when absent.

    Raises:
        OSError: there is no such file, or no answer; reading it raises `BrokenOffError` where it cannot be read on.
    """
    state = http_state(url, limit_s=limit_s) if known is None else known
    is_sure = state.size_bytes is not None and (known is None or state.version is not None)
    return io.BufferedReader(_HttpFile(url, state, limit_s, is_sure), BUFFER_BYTES)


class _HttpFile(io.RawIOBase):
    """A file whose answer is read on as long as the reading goes on where it was, and asked for again if it breaks."""

    def __init__(self, url: str, state: FileState, limit_s: float, is_sure: bool) -> None:
        self._url = url
        self._state = state
        self._is_sure = is_sure  # whether another answer can be told to be of the same file
        self._limit_s = limit_s
        self._size = state.size_bytes
        self._num_breaks = 0
        self._is_broken = False  # whether the last answer did not last
        self._position = 0  # where the next byte is wanted
        self._come = 0  # where the answer is
        self._answer: Generator[bytes | bytearray, None, None] | None = None
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        start = starts[whence]
        if start is None:
            raise io.UnsupportedOperation("the server does not tell the file's size")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        if self._size is not None and self._position >= self._size:
            return 0
        return tried(lambda: self._read_into(buffer))

    def close(self) -> None:
        self._drop()
        super().close()

    def _read_into(self, buffer: memoryview) -> int:
        try:
            if self._answer is None or not 0 <= self._position - self._come <= SKIPPED_BYTES:
                self._ask()
            self._take(self._position - self._come)
            taken = self._take(len(buffer), buffer)
        except OSError as error:
            self._drop()
            self._is_broken = True
            self._num_breaks += 1
            if self._num_breaks > MOST_BREAKS:
                raise OSError(str(error)) from error
            if self._position and not self._is_sure and isinstance(error, PassingError):
                raise BrokenOffError(str(error)) from error
            raise
        self._position = self._come
        return taken

    def _ask(self) -> None:
        self._drop()
        is_read_over = self._is_broken and not self._state.has_ranges
        self._come = 0 if is_read_over else self._position
        answer = _answer(self._url, self._come, self._state, self._limit_s)
        _on_time(lambda: next(answer), self._limit_s)
        self._answer = answer
        self._is_broken = False

    def _drop(self) -> None:
        answer, self._answer, self._rest = self._answer, None, memoryview(b"")
        if answer is not None:
            answer.close()

    def _take(self, num_bytes: int, buffer: memoryview | None = None) -> int:
        """Takes bytes from the answer; into the buffer what one chunk has, else so many are thrown away."""
        taken = 0
        while taken < num_bytes:
            if not self._rest:
                assert self._answer is not None
                self._rest = memoryview(next(self._answer, b""))
                if not self._rest and self._size is not None:
                    raise PassingError(f"the answer ended at byte {self._come} of {self._size}")
            part = self._rest[: num_bytes - taken]
            if buffer is not None:
                buffer[: len(part)] = part
            self._rest = self._rest[len(part) :]
            self._come += len(part)
            taken += len(part)
            if buffer is not None or not part:
                break
        return taken


def _state(url: str) -> FileState:
    with _get(url, "bytes=0-0", accepted=(416,)) as response:
        return _state_of(response)


def _checked_state(url: str, check: Check) -> FileState:
    for _ in range(MAX_REDIRECTS):
        with _get(url, "bytes=0-0", accepted=(416,), follows=False) as response:
            if response.next_request is None:
                return _state_of(response)
            url = str(response.next_request.url)
        check(url)
    raise OSError(f"it leads on and on: more than {MAX_REDIRECTS} redirects")


def _state_of(response: httpx.Response) -> FileState:
    """What an answer tells of the file."""
    headers = response.headers
    tag = headers.get("etag") or headers.get("last-modified")
    total = headers.get("content-range", "").rpartition("/")[2]
    has_ranges = response.status_code in (206, 416)
    size = total if has_ranges else headers.get("content-length", "")
    told = "|".join((headers.get("etag", ""), headers.get("last-modified", ""), size))
    return FileState(int(size) if size.isdecimal() else None, tag, has_ranges, told)


def _require_same(told: FileState, expected: FileState) -> None:
    """Makes sure that an answer is of the file that was opened, as far as it tells: parts of two are not a file."""
    pairs = ((told.size_bytes, expected.size_bytes), (told.version, expected.version))
    if any(new is not None and old is not None and new != old for new, old in pairs):
        raise OSError("it changed while it was read")


def _read(url: str, start: int, size_bytes: int | None, max_bytes: int | None, limit_s: float) -> bytes:
    span = None if size_bytes is None else f"bytes={start}-{start + size_bytes - 1}"
    parts, num_bytes = [], 0
    with _get(url, span, part_only=span is not None) as response:
        for chunk in _chunks(response, limit_s):
            parts.append(chunk)
            num_bytes += len(chunk)
            if max_bytes is not None and num_bytes > max_bytes:
                raise OSError(f"it has more than {max_bytes} bytes")
    if size_bytes is not None and num_bytes != size_bytes:
        raise OSError(f"expected {size_bytes} bytes from byte {start}, got {num_bytes}")
    return b"".join(parts)


def tried(call: Callable[[], T], passing: type[OSError] = PassingError) -> T:
    """What a call gives, in three tries as long as it fails for a passing reason."""
    for pause_s in PAUSES_S:
        try:
            return call()
        except passing:
            time.sleep(pause_s)
    return call()


def _on_time(call: Callable[[], T], limit_s: float) -> T:
    try:
        return in_time(call, limit_s)
    except LateError as error:
        raise PassingError(str(error)) from error


def _answer(url: str, start: int, state: FileState, limit_s: float) -> Generator[bytes | bytearray, None, None]:
    """The body of an answer; nothing first, once it has begun."""
    span = f"bytes={start}-" if start else None
    with _get(url, span, part_only=start > 0) as response:
        _require_same(_state_of(response), state)
        yield b""
        yield from _chunks(response, limit_s)


def _chunks(response: httpx.Response, limit_s: float) -> Iterator[bytes | bytearray]:
    """A body in chunks of one size; one that trickles in for longer than the limit is not waited for."""
    chunk, begun = bytearray(), time.monotonic()
    for part in response.iter_raw():
        chunk += part
        if time.monotonic() - begun > limit_s:
            raise PassingError(f"{len(chunk)} bytes in {limit_s:.3g} s are too few")
        if len(chunk) >= CHUNK_BYTES:
            yield chunk
            chunk, begun = bytearray(), time.monotonic()
    if chunk:
        yield chunk


def no_cookies() -> CookieJar:
    """A jar that stays empty: what one file's server says of us is not kept, and told to none at the next."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


@functools.cache
def _client() -> httpx.Client:
    transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=None))
    client = httpx.Client(transport=transport, timeout=SILENCE_S, follow_redirects=True, cookies=no_cookies())
    atexit.register(client.close)
    return client


@contextmanager
def _get(
    url: str, span: str | None, part_only: bool = False, accepted: tuple[int, ...] = (), follows: bool = True
) -> Iterator[httpx.Response]:
    """An answer whose body has not been read; every failure of httpx is an `OSError`."""
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are, so that their number is the one told
    if span is not None:
        headers["Range"] = span
    try:
        with _client().stream("GET", url, headers=headers, follow_redirects=follows) as response:
            if response.is_error and response.status_code not in accepted:
                raise _kind_of(response.status_code)(
                    f"the server answered {response.status_code} {response.reason_phrase}"
                )
            if part_only and response.status_code != 206:
                raise OSError("the server does not serve parts of files (range requests)")
            yield response
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = PassingError if isinstance(error, httpx.TransportError) else OSError
        raise kind(said_by(error)) from error


def _kind_of(status_code: int) -> type[OSError]:
    if status_code in (404, 410):
        return FileNotFoundError
    return PassingError if status_code == 429 or status_code >= 500 else OSError


def said_by(error: Exception) -> str:
    """What httpx says went wrong, without how many bytes had come: that differs each time, and the failure does not."""
    return str(error).partition(" (received ")[0] or type(error).__name__
