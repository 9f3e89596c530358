"""What all indexes of one process share: threads, query vectors that are kept, encoders and rerankers."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from anykey.encoder.description import described_fingerprint
from anykey.encoder.images import ImageLimits
from anykey.encoder.protocol import ItemEncoder, Prepared
from anykey.service.answers.kept import ResultCache, ResultMemory
from anykey.service.concurrency.threads import BoundedThreads, stand_back
from anykey.service.embedding.batcher import Batcher, LaterItems
from anykey.service.embedding.cache import CacheCounters, MemoryCache, RedisVectors, VectorCache, connect
from anykey.service.errors import StartupError
from anykey.service.operations.audit import AuditLog
from anykey.service.requests.admission import Pressure, RefusalPace
from anykey.service.searching.reranking import PairScorer, Rerankers, load_rerankers, open_batcher
from anykey.service.searching.searcher import IndexSearcher
from anykey.service.searching.thumbnails import Thumbnails
from anykey.service.settings import ServiceSettings

T = TypeVar("T")
MAX_PENDING_CHANGES = 100_000  # lines and keys; how many there are is bounded by what bodies may hold


class Loader:
    """Loads one thing at a time, in a thread that nobody waits for at the end, unlike those of asyncio's own pool.

    It is one thread for all, since the allocator gives each new thread room of its own, which is not all given back.
    Belongs to one event loop.
    """

    def __init__(self) -> None:
        """Makes the thread; it starts with the first thing to load."""
        self._wanted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)
        self._num_loading = 0
        self._lock = threading.Lock()

    @property
    def is_loading(self) -> bool:
        """Whether something is being loaded, be it for nobody any more."""
        return self._num_loading > 0

    def close(self) -> None:
        """Ends the thread after what it is at; returns at once."""
        self._wanted.put(None)

    async def load(self, load: Callable[[], T]) -> T:
        """What `load` gives, or raises."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(load())
                except BaseException as error:
                    future.set_exception(error)

        if self._thread.ident is None:
            self._thread.start()
        with self._lock:
            self._num_loading += 1
        self._wanted.put(work)
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        stand_back()  # and so do the threads of a library that computes, which is loaded here
        while (work := self._wanted.get()) is not None:
            work()
            with self._lock:
                self._num_loading -= 1
            del work  # and what it loaded, which may be gone before the next thing comes


class LoadedEncoder:
    """An encoder and the batcher that owns it, for as long as an index uses it.

    Attributes:
        encoder: Loaded.
        weights_bytes: Bytes of its weights.
        batcher: Its workers.
        later_turns: Places for items that stand back behind searches; who holds one finds a place in the batcher.
        num_users: How many indexes use it.
    """

    def __init__(self, encoder: ItemEncoder, weights_bytes: int, settings: ServiceSettings) -> None:
        """Starts the workers.

        Args:
            encoder: Loaded.
            weights_bytes: Bytes of its weights.
            settings: The service's settings.
        """
        self.encoder = encoder
        self.weights_bytes = weights_bytes
        self.batcher: Batcher[Prepared] = Batcher(
            encoder,
            max_batch_items=settings.max_batch_items,
            max_batch_tokens=settings.max_batch_tokens,
            max_wait_s=settings.max_wait_ms / 1000,
            max_queue_items=settings.max_queue_items,
            clock=time.monotonic,
            later=LaterItems(
                settings.max_queue_changes, settings.max_batch_changes, settings.max_change_wait_ms / 1000
            ),
            num_workers=encoder.batches_at_once,
        )
        self.later_turns = asyncio.Semaphore(settings.max_queue_changes)
        self.num_users = 0


