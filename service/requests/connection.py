"""Connections that no client can keep, or fill, without asking something."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 2**16  # of a request: its first line and its headers; servers in front take less


class BoundedConnection(HttpToolsProtocol):
    """One connection of the web server, which itself bounds neither the head of a request nor the time for it.

    A connection on which nothing comes is idle, also before its first request. A head that is too long is refused. Once
    a head has begun it must come whole within a time, and so must what is left of a body whose request was answered.
    """

    def __init__(self, *args: Any, deadline_s: float, **parts: Any) -> None:
        """Begins before the connection.

        Args:
            args: The web server's own.
            deadline_s: Longest time for a head, and for the rest of a body that nobody reads.
            parts: The web server's own.
        """
        super().__init__(*args, **parts)
        self._deadline_s = deadline_s
        self._head_bytes = 0
        self._is_in_head = True
        self._has_ended = False
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Is idle from the start."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

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

    def on_message_complete(self) -> None:
        """The body is whole; the next head follows."""
        super().on_message_complete()
        self._is_in_head, self._has_ended, self._head_bytes = True, True, 0
        self._wait_no_longer()

    def on_response_complete(self) -> None:
        """Waits for the rest of a body that was answered before its end, which clients send before they read."""
        super().on_response_complete()
        if not self._is_in_head and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the time."""
        super().connection_lost(exc)
        self._wait_no_longer()

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
