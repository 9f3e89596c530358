"""Whether the service is ready, and how it becomes so and stops being so."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from starlette.requests import Request

from anykey.encoder.protocol import ItemEncoder
from anykey.program.extras import MissingLibraryError, require_library
from anykey.service.access.api_keys import AccessScope, ApiKeysError
from anykey.service.access.callers import Callers, caller_of
from anykey.service.access.rate_limits import RateLimits
from anykey.service.errors import StartupError
from anykey.service.indexes.memory import MemoryAccounts
from anykey.service.indexes.named import Indexes, ServedIndex
from anykey.service.indexes.parts import Parts, load_encoder
from anykey.service.indexes.resources import Resources
from anykey.service.indexes.serving import take
from anykey.service.logs import EventCounts, LogEvent
from anykey.service.operations.collecting import MetricsCollector
from anykey.service.operations.metrics_port import metrics_port
from anykey.service.operations.query_log import QueryLog
from anykey.service.operations.slow_queries import SlowQueries
from anykey.service.operations.traces import Tracer, are_wanted
from anykey.service.operations.watcher import Watcher
from anykey.service.queries.known import KnownQueries
from anykey.service.requests.body import BodyMemory
from anykey.service.requests.image_urls import ImageFetcher
from anykey.service.schemas import Limits
from anykey.service.searching.reranking import PairScorer
from anykey.service.searching.searcher import SearchableIndex
from anykey.service.settings import ServiceSettings, parse_token_scopes

if TYPE_CHECKING:
    from anykey.service.access.signed_tokens import SignedTokens

INDEX_NAME = "index_name"  # in addresses below /indexes/, and in those of dialects that name an index
LOOK_AT_FILES_S = 0.5  # between two looks at the file of API keys, which a revoked one outlives no longer

logger = logging.getLogger(__name__)


class Lifecycle:
    """Loads the indexes, hands them to the routes, and closes them.

    Life: `running` is the application's lifespan. The indexes are loaded in the background, one after the other, so
    that the health checks answer meanwhile; until an index is there, after a failure, and while shutting down `parts`
    raises `NotReadyError` with the reason. One that cannot be loaded leaves the others alone; where none can be, the
    start has failed. On leaving, what is under way is drained and all is closed in reverse order; what is still being
    loaded is not waited for.

    Attributes:
        settings: The service's settings.
        failure: Why the start failed, or `None`.
        limits: What a request may ask for, from the settings.
        bodies: What bodies of requests may take.
        callers: Tells who a request comes from.
        watched_files: Each takes what has changed in files; called in a thread, twice a second.
        rate_limits: Refuses callers who ask for too much.
        known_queries: Reads queries, and knows those that came lately.
        image_fetcher: Fetches images that requests name by their addresses.
        indexes: Those that are served, whether or not they are loaded.
        resources: What they share.
        memory: Tells what they hold.
        watcher: Watches what becomes of requests.
        query_log: Where queries and feedback are written down; `None` for nowhere.
        metrics: Reads all metrics.
        metrics_listener: Listens on a port for metrics alone, which are served there; `None` for no such port.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        encoder: ItemEncoder | None = None,
        index: SearchableIndex | None = None,
        on_failure: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        rerankers: Sequence[PairScorer] | None = None,
        load_encoder: Callable[[ServiceSettings], ItemEncoder] = load_encoder,
    ) -> None:
        """Prepares; nothing is loaded yet.

        Args:
            settings: The service's settings.
            encoder: Used instead of loading any checkpoint.
            index: Used instead of opening the default index; stays open afterwards.
            on_failure: Called once when the start fails.
            on_ready: Called when everything is loaded, and again whenever another release has taken over, or failed to.
            rerankers: Used instead of loading those of the settings.
            load_encoder: Makes an encoder of an index's settings.

        Raises:
            StartupError: the Redis URL is no Redis URL, or the API keys cannot be read.
        """
        self.settings = settings
        self.callers = _callers_of(settings)
        self.watched_files: list[Callable[[], None]] = self.callers.watched
        self.rate_limits = _rate_limits_of(settings)
        self.image_fetcher = ImageFetcher(
            settings.image_urls,
            settings.image_url_networks,
            max_images=settings.max_image_urls,
            max_bytes=settings.max_image_bytes,
            timeout_s=settings.image_url_timeout_ms / 1000,
        )
        self.failure: Exception | None = None
        self.limits = Limits.model_validate(settings.model_dump(include=set(Limits.model_fields)))
        self.bodies = BodyMemory(settings.max_bodies_bytes)
        self.known_queries = KnownQueries(self.limits)
        self.watcher = Watcher()
        if settings.slow_ms:
            self.watcher.tell(SlowQueries(settings.slow_ms / 1000))
        self.resources = Resources(settings, load_encoder=load_encoder, encoder=encoder, scorers=rerankers)
        self._is_given = encoder is not None and index is not None
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._following: list[asyncio.Task[None]] = []
        by_name, default = settings.by_index()
        self.indexes = Indexes(
            [
                ServedIndex(name, its_settings, self.resources, index if name == default else None, on_ready)
                for name, its_settings in by_name.items()
            ],
            default,
        )
        self.memory = MemoryAccounts(self.resources, self.indexes, settings.memory_limit_mib)
        self.query_log = self._open_query_log()
        self.metrics = MetricsCollector(self, EventCounts())
        self.metrics_listener: socket.socket | None = None

    def parts(self, name: str | None = None) -> Parts:
        """What answers at this moment for an index, the default one if none is named.

        Raises:
            NotFoundError: there is no such index.
            NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
            IndexUnavailableError: the index cannot be reached.
        """
        return self.indexes.named(name).serving().parts

    @property
    def is_loading(self) -> bool:
        """Whether a part is being loaded, be it for nobody any more."""
        return self.resources.loader.is_loading

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads in the background, then closes in reverse order; with encoder and index given, ready when it begins."""
        with self._watching():
            async with self._serving():
                yield

    def _open_query_log(self) -> QueryLog | None:
        settings = self.settings
        if settings.query_log is None:
            return None
        try:
            log = QueryLog(
                settings.query_log,
                share=settings.query_log_share,
                days=settings.query_log_days,
                max_bytes=settings.query_log_bytes,
                image_bytes=settings.query_log_image_bytes,
            )
        except OSError as error:
            raise StartupError(f"cannot write the query log {settings.query_log}: {error.strerror}") from error
        self.watcher.tell(log)
        self.watcher.do_each_minute(log.tidy)
        self.watcher.wants_next = log.wants_next
        return log

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Watches requests and counts log lines, for the length of the block."""
        ours = logging.getLogger("anykey.service")
        ours.addHandler(self.metrics.events)
        try:
            with ExitStack() as stack:
                if self.query_log is not None:
                    stack.callback(self.query_log.close)
                if are_wanted(self.settings.traces_url):
                    tracer = Tracer(self.settings.traces_url)
                    stack.callback(tracer.close)
                    self.watcher.tell(tracer)
                    self.watcher.is_tracing = True
                self.watcher.start()
                stack.callback(self.watcher.close)
                if self.metrics_listener is not None:
                    loop = asyncio.get_running_loop()
                    stack.enter_context(metrics_port(self.metrics, loop, self.metrics_listener))
                yield
        finally:
            ours.removeHandler(self.metrics.events)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._load())
        watching = asyncio.create_task(self._watch_files())
        if self._is_given:
            await asyncio.wait([loading])
        yield
        logger.info("stopping", extra={"event": LogEvent.STOPPING})
        for served in self.indexes.all():
            served.stop()
        for task in (loading, watching, *self._following):
            task.cancel()
        await asyncio.wait([loading, watching, *self._following])
        await self.resources.drain()
        for served in reversed(self.indexes.all()):
            await served.close()
        await self.resources.close()
        await self.rate_limits.close()
        logger.info("stopped", extra={"event": LogEvent.STOPPED})

    async def _watch_files(self) -> None:
        """Takes changes of each file apart from the others: one of them may be on a machine that hangs."""

        async def watch(refresh: Callable[[], None]) -> None:
            while True:
                await asyncio.to_thread(refresh)
                await asyncio.sleep(LOOK_AT_FILES_S)

        await asyncio.gather(*map(watch, self.watched_files))

    async def _load(self) -> None:
        for served in self.indexes.all():
            await served.load()
        if all(served.failure is not None for served in self.indexes.all()):
            self.failure = self.indexes.named(None).failure
            if self._on_failure:
                self._on_failure()
            return
        if self._on_ready:
            self._on_ready()
        self._following = [asyncio.create_task(served.follow()) for served in self.indexes.all()]


