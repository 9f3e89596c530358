"""Protects calls that are made once for many: never two at once, kept for a while, and bounded for who waits."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from anykey.service.concurrency.shared_call import NextCall, SharedCall
from anykey.service.concurrency.threads import BoundedThreads
from tests.serving import WAIT_S


class Gated:
    """A function that counts its calls, and waits in each until the test lets it go."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.gate = threading.Event()
        self.failure: Exception | None = None

    def __call__(self) -> int:
        self.num_calls += 1
        number = self.num_calls
        assert self.gate.wait(WAIT_S), "the test never opened the gate"
        if self.failure is not None:
            raise self.failure
        return number


@contextmanager
def shared(function: Gated, **times: Any) -> Iterator[SharedCall[int]]:
    call = SharedCall("test", function, **{"deadline_s": WAIT_S, **times})
    try:
        yield call
    finally:
        function.gate.set()
        call.close()


def test_who_asks_at_the_same_time_gets_one_answer() -> None:
    async def scenario(function: Gated, call: SharedCall[int]) -> list[int]:
        asking = [asyncio.create_task(call.answer()) for _ in range(5)]
        await asyncio.sleep(0)
        asking[0].cancel()  # who leaves takes the call from nobody
        function.gate.set()
        return await asyncio.gather(*asking[1:])

    function = Gated()
    with shared(function) as call:
        assert asyncio.run(scenario(function, call)) == [1, 1, 1, 1]


@pytest.mark.parametrize(("keep_s", "expected"), [(0.0, [1, 2]), (60.0, [1, 1])])
def test_an_answer_is_given_again_as_long_as_it_is_kept(keep_s: float, expected: list[int]) -> None:
    async def scenario(call: SharedCall[int]) -> list[int]:
        return [await call.answer(), await call.answer()]

    function = Gated()
    function.gate.set()
    with shared(function, keep_s=keep_s) as call:
        assert asyncio.run(scenario(call)) == expected


def test_nobody_waits_beyond_the_deadline_and_the_call_goes_on() -> None:
    async def scenario(function: Gated, call: SharedCall[int]) -> int:
        for _ in range(3):
            with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
                await call.answer()
        function.gate.set()
        while True:
            try:
                return await call.answer()
            except TimeoutError:
                continue

    function = Gated()
    with shared(function, deadline_s=0.01) as call:
        assert asyncio.run(scenario(function, call)) == 1
    assert function.num_calls == 1


def test_a_kept_answer_stands_in_for_one_that_takes_too_long() -> None:
    now_s = 0.0

    async def scenario(function: Gated, call: SharedCall[int]) -> list[int]:
        nonlocal now_s
        first = await call.answer()
        function.gate.clear()
        now_s = 1.5
        return [first, await call.answer()]

    function = Gated()
    function.gate.set()
    with shared(function, deadline_s=0.01, keep_s=1.0, clock=lambda: now_s) as call:
        assert asyncio.run(scenario(function, call)) == [1, 1]
    assert function.num_calls == 2


def test_failures_reach_who_asks_and_the_next_call_is_a_new_one() -> None:
    async def scenario(function: Gated, call: SharedCall[int]) -> Any:
        with pytest.raises(ConnectionError, match="away"):
            await call.answer()
        function.failure = None
        return await call.answer()

    function = Gated()
    function.gate.set()
    function.failure = ConnectionError("away")
    with shared(function) as call:
        assert asyncio.run(scenario(function, call)) == 2


def test_who_asks_for_the_next_call_never_joins_one_that_has_begun() -> None:
    async def scenario() -> None:
        gate, entered, calls = threading.Event(), threading.Semaphore(0), itertools.count(1)

        def call() -> int:
            number = next(calls)
            entered.release()
            assert gate.wait(WAIT_S)
            return number

        threads = BoundedThreads("look", 2, 9)
        shared = NextCall(call, threads)
        first = [asyncio.create_task(shared.answer()) for _ in range(3)]
        assert await asyncio.to_thread(entered.acquire, timeout=WAIT_S)
        second = [asyncio.create_task(shared.answer()) for _ in range(3)]
        await asyncio.sleep(0.01)
        first[0].cancel()
        second[0].cancel()
        gate.set()
        assert await asyncio.gather(*first[1:], *second[1:]) == [1, 1, 2, 2]
        assert await shared.answer() == 3
        threads.close()

    asyncio.run(scenario())


def test_a_next_call_that_fails_fails_for_those_who_shared_it_alone() -> None:
    async def scenario() -> None:
        outcomes: list[Exception | None] = [OSError("gone"), None]

        def call() -> str:
            if (outcome := outcomes.pop(0)) is not None:
                raise outcome
            return "found"

        threads = BoundedThreads("look", 1, 9)
        shared = NextCall(call, threads)
        failed = await asyncio.gather(shared.answer(), shared.answer(), return_exceptions=True)
        assert [str(error) for error in failed] == ["gone", "gone"]
        assert await shared.answer() == "found"
        threads.close()

    asyncio.run(scenario())
