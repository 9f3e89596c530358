"""Durations counted in bins: as small after a night as after a second, and its percentiles are right to 1 %."""

import math
from collections import Counter

WIDTH = 0.01  # of a bin, relative to where it begins
SMALLEST_S = 1e-6  # all below are in one bin
MIN_BEYOND = 10  # samples beyond a percentile, without which it says nothing


class Histogram:
    """Counts of durations in bins that are 1 % wide.

    Attributes:
        count: How many durations.
        max_s: The longest, in seconds; 0 where there is none.
    """

    def __init__(self) -> None:
        self.count = 0
        self.max_s = 0.0
        self._sum_s = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, duration_s: float) -> None:
        """Counts one duration, in seconds; what is below 0 counts as 0."""
        duration_s = max(duration_s, 0.0)
        self.count += 1
        self._sum_s += duration_s
        self.max_s = max(self.max_s, duration_s)
        self._bins[_bin_of(duration_s)] += 1

    @property
    def mean_s(self) -> float:
        """The mean, in seconds.

        Raises:
            ValueError: there are none.
        """
        if not self.count:
            raise ValueError("there are no durations")
        return self._sum_s / self.count

    def percentile_s(self, percent: float) -> float:
        """The shortest duration that `percent` of all do not exceed, in seconds, right to 1 %.

        Raises:
            ValueError: there are none.
        """
        if not self.count:
            raise ValueError("there are no durations")
        below = 0
        for number, count in sorted(self._bins.items()):
            below += count
            if below >= self._rank(percent):
                return min(_middle_s(number), self.max_s)
        raise AssertionError("the bins hold all durations")

    def beyond(self, percent: float) -> int:
        """How many durations come behind this percentile in the order of all."""
        return self.count - self._rank(percent)

    def told_s(self, percent: float) -> float | None:
        """The percentile, in seconds, or None where fewer than `MIN_BEYOND` durations lie beyond it."""
        return self.percentile_s(percent) if self.beyond(percent) >= MIN_BEYOND else None

    def bins(self) -> list[tuple[float, int]]:
        """Each bin that is not empty: the end of it, in seconds, and its count; ascending."""
        return [(_start_s(number + 1), count) for number, count in sorted(self._bins.items())]

    def _rank(self, percent: float) -> int:
        """From 1; a share such as 99.9 % of 10,000 is no whole number as a float."""
        return math.ceil(round(percent / 100 * self.count, 6))


def _bin_of(duration_s: float) -> int:
    return 0 if duration_s <= SMALLEST_S else 1 + int(math.log(duration_s / SMALLEST_S) / math.log1p(WIDTH))


def _start_s(number: int) -> float:
    return SMALLEST_S * (1 + WIDTH) ** (number - 1) if number else 0.0


def _middle_s(number: int) -> float:
    return (_start_s(number) + _start_s(number + 1)) / 2 if number else 0.0
