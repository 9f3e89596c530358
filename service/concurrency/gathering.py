"""Several things that are waited for together."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def all_of(awaited: Sequence[Awaitable[T]]) -> list[T]:
    """What each of them gives; where one fails, nobody waits for the others, which are cancelled."""
    if len(awaited) == 1:
        return [await awaited[0]]
    futures = [asyncio.ensure_future(each) for each in awaited]
    try:
        return await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()
