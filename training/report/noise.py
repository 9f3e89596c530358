"""How far chance could have moved a number: 95 % intervals over the held-out pairs.

A pair is asked for in several combinations, and one that is hard is hard in all of them: what is independent are the
pairs, not the queries. A mean over combinations is therefore judged by what each pair adds to it.

- One state: Wilson's interval, for as many pairs as would make a share err as much (`benchmark.metrics.interval`).
- A change: the mean of the pairs' own changes, with two pairs more, one that gained and one that lost all there is to
  gain, or more where a pair did, as it counts in several combinations (Bonett and Price 2012): without them a few
  changes, all of one sign, would pass for certain.
- Measures of all vectors together, such as distances of means: the jackknife over ten groups of pairs.

Shape legend: P = pairs, Q = queries, G = groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anykey.benchmark.metrics import Z95, interval

Floats = npt.NDArray[np.float64]
Gains = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]  # pairs asked for [Q], what each query gained [Q]
NUM_GROUPS = 10
_T95 = 2.262  # Student's, of NUM_GROUPS - 1 degrees of freedom


@dataclass(frozen=True)
class Range:
    """Where a number may lie.

    Attributes:
        low: Lower end of the 95 % interval.
        high: Upper end.
        num: Number of queries it is of, over all combinations; 0 for what is of all vectors together.
    """

    low: float
    high: float
    num: int = 0

    @property
    def holds_zero(self) -> bool:
        """Whether chance alone may have made the number."""
        return self.low <= 0.0 <= self.high


def of_mean(parts: Sequence[Gains]) -> Range:
    """Interval of the mean over combinations of the mean gain of their queries.

    Args:
        parts: Pairs and gains of each combination, none empty.
    """
    mean = float(np.mean([gain_Q.mean() for _, gain_Q in parts]))
    error = math.sqrt(float((_influence(parts) ** 2).sum()))
    weight_P = _by_pair([(pair_Q, np.ones(len(pair_Q))) for pair_Q, _ in parts])
    low, high = interval(mean, error, 1 / float((weight_P**2).sum()))  # as many pairs of equal weight say as much
    return Range(low, high, sum(len(pair_Q) for pair_Q, _ in parts))


def of_change(before: Sequence[Gains], after: Sequence[Gains]) -> Range:
    """Interval of the difference of two means of the same queries."""
    changes = [(pair_Q, now_Q - then_Q) for (pair_Q, then_Q), (_, now_Q) in zip(before, after, strict=True)]
    mean = float(np.mean([change_Q.mean() for _, change_Q in changes]))
    influence_P = _influence(changes)
    change_P = mean + len(influence_P) * influence_P  # what each pair changed; their mean is the change
    largest = max(1.0, float(np.abs(change_P).max()))  # no change of few pairs is not none for certain
    change_P = np.append(change_P, [largest, -largest])
    half = Z95 * float(change_P.std()) / math.sqrt(len(change_P))
    centre = float(change_P.mean())
    return Range(max(-1.0, centre - half), min(1.0, centre + half), sum(len(pair_Q) for pair_Q, _ in changes))


def of_replicates(value: float, left_out_G: Floats) -> Range:
    """Interval of a measure, from what it is with each group of pairs left out in turn."""
    num = len(left_out_G)
    half = _T95 * math.sqrt((num - 1) / num * float(((left_out_G - left_out_G.mean()) ** 2).sum()))
    return Range(value - half, value + half)


def _influence(parts: Sequence[Gains]) -> Floats:
    """How much each pair `[P]` moves the mean over combinations away from what it would be without it."""
    return _by_pair([(pair_Q, gain_Q - gain_Q.mean()) for pair_Q, gain_Q in parts])


def _by_pair(parts: Sequence[Gains]) -> Floats:
    """What each pair `[P]` adds to the mean over combinations of the mean over their queries."""
    pairs, place = np.unique(np.concatenate([pair_Q for pair_Q, _ in parts]), return_inverse=True)
    added = np.concatenate([value_Q / (len(value_Q) * len(parts)) for _, value_Q in parts])
    return np.bincount(place, weights=added, minlength=len(pairs)).astype(np.float64)
