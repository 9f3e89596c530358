"""A real Redis: vectors are shared through it, and its stopping or dying is never a client's problem."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from anykey.encoder.item import Item
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, MemoryIndex, counters, serving, stored, until

KEYS = [stored("note", Item(text="a note")), stored("other", Item(text="another kind of note"))]
NUM_QUERIES = 60
QUICK_S = 5.0  # far above what a loaded test machine needs, far below 60 timeouts of Redis in a row


class RedisServer:
    """A redis-server process on a free port, without persistence."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._directory = directory
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it accepts connections."""
        self.process = subprocess.Popen(
            [
                "redis-server",
                "--bind",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--save",
                "",
                "--dir",
                str(self._directory),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Ready to accept connections" in line:
                return
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait(WAIT_S)
        if self.process.stdout:
            self.process.stdout.close()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        reason = "redis-server is not installed (Debian: apt-get install redis-server)"
        if os.environ.get("ANYKEY_REQUIRE_REDIS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def start_service(stack: ExitStack, redis: RedisServer, encoder: FakeEncoder) -> httpx.Client:
    index = MemoryIndex(encoder, KEYS)
    return stack.enter_context(
        serving(encoder, index, redis_url=redis.url, redis_timeout_ms=200, redis_pause_s=0.2, max_queue_items=200)
    )


def ask(client: httpx.Client, text: str) -> httpx.Response:
    return client.post("/search", json={"text": text})


def explained_source(client: httpx.Client, text: str) -> str:
    """Where the vector of a query came from."""
    answer = client.post("/search", json={"text": text, "explain": True})
    source: str = answer.json()["explanation"]["parts"][0]["source"]
    return source


def ask_many(client: httpx.Client, word: str) -> tuple[list[int], float]:
    """Statuses of many different queries sent at once, and how long the whole took."""
    started_s = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda n: ask(client, f"{word} {n}").status_code, range(NUM_QUERIES)))
    return statuses, time.monotonic() - started_s


def test_two_services_share_vectors(redis: RedisServer) -> None:
    with ExitStack() as stack:
        one, other = (start_service(stack, redis, FakeEncoder()) for _ in range(2))
        first = ask(one, "shared").json()
        until(lambda: ask(other, "shared").json()["cached"], "the vector arrives in Redis")
        second = ask(other, "shared").json()
        third = start_service(stack, redis, FakeEncoder())
        sources = [explained_source(third, "shared") for _ in range(2)]
        assert sources == ["redis", "memory"]
        assert first["cached"] is False
        assert second["hits"] == first["hits"]


@pytest.mark.parametrize("other_encoder", [FakeEncoder("other"), FakeEncoder("one", precision="fp16")])
def test_services_with_other_models_or_precision_do_not_share(redis: RedisServer, other_encoder: FakeEncoder) -> None:
    with ExitStack() as stack:
        one = start_service(stack, redis, FakeEncoder("one"))
        other = start_service(stack, redis, other_encoder)
        same_as_one = start_service(stack, redis, FakeEncoder("one"))
        ask(one, "shared")
        until(lambda: ask(same_as_one, "shared").json()["cached"], "the vector arrives in Redis")
        assert ask(other, "shared").json()["cached"] is False


def test_limits_hold_for_all_services_together_and_without_redis_for_each(redis: RedisServer) -> None:
    with ExitStack() as stack:
        encoder = FakeEncoder()
        one, other = (
            stack.enter_context(
                serving(
                    encoder,
                    MemoryIndex(encoder, KEYS),
                    redis_url=redis.url,
                    redis_timeout_ms=500,
                    limit_requests=["3/hour"],
                )
            )
            for _ in range(2)
        )
        assert [ask(client, "a").status_code for client in (one, other, one, other, one)] == [200] * 3 + [429] * 2
        redis.signal(signal.SIGSTOP)
        stack.callback(redis.signal, signal.SIGCONT)
        assert [ask(one, "a").status_code for _ in range(4)] == [200] * 3 + [429], "counted anew, here alone"


def test_a_stopped_redis_delays_and_fails_nobody_and_is_used_again_later(redis: RedisServer) -> None:
    with ExitStack() as stack:
        client, other = (start_service(stack, redis, FakeEncoder()) for _ in range(2))
        assert ask_many(client, "before")[0] == [200] * NUM_QUERIES
        redis.signal(signal.SIGSTOP)
        stack.callback(redis.signal, signal.SIGCONT)
        statuses, took_s = ask_many(client, "stopped")
        assert statuses == [200] * NUM_QUERIES
        assert took_s < QUICK_S
        counts = counters(client, "cache")
        assert counts["redis_errors"] >= 1
        assert counts["redis_skipped"] > counts["redis_errors"], "most requests did not even try"
        redis.signal(signal.SIGCONT)
        words = iter(range(10**9))

        def is_shared_again() -> bool:
            text = f"again {next(words)}"
            ask(client, text)
            return bool(ask(other, text).json()["cached"])

        until(is_shared_again, "Redis is used again")


def test_a_killed_redis_delays_and_fails_nobody(redis: RedisServer) -> None:
    with ExitStack() as stack:
        client = start_service(stack, redis, FakeEncoder())
        ask(client, "known before")
        redis.kill()
        statuses, took_s = ask_many(client, "killed")
        assert statuses == [200] * NUM_QUERIES
        assert took_s < QUICK_S
        assert ask(client, "known before").json()["cached"] is True, "this process has a cache of its own"


def test_a_redis_that_is_killed_under_load_fails_nobody(redis: RedisServer) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        client = start_service(stack, redis, FakeEncoder())
        load = pool.submit(ask_many, client, "load")
        until(lambda: counters(client, "cache")["misses"] > 3, "the load has begun")
        redis.kill()
        assert load.result()[0] == [200] * NUM_QUERIES


def test_a_service_starts_without_its_redis(redis: RedisServer) -> None:
    redis.kill()
    with ExitStack() as stack:
        client = start_service(stack, redis, FakeEncoder())
        assert client.get("/readyz").status_code == 200
        assert ask(client, "a").status_code == 200
