"""The indexes that are served, by name: what answers each of them, and for how long."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from anykey.service.errors import NotFoundError, NotReadyError, ServiceError, StartupError
from anykey.service.logs import LogEvent
from anykey.service.parts import Parts, check_match, load_index, open_parts
from anykey.service.resources import Resources
from anykey.service.searching import SearchableIndex
from anykey.service.settings import ServiceSettings

IN_USE = "anykey.in_use"
MAX_SHOWN = 40
STARTING = "starting: the encoder and the index are being loaded"
STOPPING = "the service is shutting down"
UNKNOWN_FAILURE = "the service failed to start; its log says why"

logger = logging.getLogger(__name__)


class Serving:
    """What answers an index's requests, kept open until it is retired and the last request on it has been answered.

    Belongs to one event loop.

    Attributes:
        parts: What the routes use.
        is_closed: Set when all of it has been closed.
    """

    def __init__(self, parts: Parts, stack: AsyncExitStack) -> None:
        """Takes over open parts.

        Args:
            parts: Open.
            stack: Closes them.
        """
        self.parts = parts
        self.is_closed = asyncio.Event()
        self._stack = stack
        self._num_requests = 0
        self._is_retired = False
        self._closing: asyncio.Task[None] | None = None

    def acquire(self) -> None:
        """Keeps it open until `release`."""
        self._num_requests += 1

    def release(self) -> None:
        """Lets go of it once."""
        self._num_requests -= 1
        self._close_if_unused()

    def retire(self) -> None:
        """Closes it as soon as the requests that are under way on it have been answered."""
        self._is_retired = True
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


class ServedIndex:
    """One index by its name: loading, answering, or failed.

    Belongs to one event loop.

    Attributes:
        name: What addresses call it.
        settings: The service's settings, with those of this index in place of the service's own.
        failure: Why it could not be loaded, or `None`.
    """

    def __init__(
        self, name: str, settings: ServiceSettings, resources: Resources, given: SearchableIndex | None = None
    ) -> None:
        """Prepares; nothing is loaded yet.

        Args:
            name: What addresses call it.
            settings: The service's, with those of this index.
            resources: What all indexes share.
            given: Used instead of opening one; stays open afterwards.
        """
        self.name = name
        self.settings = settings
        self.failure: Exception | None = None
        self._resources = resources
        self._given = given
        self._serving: Serving | None = None
        self._stopped: Serving | None = None
        self._reason = STARTING

    @property
    def is_loading(self) -> bool:
        """Whether it neither answers nor has failed yet."""
        return self._serving is None and self.failure is None

    def serving(self) -> Serving:
        """What answers requests at this moment.

        Raises:
            NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
            IndexUnavailableError: the index cannot be reached.
        """
        if self._serving is None:
            raise NotReadyError(self._reason)
        parts = self._serving.parts
        if not parts.batcher.is_alive:
            raise NotReadyError("the encoder's worker has died; restart the service")
        parts.watch.require_reachable()
        return self._serving

    def require_ready(self) -> None:
        """Returns if every search of it is answered.

        Raises:
            NotReadyError: not loaded, shutting down, or a worker died; says which.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        parts = self.serving().parts
        parts.watch.require_sound()
        parts.rerankers.require_alive()

    async def load(self) -> None:
        """Opens it; a failure is noted, and told to whoever asks for what answers."""
        try:
            self._serving = await self._open()
        except Exception as error:
            is_known = isinstance(error, StartupError)
            self.failure, self._reason = error, str(error) if is_known else UNKNOWN_FAILURE
            logger.error(
                "start failed: %s",
                self._reason,
                extra={"event": LogEvent.START_FAILED, "index": self.name},
                exc_info=None if is_known else error,
            )
        else:
            version = self._serving.parts.index.version
            logger.info("ready", extra={"event": LogEvent.READY, "index": self.name, "index_version": version})

    def stop(self) -> None:
        """Answers no request any more."""
        self._reason, self._stopped, self._serving = STOPPING, self._serving, None

    async def close(self) -> None:
        """Closes what was open; `stop` comes first."""
        if self._stopped is not None:
            await self._stopped.close()

    async def _open(self) -> Serving:
        resources, settings = self._resources, self.settings
        async with AsyncExitStack() as stack:  # closes what was opened if the rest cannot be
            index = self._given
            if index is None:
                index = await resources.loader.load(lambda: load_index(settings))
                stack.push_async_callback(asyncio.to_thread, index.close)
            loaded = await resources.encoders.take(settings, stack)
            check_match(loaded.encoder, index)
            await resources.load_rerankers()
            parts = await open_parts(settings, resources, loaded, index, stack)
            kept = stack.pop_all()
        return Serving(parts, kept)


class Indexes:
    """The indexes of one process by name; belongs to one event loop."""

    def __init__(self, served: Sequence[ServedIndex], default: str) -> None:
        """Takes them.

        Args:
            served: In the order of loading.
            default: Name of the one that addresses without a name mean.
        """
        self._served = {one.name: one for one in served}
        self.default = default

    def all(self) -> list[ServedIndex]:
        """Each of them, in the order of loading."""
        return list(self._served.values())

    def named(self, name: str | None) -> ServedIndex:
        """The one of this name, or the default one.

        Raises:
            NotFoundError: none has this name.
        """
        served = self._served.get(self.default if name is None else name)
        if served is None:
            raise NotFoundError(f"no index is called {ascii(name)[:MAX_SHOWN]}; there are {', '.join(self._served)}")
        return served

    def require_ready(self) -> dict[str, str]:
        """Returns if each index that could be loaded is answered, or some are; says what is wrong with others.

        Returns:
            The reason why it does not answer, for each index that does not.

        Raises:
            NotReadyError: one is still being loaded, or none answers; says why the default one does not.
            IndexUnavailableError: none answers, and the default one cannot be reached or is damaged.
        """
        for served in self.all():
            if served.is_loading:
                served.require_ready()
        failures: dict[str, ServiceError] = {}
        for served in self.all():
            try:
                served.require_ready()
            except ServiceError as error:
                failures[served.name] = error
        if len(failures) == len(self._served):
            raise failures[self.default]
        return {name: error.message for name, error in failures.items()}


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
                serving.release()


def take(scope: Scope, served: ServedIndex) -> Serving:
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
