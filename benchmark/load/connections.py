"""Connections of a client that sends much: one asynchronous request each, kept open, and cheap.

httpx takes a millisecond of processor time for a request, and some where many are under way: a client that is busier
than the service measures itself.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from urllib.parse import SplitResult, urlsplit

import httptools

from anykey.benchmark.errors import EndpointUnreachableError

LONGEST_IDLE_S = 4.0  # before a connection is no longer used: servers close theirs after 5 s and more


class BrokenAnswerError(ConnectionError):
    """A connection ended, or what came over it was no HTTP, before the answer was whole."""


@dataclass(frozen=True)
class Reply:
    """One whole answer.

    Attributes:
        status: Its status.
        body: Its body.
        received_s: When its last byte came, by the clock of the event loop.
    """

    status: int
    body: bytes
    received_s: float


class Connections:
    """Connections to one address; an asynchronous context manager that closes them.

    There are as many as requests are under way. One that is idle is used again, the last that was used first.

    Args:
        url: `http://` or `https://`, with a path before that of the requests if the service is behind one.
        headers: More of each request.

    Raises:
        EndpointUnreachableError: it is no such address, or nothing listens there (when the block begins).
    """

    def __init__(self, url: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        parts = _parts(url)
        self._host, self._port, self._prefix = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._netloc, self._url, self._address = parts.netloc.rpartition("@")[2], url, self._host
        self._more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> "Connections":
        try:
            first = await self._connect()
        except OSError as error:
            raise EndpointUnreachableError(f"nothing answers at {self._url}: {error}") from error
        self._address = first.address  # a name is looked up once, not in every measured request
        self._idle.append(first)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)  # in which they are closed

    async def post(self, path: str, body: bytes) -> Reply:
        """Sends JSON and gives the whole answer; when it is cancelled, the connection is closed.

        Raises:
            OSError: there is no connection, or it ended before the answer was whole (`BrokenAnswerError`).
        """
        connection = self._usable() or await self._connect()
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\nhost: {self._netloc}\r\naccept: application/json\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{self._more}\r\n"
        )
        try:
            reply = await connection.exchange(head.encode("ascii") + body)
        except BaseException:
            connection.close()
            raise
        if connection.is_open:
            self._idle.append(connection)
        return reply

    def _usable(self) -> "_Connection | None":
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now_s - connection.used_s < LONGEST_IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(loop, self._open),
            self._address,
            self._port or (443 if self._ssl else 80),
            ssl=self._ssl,
            server_hostname=self._host if self._ssl else None,
        )
        return connection


def _parts(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointUnreachableError(f"'{url}' is no URL: expected something like http://127.0.0.1:8000")
    return parts


class _Connection(asyncio.Protocol):
    """One connection, which has at most one request under way.

    The parser calls `on_body` and `on_message_complete`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, opened: set["_Connection"]) -> None:
        self._loop, self._opened = loop, opened
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._answer: asyncio.Future[Reply] | None = None
        self.is_open, self.used_s, self.address = False, loop.time(), ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True
        self.address = transport.get_extra_info("peername")[0]
        self._opened.add(self)

    async def exchange(self, request: bytes) -> Reply:
        """Sends a request and waits for the answer."""
        self._pieces, self._answer = [], self._loop.create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self.used_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is no HTTP: {error}")

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(self._parser.get_status_code(), b"".join(self._pieces), self.used_s))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection ended before the answer: {error or 'closed by the service'}")

    def close(self) -> None:
        """Ends the connection, whatever is under way."""
        self.is_open = False
        self._opened.discard(self)
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BrokenAnswerError(reason))
