"""Protects work that many ask for: done once, failed once, and given up only when nobody waits any more."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from anykey.service.concurrency.shared_work import SharedWork


class Kettle:
    """Work that ends when a test says so.

    Attributes:
        begun: How often it was begun.
        cancelled: How often it was cancelled.
    """

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.outcomes: asyncio.Queue[str | Exception] = asyncio.Queue()

    async def boil(self) -> str:
        """What the test puts into `outcomes`."""
        self.begun += 1
        try:
            outcome = await self.outcomes.get()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def scenario(steps: Callable[[SharedWork[str], Kettle], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await steps(SharedWork(), Kettle())

    anyio.run(run)


async def asking(work: SharedWork[str], kettle: Kettle, num_askers: int, key: str = "tea") -> list[asyncio.Task[str]]:
    """Tasks that wait for the work, all of them arrived."""
    tasks = [asyncio.create_task(work.result(key, kettle.boil)) for _ in range(num_askers)]
    await settle()
    return tasks


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_all_who_ask_get_one_result_and_the_next_begins_anew() -> None:
    async def steps(work: SharedWork[str], kettle: Kettle) -> None:
        tasks, others = await asking(work, kettle, 20), await asking(work, kettle, 3, "coffee")
        assert kettle.begun == 2
        for outcome in ("first", "second", "third"):
            kettle.outcomes.put_nowait(outcome)
        assert await asyncio.gather(*tasks) == ["first"] * 20
        assert await asyncio.gather(*others) == ["second"] * 3
        assert await work.result("tea", kettle.boil) == "third"

    scenario(steps)


@pytest.mark.parametrize("leaving", [0, 1], ids=["who began", "who came later"])
def test_one_who_leaves_takes_nothing_from_the_others(leaving: int) -> None:
    async def steps(work: SharedWork[str], kettle: Kettle) -> None:
        tasks = await asking(work, kettle, 3)
        tasks.pop(leaving).cancel()
        await settle()
        kettle.outcomes.put_nowait("hot")
        assert await asyncio.gather(*tasks) == ["hot", "hot"]
        assert (kettle.begun, kettle.cancelled) == (1, 0)

    scenario(steps)


def test_the_work_is_cancelled_with_the_last_and_begun_anew_for_the_next() -> None:
    async def steps(work: SharedWork[str], kettle: Kettle) -> None:
        for task in await asking(work, kettle, 2):
            task.cancel()
        (late,) = await asking(work, kettle, 1)
        assert (kettle.begun, kettle.cancelled) == (2, 1)
        kettle.outcomes.put_nowait("hot")
        assert await late == "hot"

    scenario(steps)


def test_a_failure_is_told_to_those_who_waited_and_is_not_kept() -> None:
    async def steps(work: SharedWork[str], kettle: Kettle) -> None:
        tasks = await asking(work, kettle, 3)
        kettle.outcomes.put_nowait(ValueError("no water"))
        assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {ValueError}
        (late,) = await asking(work, kettle, 1)
        kettle.outcomes.put_nowait("hot")
        assert await late == "hot"

    scenario(steps)


def test_a_failure_that_nobody_waited_for_is_no_complaint() -> None:
    async def steps(work: SharedWork[str], kettle: Kettle) -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        tasks = await asking(work, kettle, 2)
        kettle.outcomes.put_nowait(ValueError("no water"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await settle()
        assert not complaints

    scenario(steps)
