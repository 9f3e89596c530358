"""Answers that come in time, or an error that says that they did not."""

import asyncio
import math
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from anykey.service.errors import DeadlineExceededError

T = TypeVar("T")
_ends_s = ContextVar("ends_s", default=math.inf)  # of the work that is under way, by the monotonic clock


async def within(seconds: float, work: Coroutine[Any, Any, T], result: str = "answer") -> T:
    """The work's result, which is called `result` in the message.

    Raises:
        DeadlineExceededError: it took longer than `seconds`, and was cancelled.
    """
    token = _ends_s.set(min(_ends_s.get(), time.monotonic() + seconds))
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise late(seconds, result) from error
    finally:
        _ends_s.reset(token)


def seconds_left() -> float:
    """How long the answer to what is under way is still waited for; infinite where nobody said so, or negative."""
    return _ends_s.get() - time.monotonic()


def late(seconds: float, result: str = "answer") -> DeadlineExceededError:
    """What a client is told who waited for `seconds`."""
    return DeadlineExceededError(f"no {result} within {seconds * 1000:g} ms")
