"""Protects the bounded thread pool: results and errors come back, excess is refused, cancelled work is not done."""

import asyncio
import threading
from typing import Any

import pytest

from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import NotReadyError, OverloadedError
from tests.serving import WAIT_S


def test_results_and_errors_come_back() -> None:
    async def scenario() -> None:
        threads = BoundedThreads("test", 1, 5)
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)
        threads.close()

    asyncio.run(scenario())


def test_work_beyond_the_limit_is_refused_at_once() -> None:
    async def scenario() -> None:
        threads, gate = BoundedThreads("test", 1, 2), threading.Event()
        tasks = [asyncio.create_task(threads.run(gate.wait, WAIT_S)) for _ in range(2)]
        await asyncio.gather(asyncio.sleep(0))  # both tasks have taken their places
        with pytest.raises(OverloadedError, match="2 requests are waiting for test"):
            await threads.run(gate.wait, WAIT_S)
        gate.set()
        assert await asyncio.gather(*tasks) == [True, True]
        assert await threads.run(divmod, 1, 1) == (1, 0)
        threads.close()

    asyncio.run(scenario())


def test_cancelled_work_that_has_not_begun_is_not_done() -> None:
    async def scenario() -> None:
        threads, gate, done = BoundedThreads("test", 1, 5), threading.Event(), list[Any]()
        running = asyncio.create_task(threads.run(gate.wait, WAIT_S))
        waiting = asyncio.create_task(threads.run(done.append, 1))
        await asyncio.gather(asyncio.sleep(0))
        waiting.cancel()
        await asyncio.wait([waiting])
        gate.set()
        await running
        threads.close()
        assert done == []

    asyncio.run(scenario())


def test_a_closed_pool_takes_nothing() -> None:
    async def scenario() -> None:
        threads = BoundedThreads("test", 1, 5)
        threads.close()
        for _ in range(9):  # a refusal keeps no place
            with pytest.raises(NotReadyError):
                await threads.run(divmod, 1, 1)

    asyncio.run(scenario())
