"""Query vectors kept by model fingerprint and content: in this process, and in Redis where there is one.

Shape legend: D = width.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from anykey.service.errors import StartupError
from anykey.service.logs import LogEvent

Vector = NDArray[np.float32]
KEY_PREFIX = "anykey:"
VECTORS = "vector:4:"
NUM_TOKENS_BYTES = 4
ENTRY_BYTES = 600  # of an entry in memory, about, beside its vector's numbers
MAX_PENDING_WRITES = 64
MAX_NORM_ERROR = 1e-3

# RuntimeError is uvloop's word for a connection that was closed while a command was being written to it.
REDIS_FAILURES = (RedisError, OSError, TimeoutError, RuntimeError)

logger = logging.getLogger(__name__)


class QueryVector(NamedTuple):
    """What is kept of a query that was encoded.

    Attributes:
        vector_D: Its unit vector.
        is_text_cut: Whether its text was longer than the model's context.
        num_tokens: What it takes through the model.
    """

    vector_D: Vector
    is_text_cut: bool = False
    num_tokens: int = 0


class MemoryCache:
    """The most recently used vectors of this process; for one thread or one event loop.

    Attributes:
        num_bytes: What they take, about.
    """

    def __init__(self, max_entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes an empty cache.

        Args:
            max_entries: Vectors kept; 0 keeps none.
            ttl_s: How long a vector is kept.
            clock: Seconds, monotonic.
        """
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, QueryVector]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> QueryVector | None:
        """The vector, or `None` when it is absent or too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[0]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: str, query: QueryVector) -> None:
        """Keeps a copy of the vector and drops the least recently used beyond `max_entries`."""
        if self._max_entries == 0:
            return
        kept_D = query.vector_D.copy()
        kept_D.flags.writeable = False
        self._drop(key)
        self._entries[key] = (self._clock() + self._ttl_s, query._replace(vector_D=kept_D))
        self.num_bytes += ENTRY_BYTES + kept_D.nbytes
        while len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.num_bytes -= ENTRY_BYTES + entry[1].vector_D.nbytes


@dataclass
class CacheCounters:
    """What became of look-ups and writes.

    Attributes:
        memory_hits: Found in this process.
        redis_hits: Found in Redis.
        misses: Found in neither.
        redis_errors: Redis failed, was too slow, or held something that is no vector of ours.
        redis_skipped: Calls not made because Redis had just failed, or too many writes were under way.
    """

    memory_hits: int = 0
    redis_hits: int = 0
    misses: int = 0
    redis_errors: int = 0
    redis_skipped: int = 0


class RedisVectors:
    """Vectors in Redis; slow or down, it costs a request at most `timeout_s`, and that rarely.

    After a failure or a timeout Redis is left alone for `pause_s`; then one call tries again. Writes happen in
    the background, at most `MAX_PENDING_WRITES` at a time. No method raises because of Redis.

    A value is the SHA-256 of its key, a byte that is 1 if the query's text was cut, four of its number of
    tokens, and the vector's float32 bytes,
    so that an answer that belongs to another question, or to another program, is never taken for a vector.

    Life: belongs to one event loop; connects on first use; `close` waits for pending writes, at most `timeout_s`.
    """

    def __init__(
        self,
        client: "Redis",
        *,
        ttl_s: float,
        timeout_s: float,
        pause_s: float,
        counters: CacheCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes over the client; nothing is sent yet.

        Args:
            client: See `connect`.
            ttl_s: How long a vector is kept.
            timeout_s: Longest wait for one answer.
            pause_s: How long Redis is left alone after a failure.
            counters: Errors and skips are counted here.
            clock: Seconds, monotonic.
        """
        self._client = client
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._counters = counters
        self._clock = clock
        self._paused_until_s = float("-inf")
        self._has_failed = False
        self._writes: set[asyncio.Task[None]] = set()

    async def get(self, key: str, width: int) -> QueryVector | None:
        """The vector of this width, or `None`."""
        value = await self.get_value(VECTORS, key)
        if value is None:
            return None
        query = _from_bytes(value, key, width)
        if query is None:
            self._counters.redis_errors += 1
        return query

    def put(self, key: str, query: QueryVector) -> None:
        """Starts writing the vector; returns at once."""
        self.put_value(VECTORS, key, _to_bytes(key, query))

    async def get_value(self, kind: str, key: str) -> bytes | None:
        """The value of this kind and key, or `None`; it may be another program's."""
        if not self._may_call():
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                value = await self._client.get(KEY_PREFIX + kind + key)
        except REDIS_FAILURES as error:
            self._pause(error)
            return None
        self._resume()
        return value if isinstance(value, bytes) else None

    def put_value(self, kind: str, key: str, value: bytes) -> None:
        """Starts writing a value; returns at once."""
        if len(self._writes) >= MAX_PENDING_WRITES:
            self._counters.redis_skipped += 1
            return
        if self._may_call():
            task = asyncio.get_running_loop().create_task(self._write(kind + key, value))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        """Waits for pending writes and closes the connections."""
        if self._writes:
            await asyncio.wait(list(self._writes), timeout=self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.aclose()
        except REDIS_FAILURES:
            self._counters.redis_errors += 1

    async def _write(self, key: str, value: bytes) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.set(KEY_PREFIX + key, value, px=self._ttl_ms)
        except REDIS_FAILURES as error:
            self._pause(error)
        else:
            self._resume()

    def _may_call(self) -> bool:
        """Whether Redis may be called now; after a failure, one caller per pause."""
        now_s = self._clock()
        if now_s < self._paused_until_s:
            self._counters.redis_skipped += 1
            return False
        if self._has_failed:  # this call tries; the others go without until it has succeeded
            self._paused_until_s = now_s + self._timeout_s
        return True

    def _pause(self, error: Exception) -> None:
        self._counters.redis_errors += 1
        self._paused_until_s = self._clock() + self._pause_s
        if not self._has_failed:
            logger.warning(
                "Redis failed or was too slow; going on without it",
                extra={"event": LogEvent.CACHE_PAUSED, "reason": type(error).__name__, "pause_s": self._pause_s},
            )
        self._has_failed = True

    def _resume(self) -> None:
        if self._has_failed:
            logger.info("Redis answers again", extra={"event": LogEvent.CACHE_RESUMED})
            self._has_failed = False
            self._paused_until_s = float("-inf")


class VectorCache:
    """This process's vectors in front of Redis's; belongs to one event loop."""

    def __init__(self, memory: MemoryCache, redis: RedisVectors | None, counts: CacheCounters, width: int) -> None:
        """Joins the two.

        Args:
            memory: Asked first; filled from Redis.
            redis: Asked second; `None` where there is none.
            counts: Hits and misses are counted here; the same object as Redis's.
            width: D.
        """
        self._memory = memory
        self._redis = redis
        self._counts = counts
        self._width = width

    def at_hand(self, key: str) -> QueryVector | None:
        """The vector if this process has it, else `None`; nothing is asked of Redis."""
        query = self._memory.get(key)
        if query is not None:
            self._counts.memory_hits += 1
        return query

    async def get(self, key: str) -> QueryVector | None:
        """The vector, or `None`; never raises because of Redis."""
        query = self.at_hand(key)
        if query is not None:
            return query
        query = await self._redis.get(key, self._width) if self._redis else None
        if query is None:
            self._counts.misses += 1
            return None
        self._counts.redis_hits += 1
        self._memory.put(key, query)
        return query

    def put(self, key: str, query: QueryVector) -> None:
        """Keeps the vector; returns at once."""
        self._memory.put(key, query)
        if self._redis:
            self._redis.put(key, query)

    def counters(self) -> dict[str, int]:
        """A copy of `CacheCounters`, and the entries held in this process."""
        return {**asdict(self._counts), "memory_entries": len(self._memory)}

    async def close(self) -> None:
        """Finishes pending writes and closes the connections."""
        if self._redis:
            await self._redis.close()


def connect(url: str, timeout_s: float) -> "Redis":
    """A Redis client for `RedisVectors`: short timeouts, no retries; nothing is sent yet.

    Args:
        url: `redis://host:6379/0`, `rediss://...` or `unix://...`.
        timeout_s: Longest wait for a connection and for an answer.

    Raises:
        StartupError: the URL is no Redis URL.
    """
    try:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=2 * MAX_PENDING_WRITES,
        )
    except ValueError as error:
        raise StartupError("redis_url must look like redis://host:6379/0") from error
    return client


def _to_bytes(key: str, query: QueryVector) -> bytes:
    facts = bytes([query.is_text_cut]) + query.num_tokens.to_bytes(NUM_TOKENS_BYTES, "little")
    return hashlib.sha256(key.encode()).digest() + facts + query.vector_D.astype("<f4").tobytes()


def _from_bytes(value: object, key: str, width: int) -> QueryVector | None:
    """The vector in a value that Redis gave, or `None` when it is not what `_to_bytes` wrote for this key."""
    digest = hashlib.sha256(key.encode()).digest()
    begins_at = len(digest) + 1 + NUM_TOKENS_BYTES
    if not isinstance(value, bytes) or len(value) != begins_at + 4 * width or not value.startswith(digest):
        return None
    vector_D = np.frombuffer(value, dtype="<f4", offset=begins_at).astype(np.float32)
    is_unit = abs(float(np.linalg.norm(vector_D)) - 1) < MAX_NORM_ERROR
    num_tokens = int.from_bytes(value[len(digest) + 1 : begins_at], "little")
    return QueryVector(vector_D, bool(value[len(digest)]), num_tokens) if is_unit else None
