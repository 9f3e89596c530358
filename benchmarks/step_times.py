"""How long the steps of a long work take that reports its progress."""

import time
from collections.abc import Callable

from anykey.program.progress import Report


class StepTimes:
    """Notes when each step is reported first and last, and hands the reports on."""

    def __init__(self, show: Report, clock: Callable[[], float] = time.perf_counter) -> None:
        self._show = show
        self._clock = clock
        self._times_s: dict[str, tuple[float, float]] = {}

    def report(self, step: str, done: int, total: int) -> None:
        """Takes a report."""
        now_s = self._clock()
        self._times_s[step] = self._times_s.get(step, (now_s,))[0], now_s
        self._show(step, done, total)

    def seconds(self, *beginnings: str) -> float:
        """From the first to the last report of the steps whose names begin so, added up."""
        return sum(last_s - first_s for step, (first_s, last_s) in self._times_s.items() if step.startswith(beginnings))
