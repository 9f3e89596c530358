"""A thread pool that refuses work instead of hoarding it."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from anykey.service.errors import NotReadyError, OverloadedError

T = TypeVar("T")
LESS_URGENT = 10  # as `nice` counts: a tenth of the share of the event loop, if both want to run


def stand_back() -> None:
    """Lets the event loop go before this thread, and before those that it will start, where there are too few cores.

    A request that is refused, or whose answer is kept, takes half a millisecond of the loop. Behind threads that
    compute without end it would wait for its turn for tens of them.
    """
    with suppress(OSError, AttributeError):  # a system that has no priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LESS_URGENT)


class BoundedThreads:
    """Runs blocking calls off the event loop, at most so many waiting.

    Life: ready when made. `close` refuses new calls, lets those running and waiting finish, and returns when the
    threads have ended. A caller that is cancelled while its call waits takes the call out of the queue; a
    call that runs already is finished and its result thrown away.

    Attributes:
        num_refused: Calls that were refused because too many waited.
    """

    def __init__(self, name: str, num_threads: int, max_pending: int, *, stands_back: bool = False) -> None:
        """Makes the pool; threads start with the first calls.

        Args:
            name: What the threads do, for messages and thread names.
            num_threads: Threads.
            max_pending: Most calls running and waiting together; at least `num_threads` are allowed.
            stands_back: Whether the calls compute for long, and let the event loop go first.
        """
        self._name = name
        self._num_threads = num_threads
        self._max_pending = max(max_pending, num_threads)
        self._pending = 0
        self.num_refused = 0
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(
            num_threads, thread_name_prefix=name, initializer=stand_back if stands_back else None
        )

    @property
    def num_pending(self) -> int:
        """Calls that run or wait now."""
        return self._pending

    @property
    def is_crowded(self) -> bool:
        """Whether a call has to wait for more than one other before a thread takes it up."""
        return self._pending >= 2 * self._num_threads

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result, computed in a thread.

        Raises:
            OverloadedError: too many calls are waiting.
            NotReadyError: the pool is closed.
        """
        return await asyncio.wrap_future(self.submit(function, *args))

    def submit(self, function: Callable[..., T], *args: Any) -> "Future[T]":
        """A future of the function's result, computed in a thread.

        Raises:
            OverloadedError: too many calls are waiting.
            NotReadyError: the pool is closed.
        """
        with self._lock:
            if self._pending >= self._max_pending:
                self.num_refused += 1
                raise OverloadedError(f"{self._pending} requests are waiting for {self._name}, the most accepted")
            self._pending += 1
        try:
            future = self._executor.submit(function, *args)
        except RuntimeError as error:
            self._release()
            raise NotReadyError("the service is shutting down") from error
        future.add_done_callback(self._release)
        return future

    def close(self) -> None:
        """Finishes the calls under way and ends the threads; blocks until then."""
        self._executor.shutdown(wait=True)

    def _release(self, _future: Future[Any] | None = None) -> None:
        with self._lock:
            self._pending -= 1