def _callers_of(settings: ServiceSettings) -> Callers:
    try:
        return Callers(settings.api_keys, map(AccessScope, settings.anonymous_scopes), _tokens_of(settings))
    except ApiKeysError as error:
        raise StartupError(f"{error}; `anykey-serve keys add` makes API keys") from error


def _tokens_of(settings: ServiceSettings) -> "SignedTokens | None":
    """What takes signed tokens, if any are; loads a library that only an extra brings."""
    if settings.oidc_issuer is None or settings.oidc_keys is None:
        return None
    try:
        require_library("joserfc", "oidc", "oidc_issuer")
    except MissingLibraryError as error:
        raise StartupError(str(error)) from error
    from anykey.service.access.signed_tokens import SignedTokens, TokenKeysError, TokenRules

    rules = TokenRules(
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_keys,
        parse_token_scopes(settings.oidc_scopes),
        settings.oidc_scopes_claim,
        settings.oidc_indexes_claim,
        settings.oidc_leeway_s,
    )
    try:
        return SignedTokens(rules)
    except TokenKeysError as error:
        raise StartupError(f"oidc_keys: {error}") from error


def _rate_limits_of(settings: ServiceSettings) -> RateLimits:
    return RateLimits(
        {
            "requests": settings.limit_requests,
            "images": settings.limit_images,
            "bytes": settings.limit_bytes,
        },
        proxies=settings.forwarded_allow_ips,
        redis_url=None if settings.redis_url is None else settings.redis_url.get_secret_value(),
        timeout_s=settings.redis_timeout_ms / 1000,
        pause_s=settings.redis_pause_s,
    )


def lifecycle_of(request: Request) -> Lifecycle:
    """The lifecycle of the application that a request came to."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def index_of(request: Request) -> ServedIndex:
    """The index that a request's address names, or the default one.

    Raises:
        NotFoundError: there is no such index; names those that there are, to callers who may see them.
    """
    caller = caller_of(request.scope)
    shown = caller.indexes if caller.scopes else ()
    return lifecycle_of(request).indexes.named(request.path_params.get(INDEX_NAME), shown)


def parts_of(request: Request) -> Parts:
    """What answers a request, the same each time that it asks, and open until it has been answered.

    Raises:
        NotFoundError: there is no such index.
        NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
        IndexUnavailableError: the index cannot be reached.
    """
    return take(request.scope, index_of(request)).parts
