"""What answers the requests of an index, for as long as one of them is under way on it."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from anykey.index.releases import OpenRelease
from anykey.service.indexes.parts import Parts
from anykey.service.requests.context import IN_USE

if TYPE_CHECKING:
    from anykey.service.indexes.named import ServedIndex


class Serving:
    """What answers an index's requests, kept open until it is retired and the last request on it has been answered.

    Belongs to one event loop.

    Attributes:
        parts: What the routes use.
        release: The release that they are of; `None` where there are none.
        is_closed: Set when all of it has been closed.
    """

    def __init__(self, parts: Parts, release: OpenRelease | None, stack: AsyncExitStack) -> None:
        """Takes over open parts.

        Args:
            parts: Open.
            release: What they are of.
            stack: Closes them.
        """
        self.parts = parts
        self.release = release
        self.is_closed = asyncio.Event()
        self._stack = stack
        self._num_requests = 0
        self._is_retired = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str | None:
        """The release's."""
        return None if self.release is None else self.release.facts.number

    def acquire(self) -> None:
        """Keeps it open until `let_go`."""
        self._num_requests += 1

    def let_go(self) -> None:
        """Ends what `acquire` began."""
        self._num_requests -= 1
        self._close_if_unused()

    def retire(self) -> None:
        """Closes it as soon as the requests that are under way on it have been answered; they change no more keys."""
        self._is_retired = True
        self.parts.storer.writer.retire()
        self._close_if_unused()

    async def close(self) -> None:
        """Closes it whether or not requests are under way; repeating it is fine."""
        self._is_retired = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def _close_if_unused(self) -> None:
        if self._is_retired and not self._num_requests and self._closing is None:
            self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        try:
            await self._stack.aclose()
        finally:
            self.is_closed.set()


class Leases:
    """ASGI layer: what a request asked for stays open until it has been answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        taken: dict[str, Serving] = {}
        scope[IN_USE] = taken
        try:
            await self._app(scope, receive, send)
        finally:
            for serving in taken.values():
                serving.let_go()


def take(scope: Scope, served: "ServedIndex") -> Serving:
    """What answers a request, the same each time that the request asks.

    Args:
        scope: The request's.
        served: The index.

    Raises:
        NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
        IndexUnavailableError: the index cannot be reached.
    """
    taken: dict[str, Serving] = scope[IN_USE]
    serving = taken.get(served.name)
    if serving is None:
        serving = served.serving()
        serving.acquire()
        taken[served.name] = serving
    return serving