class Encoders:
    """The encoders in use, each loaded once however many indexes use it; belongs to one event loop.

    Two are the same if they have the same fingerprint, which tells weights, fusion and width, and compute alike. What a
    checkpoint says of itself tells so before it is loaded; of weights that say nothing it is known afterwards.
    """

    def __init__(
        self,
        loader: Loader,
        load: Callable[[ServiceSettings], ItemEncoder],
        drain_s: float,
        given: ItemEncoder | None = None,
    ) -> None:
        """Begins with none.

        Args:
            loader: Loads them.
            load: Makes an encoder of settings.
            drain_s: Longest time for encoding what is queued when a batcher is closed.
            given: Used instead of loading any.
        """
        self._loader = loader
        self._load = load
        self._drain_s = drain_s
        self._given = given
        self._turn = asyncio.Lock()
        self._in_use: dict[tuple[str, ...], LoadedEncoder] = {}
        self._asked_for: dict[tuple[str, ...], LoadedEncoder] = {}

    def all(self) -> list[LoadedEncoder]:
        """Each of them."""
        return list(self._in_use.values())

    def has(self, settings: ServiceSettings) -> bool:
        """Whether the encoder of an index is known to be loaded."""
        asked = _asked_for(settings)
        return self._given is not None or (asked is not None and asked in self._asked_for)

    async def take(self, settings: ServiceSettings, stack: AsyncExitStack) -> LoadedEncoder:
        """The encoder of an index; `stack` gives it back, and the last to do so ends its workers.

        Args:
            settings: The index's.
            stack: Receives the closing call.

        Raises:
            StartupError: missing, damaged, or the device is not to be had.
        """
        async with self._turn:
            asked = _asked_for(settings)
            loaded = None if asked is None else self._asked_for.get(asked)
            if loaded is None:
                encoder = self._given
                if encoder is None:
                    encoder = await self._loader.load(partial(self._load, settings))
                loaded = self._in_use.get(_identity(encoder))
                if loaded is None:
                    loaded = LoadedEncoder(encoder, await self._loader.load(lambda: encoder.weights_bytes), settings)
            self._in_use[_identity(loaded.encoder)] = loaded
            if asked is not None:
                self._asked_for[asked] = loaded
            loaded.num_users += 1
            stack.push_async_callback(self._give_back, loaded)
            return loaded

    async def drain(self) -> None:
        """Encodes what is queued, and ends all workers."""
        await asyncio.gather(*map(self._close, self.all()))

    async def _give_back(self, loaded: LoadedEncoder) -> None:
        loaded.num_users -= 1
        if loaded.num_users == 0:
            self._in_use = {name: other for name, other in self._in_use.items() if other is not loaded}
            self._asked_for = {name: other for name, other in self._asked_for.items() if other is not loaded}
            await self._close(loaded)

    async def _close(self, loaded: LoadedEncoder) -> None:
        await asyncio.to_thread(loaded.batcher.close, self._drain_s)


def _asked_for(settings: ServiceSettings) -> tuple[str, ...] | None:
    """What tells an encoder from others before it is loaded; `None` where that does not suffice."""
    fingerprint = described_fingerprint(settings.checkpoint, settings.fusion, settings.width)
    return None if fingerprint is None else (fingerprint, settings.device, settings.backend, settings.precision)


def _identity(encoder: ItemEncoder) -> tuple[str, ...]:
    """What tells a loaded encoder from others."""
    return encoder.fingerprint, encoder.backend, encoder.precision, str(encoder.device)


