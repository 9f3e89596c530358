"""Work that is done once for all who ask for the same at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedWork(Generic[T]):
    """Coroutines by key, of which one is under way for each key; belongs to one event loop.

    Who asks for a key whose work is under way waits for it and gets its result, or its error. Who is cancelled leaves
    alone; when nobody is waiting any more, the work is cancelled. Nothing is kept: once the work has ended, who asks
    next begins anew.
    """

    def __init__(self) -> None:
        """Begins with nothing under way."""
        self._under_way: dict[str, asyncio.Task[T]] = {}
        self._num_waiting: dict[asyncio.Task[T], int] = {}

    async def result(self, key: str, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the key's work gives.

        Args:
            key: Names the work.
            begin: Makes the coroutine that does it; called if none is under way.

        Raises:
            Exception: the work's.
        """
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(begin())
            self._num_waiting[task] = 0
            task.add_done_callback(lambda done: self._forget(key, done))
        self._num_waiting[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            if task in self._num_waiting:
                self._num_waiting[task] -= 1
                if not self._num_waiting[task]:
                    self._forget(key, task)
                    task.cancel()
            del task  # which keeps its error, whose frames would keep this one, until garbage is collected

    def _forget(self, key: str, task: "asyncio.Task[T]") -> None:
        """Lets the next who asks begin anew."""
        if self._under_way.get(key) is task:
            del self._under_way[key]
        self._num_waiting.pop(task, None)
        if task.done() and not task.cancelled():
            task.exception()  # everybody may have gone; asyncio complains about errors that nobody looked at
