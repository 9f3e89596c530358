"""A blocking call that is made once for all who ask at the same time."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from anykey.service.concurrency.threads import BoundedThreads

T = TypeVar("T")


class SharedCall(Generic[T]):
    """One blocking function, called in a thread of its own, never twice at once.

    Who asks while the call is under way waits for the same answer. A call that takes longer than `deadline_s` goes on;
    who asks next waits for it, too. With `keep_s` an answer is given again for that long, or for as long as the call
    took if that is longer, so that a slow call is under way half of the time at most. `forget` ends that: whoever asks
    after it gets what a call gives that began after it. Belongs to one event loop.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], T],
        *,
        deadline_s: float,
        keep_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes the thread; it starts with the first call.

        Args:
            name: What the call does, for the thread's name.
            function: What is called.
            deadline_s: Longest time that who asks waits.
            keep_s: How long an answer is given again; 0 calls anew for each who asks.
            clock: Seconds that only go forward.
        """
        self._function = function
        self._deadline_s = deadline_s
        self._keep_s = keep_s
        self._clock = clock
        self._threads = BoundedThreads(name, 1, 1)
        self._call: asyncio.Task[T] | None = None
        self._answers: list[T] = []  # the last one, if there is one to be kept
        self._fresh_until_s = 0.0
        self._is_outdated = False  # the call under way began before something changed

    async def answer(self) -> T:
        """What the function gives; a kept answer, however old, where the next one takes too long.

        Raises:
            TimeoutError: no answer within the deadline, and none kept.
            Exception: the function's.
        """
        if self._answers and self._clock() < self._fresh_until_s:
            return self._answers[0]
        if self._is_outdated and self._call is not None:
            await asyncio.wait([self._call], timeout=self._deadline_s)
        if self._call is None or self._call.done():
            self._is_outdated = False
            self._call = asyncio.create_task(self._run())
            self._call.add_done_callback(_look_at_outcome)
        done, _ = await asyncio.wait([self._call], timeout=self._deadline_s)
        if done:
            return self._call.result()
        if self._answers:
            return self._answers[0]
        raise TimeoutError(f"no answer within {self._deadline_s:g} s")

    def forget(self) -> None:
        """Gives no answer again that was made until now."""
        self._fresh_until_s = 0.0
        self._is_outdated = True

    def close(self) -> None:
        """Lets a call under way finish, and ends the thread; blocks until then."""
        self._threads.close()

    async def _run(self) -> T:
        started_s = self._clock()
        answer = await self._threads.run(self._function)
        if self._keep_s:
            ended_s = self._clock()
            fresh_s = 0.0 if self._is_outdated else max(self._keep_s, ended_s - started_s)
            self._answers, self._fresh_until_s = [answer], ended_s + fresh_s
        return answer


def _look_at_outcome(call: "asyncio.Task[T]") -> None:
    """Everybody who waited may have gone; asyncio complains about errors that nobody looked at."""
    if not call.cancelled():
        call.exception()


class NextCall(Generic[T]):
    """A blocking function, of which each who asks is given a call that began after asking.

    All who ask before a call begins share it. One is under way at a time; who asks meanwhile waits for the next. Who
    asks in the same turn of the event loop shares a call, too, so that handing it to a thread costs little where many
    ask. Belongs to one event loop.
    """

    def __init__(self, function: Callable[[], T], threads: BoundedThreads) -> None:
        """Nothing is called yet.

        Args:
            function: What is called.
            threads: Where.
        """
        self._function = function
        self._threads = threads
        self._under_way: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """What the function gives, called from now on.

        Raises:
            OverloadedError: too many calls wait for a thread.
            NotReadyError: the threads are closed.
            Exception: the function's.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._call(self._under_way))
            self._next.add_done_callback(_look_at_outcome)
        return await asyncio.shield(self._next)  # who leaves, leaves the others their answer

    async def _call(self, before: "asyncio.Task[T] | None") -> T:
        if before is None or before.done():
            await asyncio.sleep(0)
        else:
            await asyncio.wait([before])
        self._under_way, self._next = self._next, None
        return await self._threads.run(self._function)
