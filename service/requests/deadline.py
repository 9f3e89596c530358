"""Answers that come in time, or an error that says that they did not."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from anykey.service.errors import DeadlineExceededError

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T], result: str = "answer") -> T:
    """The work's result, which is called `result` in the message.

    Raises:
        DeadlineExceededError: it took longer than `seconds`, and was cancelled.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise late(seconds, result) from error


def late(seconds: float, result: str = "answer") -> DeadlineExceededError:
    """What a client is told who waited for `seconds`."""
    return DeadlineExceededError(f"no {result} within {seconds * 1000:g} ms")
