"""Connections that no client can keep, or fill, without asking something, and no more of them than are allowed."""

import asyncio
import logging
import re
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anykey.service.errors import OverloadedError, ServiceError, TooManyConnectionsError
from anykey.service.logs import LogEvent
from anykey.service.requests.admission import Pressure
from anykey.service.requests.context import PROBES
from anykey.service.schemas import ErrorDetail, ErrorResponse

MOST_TAKEN = 256  # connections that are taken up in a turn of the event loop
MAX_HEAD_BYTES = 2**16  # of a request: its first line and its headers; servers in front take less
WAITED_S = 1.0  # for its client, after which a connection may have to give its place to another
NUM_LOOKS = 8  # at connections that wait, for one that gives its place
NUM_PROBES = 16  # connections beyond those that are allowed, for a probe each
LEAVING_S = 2.0  # longest time for a connection that is turned away to ask, and as long to take its answer
TOLD_S = 60.0  # between two lines of the log that say that connections are turned away

logger = logging.getLogger(__name__)


class ConnectionBound:
    """Bounds how many connections of a server are open at a time; belongs to one event loop.

    Where there are enough, one more takes the place of the one that has waited longest for its client, if that is a
    second or longer and it has sent nothing. If there is none, it is turned away: the first bytes of its request are
    answered with a 503 that is ready, whatever they say, unless they ask how the service is. So nobody who is being
    answered is disturbed, and an orchestrator does not end a service because it is busy.

    Attributes:
        num_open: Connections that are open now, less those that are turned away.
        num_turned_away: How many were, so far.
        num_displaced: How many gave their place to another, so far.
    """

    def __init__(
        self,
        max_connections: int,
        retry_after_s: int,
        root_path: str,
        pressure: Pressure,
        listeners: Sequence[socket.socket],
    ) -> None:
        """Begins with none.

        Args:
            max_connections: Most that are open at a time, and most that are being turned away.
            retry_after_s: After how long those that are turned away should try again.
            root_path: What the addresses of probes may begin with.
            pressure: The event loop's.
            listeners: Where connections wait to be taken up.
        """
        self._pressure = pressure
        self._listeners = listeners
        self._is_taking = False
        self._taking: set[asyncio.Task[None]] = set()
        self.num_open = self.num_turned_away = self.num_displaced = 0
        self._max_connections = max_connections
        self._waiting: dict[BoundedConnection, float] = {}  # for their clients since when; the longest first
        self._leaving: dict[_TurnedAway, None] = {}  # the oldest first
        self._told_s = -TOLD_S
        paths = b"|".join(re.escape(path.encode()) for path in sorted(PROBES))
        self.probe = re.compile(rb"(?:GET|HEAD) (?:%s)?(?:%s)[ ?]" % (re.escape(root_path.encode()), paths))
        full = TooManyConnectionsError(f"{max_connections} connections are open, the most; retry in a moment")
        swamped = OverloadedError("more is asked than can be answered; retry in a moment")
        self._when_full, self._when_swamped = (_written(error, retry_after_s) for error in (full, swamped))

    def refusal(self, now_s: float) -> bytes | None:
        """What one more is answered that cannot be open; `None` if it may, for which one that waits may be closed.

        Args:
            now_s: The time of the event loop.
        """
        if self._pressure.is_swamped():
            return self._when_swamped
        has_room = self.num_open < self._max_connections or self._make_room(now_s)
        return None if has_room else self._when_full

    def take_more(self, connection: "BoundedConnection") -> None:
        """Takes up what else waits at the listeners, in the next turn of the event loop.

        The event loop (uvloop, by libuv from 1.45 on) takes up one connection a turn, however many wait. Turns take
        long where much is asked, and so most would wait where nobody answers them.

        Args:
            connection: One that came; the others are made like it.
        """
        if not self._is_taking:
            self._is_taking = True
            connection.loop.call_soon(self._take_more, connection)

    def _take_more(self, connection: "BoundedConnection") -> None:
        self._is_taking = False
        for listener in self._listeners:
            with suppress(OSError):  # no more wait, or the listener is closed
                for _ in range(MOST_TAKEN):
                    task = connection.loop.create_task(_adopt(connection.like_this, listener.accept()[0]))
                    self._taking.add(task)
                    task.add_done_callback(self._taking.discard)

    def has_room_for_probe(self) -> bool:
        """Whether one more may be open that asks how the service is."""
        return self.num_open < self._max_connections + NUM_PROBES

    def waits(self, connection: "BoundedConnection", now_s: float) -> None:
        """The connection waits for its client from now on."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = now_s

    def is_asked(self, connection: "BoundedConnection") -> None:
        """The connection waits for its client no more."""
        self._waiting.pop(connection, None)

    def turn_away(self, connection: "BoundedConnection", transport: asyncio.Transport, refusal: bytes) -> None:
        """Answers whatever comes over the transport with a refusal, and closes it."""
        if len(self._leaving) >= self._max_connections:
            next(iter(self._leaving)).end()
        leaving = _TurnedAway(self, connection, transport, refusal)
        self._leaving[leaving] = None
        transport.set_protocol(leaving)

    def has_left(self, leaving: "_TurnedAway", is_refused: bool, now_s: float) -> None:
        """It is no longer being turned away: it is gone, or is served after all."""
        self._leaving.pop(leaving, None)
        self.num_turned_away += is_refused
        if is_refused and now_s - self._told_s >= TOLD_S:
            self._told_s = now_s
            logger.warning(
                "%d connections are open, at most %d may be, or more is asked than can be answered: others are turned "
                "away",
                self.num_open,
                self._max_connections,
                extra={"event": LogEvent.CONNECTIONS_FULL, "num_turned_away": self.num_turned_away},
            )

    def _make_room(self, now_s: float) -> bool:
        for connection in self._long_waiting(now_s):
            if not connection.has_unread():
                self._waiting.pop(connection)
                self.num_displaced += 1
                connection.displace()
                return True
        return False

    def _long_waiting(self, now_s: float) -> Iterator["BoundedConnection"]:
        for connection, since_s in list(islice(self._waiting.items(), NUM_LOOKS)):
            if now_s - since_s < WAITED_S:
                return
            yield connection


class BoundedConnection(HttpToolsProtocol):
    """One connection of the web server, which itself bounds neither the head of a request nor the time for it.

    A connection on which nothing comes is idle, also before its first request. A head that is too long is refused. Once
    a head has begun it must come whole within a time, and so must what is left of a body whose request was answered.
    """

    def __init__(self, *args: Any, deadline_s: float, bound: ConnectionBound, **parts: Any) -> None:
        """Begins before the connection.

        Args:
            args: The web server's own.
            deadline_s: Longest time for a head, and for the rest of a body that nobody reads.
            bound: That of the server's connections.
            parts: The web server's own.
        """
        super().__init__(*args, **parts)
        self._deadline_s = deadline_s
        self._bound = bound
        self._head_bytes = 0
        self._is_in_head = True
        self._has_ended = False
        self._is_open = False  # and counted
        self._is_for_probe = False
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Is idle from the start, or turned away if there are too many."""
        self._bound.take_more(self)
        now_s = self.loop.time()
        refusal = self._bound.refusal(now_s)
        if refusal is None:
            self._begin(transport)
            self._bound.waits(self, now_s)
        else:
            self._bound.turn_away(self, transport, refusal)

    def like_this(self) -> "BoundedConnection":
        """Another connection of the same server."""
        parts = {"config": self.config, "server_state": self.server_state, "app_state": self.app_state}
        return BoundedConnection(**parts, _loop=self.loop, deadline_s=self._deadline_s, bound=self._bound)

    def begin_for_probe(self, transport: asyncio.Transport) -> None:
        """Is open for one request, although there are enough connections."""
        self._is_for_probe = True
        self._begin(transport)
        transport.set_protocol(self)

    def _begin(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._is_open = True
        self._bound.num_open += 1
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def has_unread(self) -> bool:
        """Whether the client has sent something that has not been looked at yet."""
        if self.transport.is_closing():
            return False
        looked = select.poll()
        looked.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(looked.poll(0))

    def displace(self) -> None:
        """Closes the connection, which waits for its client, for another."""
        self._close_count()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Reads on, and counts what belongs to a head that is not whole yet."""
        self._has_ended = False
        super().data_received(data)
        if not self._is_in_head or self._has_ended or self.transport.is_closing():
            return  # a head that began behind a body is counted from its next piece on
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"expected a first line and headers of at most {MAX_HEAD_BYTES} bytes, got more")
        elif self._waiting is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        super().on_headers_complete()
        self._is_in_head, self._head_bytes = False, 0
        self._wait_no_longer()
        self._bound.is_asked(self)
        if self._is_for_probe:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The body is whole; the next head follows."""
        super().on_message_complete()
        self._is_in_head, self._has_ended, self._head_bytes = True, True, 0
        self._wait_no_longer()
        self._become_idle()

    def on_response_complete(self) -> None:
        """Waits for the rest of a body that was answered before its end, which clients send before they read."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if not self._is_in_head:
            self._wait()
        else:
            self._become_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the time."""
        super().connection_lost(exc)
        self._wait_no_longer()
        self._bound.is_asked(self)
        self._close_count()

    def _become_idle(self) -> None:
        if self.cycle.response_complete:  # else it, or a request behind it, is still being answered
            self._bound.waits(self, self.loop.time())

    def _close_count(self) -> None:
        self._bound.num_open -= self._is_open
        self._is_open = False

    def _wait(self) -> None:
        self._wait_no_longer()
        self._waiting = self.loop.call_later(self._deadline_s, self._give_up)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # an earlier request of the connection is still being answered
            self._wait()


class _TurnedAway(asyncio.Protocol):
    """A connection for which there is no place, or no time.

    It is answered when its request begins to come, since clients take an answer that comes before for another one's.
    What is left of the request is taken and dropped: else the system would reset the connection, and the client might
    see that in place of the answer.
    """

    def __init__(
        self, bound: ConnectionBound, connection: BoundedConnection, transport: asyncio.Transport, refusal: bytes
    ) -> None:
        self._bound, self._connection, self._transport, self._refusal = bound, connection, transport, refusal
        self._loop = connection.loop
        self._is_answered = self._is_over = False
        self._timer = self._loop.call_later(LEAVING_S, self._answer)

    def data_received(self, data: bytes) -> None:
        if self._is_answered or self._is_over:
            return
        if self._bound.probe.match(data) and self._bound.has_room_for_probe():
            self._leave(is_refused=False)
            self._connection.begin_for_probe(self._transport)
            self._connection.data_received(data)
        else:
            self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave(is_refused=True)

    def end(self) -> None:
        """Closes the connection, whether it took its answer or not."""
        self._leave(is_refused=True)
        self._transport.abort()

    def _answer(self) -> None:
        self._is_answered = True
        self._transport.write(self._refusal)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer.cancel()
        self._timer = self._loop.call_later(LEAVING_S, self.end)

    def _leave(self, is_refused: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._bound.has_left(self, is_refused, self._loop.time())


async def _adopt(make: Callable[[], BoundedConnection], accepted: socket.socket) -> None:
    """Makes a connection of an accepted socket; closes it where its client is gone or its handshake fails."""
    connection = make()
    try:
        await connection.loop.connect_accepted_socket(lambda: connection, accepted, ssl=connection.config.ssl)
    except OSError:
        accepted.close()


def _written(error: ServiceError, retry_after_s: int) -> bytes:
    """A whole answer that says an error and ends the connection."""
    detail = ErrorDetail(type=error.type, message=error.message, request_id="")
    body = ErrorResponse(error=detail).model_dump_json().encode()
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nretry-after: {retry_after_s}\r\nconnection: close\r\n"
        "cache-control: no-store\r\n\r\n"
    )
    return head.encode() + body