class Resources:
    """What all indexes of one process share; belongs to one event loop.

    Life: ready when made, but for the rerankers; `close` ends it, the workers first, while the threads still work.

    Attributes:
        loader: Loads what takes long.
        encoders: Those in use.
        decode_threads: Decode images of queries.
        body_threads: Parse bodies of requests and write those of answers, which must not wait for images.
        image_threads: Read images that an index only refers to.
        change_threads: Parse bodies with keys that are to be stored, and decode their images.
        pressure: How far the event loop is behind.
        refusal_pace: When those who are refused are told so.
        thumbnails: Makes small pictures of images, and keeps them.
        rerankers: Cross-encoders, each with the batcher that owns it.
        reranker_bytes: Bytes of the weights of each.
        query_vectors: Those that are kept in this process.
        vector_counts: What became of the looks for them, of all indexes.
        answers: Those that are kept in this process.
        audit: Where it is written down who changes which keys; `None` for nowhere.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        load_encoder: Callable[[ServiceSettings], ItemEncoder],
        encoder: ItemEncoder | None = None,
        scorers: Sequence[PairScorer] | None = None,
    ) -> None:
        """Starts the threads.

        Args:
            settings: The service's settings.
            load_encoder: Makes an encoder of an index's settings.
            encoder: Used instead of loading any.
            scorers: Cross-encoders that are used instead of loading those of the settings.

        Raises:
            StartupError: the Redis URL is no Redis URL, or the audit log cannot be written.
        """
        self._settings = settings
        self.audit = _audit_of(settings)
        self._drain_s = settings.drain_ms / 1000
        self.vector_counts = CacheCounters()
        self.query_vectors = MemoryCache(settings.cache_entries, settings.cache_ttl_s)
        self._redis = _redis_of(settings, self.vector_counts)
        self.answers = ResultMemory(settings.result_cache_bytes, settings.cache_ttl_s)
        self._scorers = scorers
        self.loader = Loader()
        self.encoders = Encoders(self.loader, load_encoder, self._drain_s, encoder)
        self.decode_threads = BoundedThreads(
            "decode", settings.decode_threads, settings.max_queue_items, stands_back=True
        )
        self.body_threads = BoundedThreads("bodies", settings.decode_threads, settings.max_queue_items)
        self.image_threads = BoundedThreads(
            "images", settings.image_threads, settings.max_queue_items, stands_back=True
        )
        self.change_threads = BoundedThreads("changes", settings.change_threads, MAX_PENDING_CHANGES, stands_back=True)
        self._thumbnail_threads = BoundedThreads(
            "thumbnails", settings.thumbnail_threads, settings.max_queue_items, stands_back=True
        )
        self.pressure = Pressure()
        self.refusal_pace = RefusalPace()
        self.thumbnails = Thumbnails(self._thumbnail_threads, ImageLimits.of(settings), settings.thumbnail_cache_bytes)
        self.rerankers: list[tuple[PairScorer, Batcher[Any]]] = []
        self.reranker_bytes: list[int] = []

    def vectors(self, width: int) -> VectorCache:
        """The query vectors that are kept, for an encoder of this width."""
        return VectorCache(self.query_vectors, self._redis, self.vector_counts, width)

    def results(self, searcher: IndexSearcher, rerankers: Rerankers, computed_by: str) -> ResultCache:
        """The answers that are kept, for an index.

        Args:
            searcher: The index's.
            rerankers: The index's.
            computed_by: Tells the index and its encoder from others.
        """
        return ResultCache(
            self.answers,
            self._redis,
            searcher,
            rerankers,
            computed_by=computed_by,
            threads=self.body_threads,
            is_on=self._settings.result_cache_bytes > 0,
        )

    async def load_rerankers(self) -> None:
        """Loads those of the settings and starts their workers, the first time that it is called.

        Raises:
            StartupError: a library or a directory is missing, or a directory is damaged or no cross-encoder.
        """
        if self._scorers is None:
            is_any = bool(self._settings.rerankers)
            self._scorers = await self.loader.load(partial(load_rerankers, self._settings)) if is_any else ()
        if not self.rerankers:
            scorers = self._scorers
            self.reranker_bytes = await self.loader.load(lambda: [scorer.weights_bytes for scorer in scorers])
            self.rerankers = [(scorer, open_batcher(scorer, self._settings)) for scorer in scorers]

    async def drain(self) -> None:
        """Computes what is queued, and ends all workers."""
        batchers = [batcher for _, batcher in self.rerankers]
        await asyncio.gather(*(asyncio.to_thread(batcher.close, self._drain_s) for batcher in batchers))
        await self.encoders.drain()

    async def close(self) -> None:
        """Ends the workers, the threads, and the connections last."""
        self.loader.close()
        await self.drain()
        await asyncio.to_thread(self.image_threads.close)
        await asyncio.to_thread(self._thumbnail_threads.close)
        await asyncio.to_thread(self.decode_threads.close)
        await asyncio.to_thread(self.body_threads.close)
        await asyncio.to_thread(self.change_threads.close)
        if self._redis:
            await self._redis.close()
        if self.audit is not None:
            self.audit.close()


def _audit_of(settings: ServiceSettings) -> AuditLog | None:
    if settings.audit_log is None:
        return None
    try:
        return AuditLog(settings.audit_log, max_bytes=settings.audit_log_bytes, num_files=settings.audit_log_files)
    except OSError as error:
        raise StartupError(f"cannot write the audit log {settings.audit_log}: {error.strerror}") from error


def _redis_of(settings: ServiceSettings, counts: CacheCounters) -> RedisVectors | None:
    """The vectors in Redis, where the settings name one."""
    if settings.redis_url is None:
        return None
    timeout_s = settings.redis_timeout_ms / 1000
    return RedisVectors(
        connect(settings.redis_url.get_secret_value(), timeout_s),
        ttl_s=settings.cache_ttl_s,
        timeout_s=timeout_s,
        pause_s=settings.redis_pause_s,
        counters=counts,
    )
