"""Files fetched from other machines in a time that is told beforehand.

Over HTTP, and with what fsspec does asynchronously, the fetch has then really ended; a backend that is not
asynchronous, such as SFTP's, is left to wait alone. Everything counts: names looked up, connections, redirects,
headers, and a body that trickles in.
"""

import functools
import os
from typing import Any

import httpx

from anykey.sources.files.files import file_system
from anykey.sources.files.http_files import MAX_REDIRECTS, Check, PassingError, no_cookies, said_by
from anykey.sources.files.locations import hide_secrets, scheme_of
from anykey.sources.files.time_limits import in_time


def fetch(location: str, check: Check, max_bytes: int, timeout_s: float, span: tuple[int, int] | None = None) -> bytes:
    """Fetches a file at a URL, or a part of it.

    Args:
        location: The file.
        check: Raises `UrlRefusedError` for a URL that may not be asked; called with each that a redirect names.
        max_bytes: Most bytes that are read.
        timeout_s: Longest time that all of it may take.
        span: First byte and number of bytes of the part.

    Raises:
        TimeoutError: it took longer.
        FileNotFoundError: there is no such file.
        PassingError: the connection failed, or the server for a reason that may be gone in a moment.
        OSError: it cannot be read whole, is longer than `max_bytes`, or `check` refused.
    """
    from fsspec.asyn import get_loop, sync

    try:
        if scheme_of(location) in ("http", "https"):
            data: bytes = sync(get_loop(), _fetch_http, location, check, max_bytes, span, timeout=timeout_s)
        else:
            data = _fetch_elsewhere(location, max_bytes, span, timeout_s)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout_s:.3g} s") from error
    except FileNotFoundError as error:
        raise FileNotFoundError("no such file") from error
    except OSError:
        raise
    except Exception as error:  # each of fsspec's backends raises its own
        kind = PassingError if isinstance(error, httpx.TransportError) else OSError
        raise kind(hide_secrets(said_by(error), location)) from error
    if len(data) > max_bytes:
        raise OSError(f"it has more than {max_bytes} bytes")
    if span is not None and len(data) != span[1]:
        raise OSError(f"expected {span[1]} bytes from byte {span[0]}, got {len(data)}")
    return data


async def _fetch_http(url: str, check: Check, max_bytes: int, span: tuple[int, int] | None) -> bytes:
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are, so that their number is the one told
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[0] + span[1] - 1}"
    for _ in range(MAX_REDIRECTS):
        async with _client().stream("GET", url, headers=headers) as response:
            if response.next_request is None:
                _require_answer(response, span is not None)
                return await _read(response, max_bytes)
            url = str(response.next_request.url)
        check(url)
    raise OSError(f"it leads on and on: more than {MAX_REDIRECTS} redirects")


def _require_answer(response: httpx.Response, is_part: bool) -> None:
    if response.status_code in (404, 410):
        raise FileNotFoundError("no such file")
    if not response.is_success:
        kind = PassingError if response.status_code == 429 or response.is_server_error else OSError
        raise kind(f"the server answered {response.status_code} {response.reason_phrase}")
    if is_part and response.status_code != 206:
        raise OSError("the server does not serve parts of files (range requests)")


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > max_bytes:
            raise OSError(f"it has more than {max_bytes} bytes")
    return bytes(data)


def _fetch_elsewhere(location: str, max_bytes: int, span: tuple[int, int] | None, timeout_s: float) -> bytes:
    """Reads what fsspec knows."""
    from fsspec.asyn import AsyncFileSystem, sync

    def fetched() -> Any:
        files, path = file_system(location)
        start, end = (0, max_bytes + 1) if span is None else (span[0], sum(span))
        if isinstance(files, AsyncFileSystem):
            return sync(files.loop, files._cat_file, path, start=start, end=end, timeout=timeout_s)
        with files.open(path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    return bytes(in_time(fetched, timeout_s))


@functools.cache
def _client() -> httpx.AsyncClient:
    """This process's client, in the event loop that all fetches share; whoever waits for a fetch ends it in time."""
    return httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None), cookies=no_cookies())


os.register_at_fork(after_in_child=_client.cache_clear)
