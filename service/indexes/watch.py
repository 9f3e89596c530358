"""Whether the index answers: asked every few seconds, and at once when a request found that it does not."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from anykey.index.errors import IndexCorruptError, KeyCorruptError
from anykey.service.concurrency.shared_call import SharedCall
from anykey.service.errors import INDEX_FAILURES, from_index_failure
from anykey.service.logs import LogEvent

T = TypeVar("T")
MIN_PAUSE_S = 0.05  # between two checks, however many requests fail

logger = logging.getLogger(__name__)


class IndexWatch:
    """Knows whether the index can be searched, and tells requests in the wire's words when it cannot.

    Life: while `running` the index is checked every `every_s`, in a thread of its own and never twice at once, and as
    soon as a call fails. A failed call alone changes nothing: the check decides, for a call may fail by what was asked.
    An index that does not answer the check is not called any more, so that requests need not wait for it; a damaged
    one is, since most of it may be sound. `call` may be used in any thread, the rest in the event loop's.
    """

    def __init__(self, check: Callable[[], None], *, every_s: float, deadline_s: float) -> None:
        """Takes the index to be sound until the first check says otherwise.

        Args:
            check: The index's.
            every_s: Time between two checks.
            deadline_s: Longest time that a check may take; without an answer the index is not reachable.
        """
        self._check = SharedCall("check", check, deadline_s=deadline_s)
        self._every_s = every_s
        self._failure: Exception | None = None
        self._wanted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def require_sound(self) -> None:
        """Returns if the index is in order, but for the records of some keys: all others are answered.

        Raises:
            IndexUnavailableError: it cannot be reached, or is damaged.
        """
        if self._failure is not None and not isinstance(self._failure, KeyCorruptError):
            raise from_index_failure(self._failure)

    def require_reachable(self) -> None:
        """Returns if the index may be called.

        Raises:
            IndexUnavailableError: it cannot be reached.
        """
        if not isinstance(self._failure, IndexCorruptError):
            self.require_sound()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What a method of the index gives.

        Raises:
            IndexUnavailableError: the index cannot be reached, or is damaged.
            Exception: any other of the method's.
        """
        self.require_reachable()  # it may have gone while this call waited for a thread
        try:
            return function(*args)
        except INDEX_FAILURES as error:
            logger.warning("a call of the index failed: %s", _reason(error), extra={"event": LogEvent.INDEX_FAILED})
            loop = self._loop
            if loop is not None:
                loop.call_soon_threadsafe(self._wanted.set)
            raise from_index_failure(error) from error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Checks the index for the length of the block."""
        self._loop = asyncio.get_running_loop()
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._loop = None
            watching.cancel()
            await asyncio.wait([watching])
            await asyncio.to_thread(self._check.close)

    async def _watch(self) -> None:
        while True:
            self._wanted.clear()
            self._note(await self._outcome())
            await asyncio.sleep(min(MIN_PAUSE_S, self._every_s))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._every_s)

    async def _outcome(self) -> Exception | None:
        """Why the index cannot be searched; `None` if it can."""
        try:
            await self._check.answer()
        except Exception as error:  # whatever it is, the index has not said that it is sound
            return error
        return None

    def _note(self, failure: Exception | None) -> None:
        before, self._failure = self._failure, failure
        if failure is None and before is not None:
            logger.info("the index answers again", extra={"event": LogEvent.INDEX_AVAILABLE})
        elif failure is not None and type(failure) is not type(before):
            logger.error(
                "the index cannot be used: %s",
                failure.path if isinstance(failure, IndexCorruptError) else failure,
                extra={"event": LogEvent.INDEX_UNAVAILABLE},
                exc_info=None if isinstance(failure, INDEX_FAILURES) else failure,
            )


def _reason(error: Exception) -> str:
    """What may be logged of a failed call: its message may name keys."""
    if isinstance(error, IndexCorruptError):
        return f"{error.path} is damaged"
    cause = error.__cause__
    return str(error) if cause is None else f"{type(error).__name__} by {type(cause).__name__}"
