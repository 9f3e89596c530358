"""Protects the vector cache: least recently used goes first, old entries go, and Redis can only help."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from anykey.service.embedding.cache import (
    MAX_PENDING_WRITES,
    CacheCounters,
    MemoryCache,
    QueryVector,
    RedisVectors,
    VectorCache,
    connect,
)
from anykey.service.errors import StartupError

VECTOR = np.array([0.6, 0.8], dtype=np.float32)
QUERY = QueryVector(VECTOR, is_text_cut=True)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class DictRedis:
    """The two commands of Redis that are used, on a dict, with failures on demand."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.calls = 0
        self.failure: Exception | None = None
        self.stall: asyncio.Event | None = None

    async def get(self, key: str) -> bytes | None:
        await self._answer()
        return self.values.get(key)

    async def set(self, key: str, value: bytes, px: int) -> None:
        await self._answer()
        self.values[key] = value

    async def aclose(self) -> None:
        return None

    async def _answer(self) -> None:
        self.calls += 1
        if self.stall:
            await self.stall.wait()
        if self.failure:
            raise self.failure


def make(redis: DictRedis, clock: Callable[[], float] | None = None, timeout_s: float = 5.0) -> VectorCache:
    counts = CacheCounters()
    client: Any = redis
    vectors = RedisVectors(client, ttl_s=60, timeout_s=timeout_s, pause_s=5, counters=counts, clock=clock or Clock())
    return VectorCache(MemoryCache(100, 60), vectors, counts, width=2)


def assert_kept(found: QueryVector | None) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.vector_D, VECTOR)
    assert found.is_text_cut is True


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await work

    return asyncio.run(main())


def test_the_least_recently_used_vector_goes_first() -> None:
    cache = MemoryCache(2, ttl_s=60)
    cache.put("a", QUERY)
    cache.put("b", QUERY)
    cache.get("a")
    cache.put("c", QUERY)
    assert (cache.get("a") is not None, cache.get("b"), cache.get("c") is not None) == (True, None, True)
    assert len(cache) == 2


def test_a_vector_is_forgotten_when_its_time_is_over() -> None:
    clock = Clock()
    cache = MemoryCache(2, ttl_s=60, clock=clock)
    cache.put("a", QUERY)
    clock.now_s = 59.9
    assert cache.get("a") is not None
    clock.now_s = 60.0
    assert cache.get("a") is None
    assert len(cache) == 0


def test_a_cache_of_no_entries_keeps_none() -> None:
    cache = MemoryCache(0, ttl_s=60)
    cache.put("a", QUERY)
    assert cache.get("a") is None


def test_a_kept_vector_cannot_be_changed_from_outside() -> None:
    cache = MemoryCache(2, ttl_s=60)
    mine = QueryVector(VECTOR.copy())
    cache.put("a", mine)
    mine.vector_D[0] = 99
    kept = cache.get("a")
    assert kept is not None
    np.testing.assert_array_equal(kept.vector_D, VECTOR)
    with pytest.raises(ValueError, match="read-only"):
        kept.vector_D[0] = 1


def test_a_vector_in_redis_is_shared_between_processes() -> None:
    async def scenario() -> None:
        redis = DictRedis()
        one, other = make(redis), make(redis)
        assert await one.get("q") is None
        one.put("q", QUERY)
        await one.close()
        assert_kept(await other.get("q"))
        assert other.counters()["redis_hits"] == 1
        await other.get("q")
        assert other.counters()["memory_hits"] == 1, "what came from Redis is kept here"

    run(scenario())


@pytest.mark.parametrize(
    "value",
    [b"", b"x" * 40, b"x" * 39, b"not ours", "text", None],
    ids=["empty", "digest", "short", "foreign", "str", "none"],
)
def test_a_foreign_value_in_redis_is_a_miss(value: Any) -> None:
    redis = DictRedis()
    redis.values["anykey:vector:4:q"] = value
    assert run(make(redis).get("q")) is None


def test_a_value_of_another_query_is_a_miss() -> None:
    async def scenario() -> None:
        redis = DictRedis()
        writer = make(redis)
        writer.put("other", QUERY)
        await writer.close()
        redis.values["anykey:vector:4:q"] = redis.values["anykey:vector:4:other"]
        reader = make(redis)
        assert await reader.get("q") is None
        assert reader.counters()["redis_errors"] == 1

    run(scenario())


FAILURES = [RedisConnectionError(), ResponseError(), OSError(), TimeoutError(), RuntimeError("the handler is closed")]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_redis_that_fails_is_a_miss_and_is_left_alone_for_a_while(failure: Exception) -> None:
    async def scenario() -> None:
        clock, redis = Clock(), DictRedis()
        redis.failure = failure
        cache = make(redis, clock)
        for _ in range(10):
            assert await cache.get("q") is None
        assert redis.calls == 1
        assert (cache.counters()["redis_errors"], cache.counters()["redis_skipped"]) == (1, 9)
        clock.now_s, redis.failure = 5.0, None
        await cache.get("q")
        await cache.get("q")
        assert redis.calls == 3, "Redis answers again, so it is asked again"

    run(scenario())


def test_only_one_call_tries_when_the_pause_is_over() -> None:
    async def scenario() -> None:
        clock, redis = Clock(), DictRedis()
        redis.failure = OSError()
        cache = make(redis, clock)
        await cache.get("q")
        clock.now_s = 5.0
        await asyncio.gather(*(cache.get("q") for _ in range(10)))
        assert redis.calls == 2

    run(scenario())


def test_redis_that_never_answers_costs_one_timeout() -> None:
    async def scenario() -> None:
        redis = DictRedis()
        redis.stall = asyncio.Event()  # never set: only the timeout gets past it
        cache = make(redis, timeout_s=0.01)
        assert await cache.get("q") is None
        assert await cache.get("q") is None
        assert redis.calls == 1

    run(scenario())


def test_writing_never_waits_for_redis_and_is_bounded() -> None:
    async def scenario() -> None:
        redis = DictRedis()
        redis.stall = asyncio.Event()
        cache = make(redis)
        for n in range(MAX_PENDING_WRITES + 5):
            cache.put(str(n), QUERY)
        assert cache.counters()["redis_skipped"] == 5
        redis.stall.set()
        await cache.close()
        assert len(redis.values) == MAX_PENDING_WRITES

    run(scenario())


def test_without_redis_the_process_has_its_own_cache() -> None:
    async def scenario() -> None:
        cache = VectorCache(MemoryCache(10, 60), None, CacheCounters(), width=2)
        assert await cache.get("q") is None
        cache.put("q", QUERY)
        assert_kept(await cache.get("q"))
        counts = cache.counters()
        assert (counts["misses"], counts["memory_hits"], counts["memory_entries"]) == (1, 1, 1)
        await cache.close()

    run(scenario())


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://host:port"])
def test_what_is_no_redis_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StartupError, match="redis_url must look like") as caught:
        connect(url, 1.0)
    assert url not in str(caught.value), "it may hold a password"
