"""How long what waits will take, by how fast the like of it was worked off lately."""

import math
from collections import deque

WINDOW = 16  # calls that are remembered
LEAST = 4  # of them, before anything is said
SURE_SHARE = 0.7  # of the time left: who is likely to wait longer may be late


class Throughput:
    """Units of work and the seconds they took, of the last calls; for whoever holds the lock of what it belongs to.

    The longest of the calls is left out: a stall, or the first call of a model, says nothing about the next ones.
    """

    def __init__(self) -> None:
        """Begins with nothing measured."""
        self._calls: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._seconds_per_unit = 0.0  # before enough was measured

    def note(self, units: float, seconds: float) -> None:
        """Remembers a call.

        Args:
            units: What it did.
            seconds: How long it took.
        """
        self._calls.append((seconds, units))
        if len(self._calls) < LEAST:
            return
        longest_s, of_longest = max(self._calls)
        num_units = sum(done for _, done in self._calls) - of_longest
        sum_s = sum(seconds for seconds, _ in self._calls) - longest_s
        self._seconds_per_unit = sum_s / num_units if num_units > 0 else 0.0

    def seconds_for(self, units: float) -> float:
        """How long so much work takes, about; 0 before enough was measured."""
        return units * self._seconds_per_unit

    def units_in(self, seconds: float) -> float:
        """How much work that time suffices for, about; infinite before enough was measured."""
        return seconds / self._seconds_per_unit if self._seconds_per_unit else math.inf
