"""Whether the service is ready, and how it becomes so and stops being so."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from starlette.requests import Request

from anykey.encoder.protocol import ItemEncoder
from anykey.service.body import BodyMemory
from anykey.service.errors import NotReadyError, StartupError
from anykey.service.logs import LogEvent
from anykey.service.parts import Parts, check_match, load_encoder, load_index, open_parts
from anykey.service.reranking import PairScorer, load_rerankers
from anykey.service.schemas import Limits
from anykey.service.searching import SearchableIndex
from anykey.service.settings import ServiceSettings

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Lifecycle:
    """Loads the parts, hands them to the routes, and closes them.

    Life: `running` is the application's lifespan. The parts are loaded in the background, so that the health
    checks answer meanwhile; until then, after a failure, and while shutting down `parts` raises
    `NotReadyError` with the reason. On leaving, what is under way is drained and the parts are closed in reverse order;
    a part that is still being loaded is not waited for.

    Attributes:
        settings: The service's settings.
        failure: Why the start failed, or `None`.
        limits: What a request may ask for, from the settings.
        bodies: What bodies of requests may take.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        encoder: ItemEncoder | None = None,
        index: SearchableIndex | None = None,
        on_failure: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        rerankers: Sequence[PairScorer] | None = None,
    ) -> None:
        """Prepares; nothing is loaded yet.

        Args:
            settings: The service's settings.
            encoder: Used instead of loading the checkpoint.
            index: Used instead of opening the one of the settings; stays open afterwards.
            on_failure: Called once when the start fails.
            on_ready: Called once when everything is loaded, before the first search is answered.
            rerankers: Used instead of loading those of the settings.
        """
        self.settings = settings
        self.failure: BaseException | None = None
        self.limits = Limits.model_validate(settings.model_dump(include=set(Limits.model_fields)))
        self.bodies = BodyMemory(settings.max_bodies_bytes)
        self._encoder = encoder
        self._index = index
        self._rerankers = rerankers
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._loader: threading.Thread | None = None
        self._parts: Parts | None = None
        self._reason = "starting: the encoder and the index are being loaded"

    def parts(self) -> Parts:
        """What the routes need.

        Raises:
            NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
            IndexUnavailableError: the index cannot be reached.
        """
        if self._parts is None:
            raise NotReadyError(self._reason)
        if not self._parts.batcher.is_alive:
            raise NotReadyError("the encoder's worker has died; restart the service")
        self._parts.watch.require_reachable()
        return self._parts

    @property
    def is_loading(self) -> bool:
        """Whether a part is being loaded, be it for nobody any more."""
        return self._loader is not None and self._loader.is_alive()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads in the background, then closes in reverse order; with encoder and index given, ready when it begins."""
        async with AsyncExitStack() as stack:
            loading = asyncio.create_task(self._load(stack))
            loading.add_done_callback(self._note_outcome)
            if self._encoder is not None and self._index is not None:
                await asyncio.wait([loading])
            yield
            logger.info("stopping", extra={"event": LogEvent.STOPPING})
            self._parts, self._reason = None, "the service is shutting down"
            loading.cancel()
            await asyncio.wait([loading])
        logger.info("stopped", extra={"event": LogEvent.STOPPED})

    async def _load(self, stack: AsyncExitStack) -> Parts:
        index = self._index
        if index is None:
            index = await self._loaded(load_index)
            stack.push_async_callback(asyncio.to_thread, index.close)
        encoder = self._encoder
        if encoder is None:
            encoder = await self._loaded(load_encoder)
        check_match(encoder, index)
        rerankers = self._rerankers
        if rerankers is None and self.settings.rerankers:
            rerankers = await self._loaded(load_rerankers)
        return await open_parts(self.settings, encoder, index, stack, rerankers or ())

    async def _loaded(self, load: Callable[[ServiceSettings], T]) -> T:
        """What is loaded in a thread that nobody waits for at the end, unlike those of asyncio's own pool."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(load(self.settings))
            except BaseException as error:
                future.set_exception(error)

        self._loader = threading.Thread(target=work, name="load", daemon=True)
        self._loader.start()
        return await asyncio.wrap_future(future)

    def _note_outcome(self, loading: "asyncio.Task[Parts]") -> None:
        if loading.cancelled():
            return
        self.failure = loading.exception()
        if self.failure is None:
            if self._on_ready:
                self._on_ready()
            self._parts = loading.result()
            logger.info("ready", extra={"event": LogEvent.READY, "index_version": self._parts.index.version})
            return
        is_known = isinstance(self.failure, StartupError)
        self._reason = str(self.failure) if is_known else "the service failed to start; its log says why"
        logger.error(
            "start failed: %s",
            self._reason,
            extra={"event": LogEvent.START_FAILED},
            exc_info=None if is_known else self.failure,
        )
        if self._on_failure:
            self._on_failure()


def lifecycle_of(request: Request) -> Lifecycle:
    """The lifecycle of the application that a request came to."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def parts_of(request: Request) -> Parts:
    """What answers a request.

    Raises:
        NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
        IndexUnavailableError: the index cannot be reached.
    """
    return lifecycle_of(request).parts()
