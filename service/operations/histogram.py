"""Histograms that cost next to nothing to add to, and quantiles of them."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS_PER_DOUBLING = 4
FINE_BOUNDS_S = tuple(1e-5 * 2 ** (step / STEPS_PER_DOUBLING) for step in range(24 * STEPS_PER_DOUBLING + 1))
"""Upper bounds of the buckets in which times are counted: from 10 microseconds to 168 seconds, each 19 % more."""


class Histogram:
    """Counts numbers below some bounds; whoever adds to it sees to it that one thread does so at a time.

    Attributes:
        bounds: Upper bounds of the buckets, rising; one more bucket is above them.
        counts: Numbers in each bucket.
        total: Their sum.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begins empty.

        Args:
            bounds: Upper bounds of the buckets, rising.
        """
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts a number."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """How many numbers are at most each bound, the last of which is infinite, as Prometheus has them."""
        return cumulative(self.bounds, self.counts)


def cumulative(bounds: Sequence[float], counts: Any) -> list[tuple[str, float]]:
    """How many numbers are at most each bound, the last of which is infinite, as Prometheus has them."""
    sums = np.cumsum(counts)
    return [
        *((f"{bound:.6g}", float(so_far)) for bound, so_far in zip(bounds, sums[:-1], strict=True)),
        ("+Inf", float(sums[-1])),
    ]


def quantile(counts: NDArray[np.int64], share: float) -> float:
    """The time below which a share of the times is, in seconds; within a bucket of `FINE_BOUNDS_S` times are spread.

    >>> counts = np.zeros(len(FINE_BOUNDS_S) + 1, np.int64)
    >>> counts[4] = 10
    >>> 1.68e-05 < quantile(counts, 0.5) < 2e-05
    True
    """
    sums = np.cumsum(counts)
    wanted = share * float(sums[-1])
    place = int(np.searchsorted(sums, wanted))
    if place >= len(FINE_BOUNDS_S):
        return FINE_BOUNDS_S[-1]
    before = float(sums[place - 1]) if place else 0.0
    within = (wanted - before) / max(1.0, float(counts[place]))
    low = FINE_BOUNDS_S[place - 1] if place else 0.0
    return low + within * (FINE_BOUNDS_S[place] - low)
