"""A study's numbers by variant, fusion and centring, with their spread over the seeds."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from encoder.fusion import Fusion
from training.study.evaluation import Row


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

    def minus(self, other: "Spread") -> "Spread":
        """Differences, seed by seed; of the seeds that both have."""
        return Spread({seed: value - other.values[seed] for seed, value in self.values.items() if seed in other.values})

    def text(self, form: str = ".3f") -> str:
        """Mean and, in brackets, standard deviation; `form` is a format of numbers, maybe with a sign."""
        if not self.values:
            return ""
        mean = format(self.mean, form)
        return mean if self.deviation is None else f"{mean} ({format(self.deviation, form.lstrip('+'))})"


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

    def spread(self, variant: str, fusion: Fusion, centring: str, name: str) -> Spread | None:
        """One number of one variant over the seeds; `None` where it was not measured."""
        values = {
            row.seed: row.numbers[name]
            for row in self.rows
            if (row.variant, row.fusion, row.centring) == (variant, fusion, centring) and name in row.numbers
        }
        return Spread(values) if values else None

    def variants_with(self, fusion: Fusion) -> list[str]:
        """The variants that were measured with this fusion, in the plan's order."""
        return [name for name in self.variants if any((row.variant, row.fusion) == (name, fusion) for row in self.rows)]
