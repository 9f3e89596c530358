"""What an index and its peers are measured with: measurements may stand side by side only where it is the same."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.search_speed import ClusteredVectors
from benchmarks.speed_report import processor

NUM_QUERIES = 300


@dataclass(frozen=True)
class Setting:
    """Drawn keys and queries, and the machine.

    Attributes:
        num_keys: Number of keys.
        width: Length of their vectors.
        machine: Its processor.
        seed: Decides the vectors.
    """

    num_keys: int
    width: int
    machine: str
    seed: int = 0

    @classmethod
    def here(cls, num_keys: int, width: int) -> "Setting":
        """On this machine."""
        return cls(num_keys, width, f"{processor()}, {os.cpu_count()} cores, no GPU")

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Setting":
        """The setting in which something was found, from what was recorded of it."""
        return cls(**found["setting"])

    def facts(self) -> dict[str, Any]:
        """As it is recorded."""
        return asdict(self)

    def draw(self) -> ClusteredVectors:
        """Gives the keys first, in `batches(num_keys)`, and after them, with `draw(NUM_QUERIES)`, the fresh queries.

        Other batches would give other vectors.
        """
        return ClusteredVectors(self.num_keys, self.width, self.seed)

    def __str__(self) -> str:
        """In words."""
        return f"{self.num_keys:,} keys of width {self.width} (seed {self.seed}) on {self.machine}"
