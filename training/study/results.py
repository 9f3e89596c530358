"""A study's numbers by variant, fusion and centring, with their spread over the seeds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.metrics import Z95, resampled
from anykey.training.study.evaluation import Row
from anykey.training.study.settings import StudyFusion

_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # by freedom


@dataclass(frozen=True)
class Spread:
    """One number over the seeds.

    Attributes:
        values: By seed.
    """

    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return mean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds (n - 1), of two seeds or more."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def is_noise(self) -> bool:
        """Whether the seeds alone may have made a mean other than 0: Student's t, 95 %; never of one seed alone.

        >>> Spread({0: 0.02, 1: 0.03, 2: 0.025}).is_noise, Spread({0: 0.02, 1: -0.01, 2: 0.03}).is_noise
        (False, True)
        """
        if self.deviation is None:
            return False
        freedom = len(self.values) - 1
        t = _T95[freedom] if freedom in _T95 else Z95 + 2.5 / freedom
        return abs(self.mean) <= t * self.deviation / math.sqrt(len(self.values))

    def minus(self, other: "Spread") -> "Spread":
        """Differences, seed by seed; of the seeds that both have."""
        return Spread({seed: value - other.values[seed] for seed, value in self.values.items() if seed in other.values})

    def text(self, form: str = ".3f") -> str:
        """Mean and, in brackets, standard deviation; `form` is a format of numbers, maybe with a sign."""
        if not self.values:
            return ""
        mean = format(self.mean, form)
        return mean if self.deviation is None else f"{mean} ({format(self.deviation, form.lstrip('+'))})"


@dataclass(frozen=True)
class Lead:
    """By how much one variant is ahead of another on the same test pairs.

    Attributes:
        mean: Mean difference over pairs and seeds.
        low: Lower end of its 95 % interval over other pairs like these: a paired bootstrap of the pairs.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def text(self) -> str:
        """The difference and, in brackets, its interval."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Results:
    """All rows of a study.

    Attributes:
        variants: Names in the plan's order, of those that were measured.
        fusions: Those that were measured.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self.variants = list(dict.fromkeys(row.variant for row in self.rows))
        self.fusions = sorted({row.fusion for row in self.rows})
        self.seeds = sorted({row.seed for row in self.rows})

    def spread(self, variant: str, fusion: StudyFusion, centring: str, name: str) -> Spread | None:
        """One number of one variant over the seeds; `None` where it was not measured."""
        values = {
            row.seed: row.numbers[name]
            for row in self.rows
            if (row.variant, row.fusion, row.centring) == (variant, fusion, centring) and name in row.numbers
        }
        return Spread(values) if values else None

    def lead(self, variant: str, other: str, fusion: StudyFusion, pool: str) -> Lead | None:
        """How far a variant is ahead of another in success@10 in one pool, pair by pair; `None` without gains of both.

        Each pair's gain is the mean over the seeds that both have, so that the interval is of the test pairs alone.
        """
        own, others = (self._gains(name, fusion, pool) for name in (variant, other))
        seeds = own.keys() & others.keys()
        if not seeds:
            return None
        difference_P = np.mean([own[seed] - others[seed] for seed in sorted(seeds)], axis=0)
        low, high = np.percentile(resampled(difference_P), [2.5, 97.5])
        return Lead(float(difference_P.mean()), float(low), float(high))

    def _gains(self, variant: str, fusion: StudyFusion, pool: str) -> dict[int, NDArray[np.float64]]:
        rows = [row for row in self.rows if (row.variant, row.fusion) == (variant, fusion) and row.gains]
        return {row.seed: np.array(row.gains[pool]) for row in rows}

    def variants_with(self, fusion: StudyFusion) -> list[str]:
        """The variants that were measured with this fusion, in the plan's order."""
        return [name for name in self.variants if any((row.variant, row.fusion) == (name, fusion) for row in self.rows)]
