"""Until when an answer is wanted: handed down into a search, which looks at it between its steps and stops there."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from anykey.index.errors import DeadlineExceededError

LOOK_S = 0.1  # between two looks of who waits whether the answer is still wanted


class Deadline:
    """A moment after which nobody waits for the answer; whoever asked may end it sooner, from any thread.

    >>> Deadline(60).check()
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins now.

        Args:
            seconds: How long the answer is wanted; until `cancel` when absent.
            clock: Seconds that only go forward.
        """
        self._clock = clock
        self._seconds = seconds
        self._end_s = float("inf") if seconds is None else clock() + seconds
        self._is_cancelled = False

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_cancelled or self._clock() >= self._end_s

    @property
    def seconds_left(self) -> float:
        """How long the answer is still wanted, not below 0; infinite where it is not said."""
        return 0.0 if self._is_cancelled else max(0.0, self._end_s - self._clock())

    def cancel(self) -> None:
        """Ends it now: who asked has gone."""
        self._is_cancelled = True

    def check(self) -> None:
        """Returns while the answer is wanted.

        Raises:
            DeadlineExceededError: it no longer is.
        """
        if self.is_over:
            within = "in time" if self._seconds is None else f"within {self._seconds:g} s"
            raise DeadlineExceededError(f"the search was stopped: nobody waits for what was not found {within}")

    @contextmanager
    def held(self, lock: "threading.Lock | threading.RLock") -> Iterator[None]:
        """Holds a lock for the length of the block, for which it waits as long as the answer is wanted.

        Raises:
            DeadlineExceededError: somebody else held it for longer.
        """
        while not lock.acquire(timeout=min(self.seconds_left, LOOK_S)):
            self.check()
        try:
            yield
        finally:
            lock.release()


class JointDeadline(Deadline):
    """The last of several: over once all of them are.

    >>> JointDeadline([Deadline(0), Deadline(60)]).is_over
    False
    """

    def __init__(self, deadlines: Sequence[Deadline]) -> None:
        """Begins with the deadlines as they are; one of them may be cancelled later.

        Args:
            deadlines: At least one.
        """
        super().__init__()
        self._deadlines = deadlines

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_cancelled or all(deadline.is_over for deadline in self._deadlines)

    @property
    def seconds_left(self) -> float:
        """How long the answer is still wanted by anybody."""
        return 0.0 if self._is_cancelled else max(deadline.seconds_left for deadline in self._deadlines)


class _Never(Deadline):
    """No deadline at all; shared, so that nobody may end it."""

    def cancel(self) -> None:
        raise TypeError("this is everybody's deadline: make one of your own to end it")


NEVER = _Never()
