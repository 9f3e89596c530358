"""Several sources, one after the other."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from anykey.program.cache_folder import Lease
from anykey.sources.pairs.pair import Pair, PairSource


class ConcatenatedPairs:
    """Several sources, one after the other.

    Attributes:
        lengths: Number of pairs of each source, in order.
    """

    def __init__(self, sources: Sequence[PairSource], leases: Sequence[Lease] = ()) -> None:
        """Takes the sources, and what keeps the files that they read."""
        self._sources = list(sources)
        self._leases = list(leases)
        self.lengths = [len(source) for source in self._sources]
        self._ends = list(accumulate(self.lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int) -> Pair:
        """Reads the pair at `position`.

        Raises:
            InvalidRowError: the row is not a pair.
            IndexError: there is no such position; none is counted from the end.
        """
        if not 0 <= position < len(self):
            raise IndexError(position)
        number = bisect_right(self._ends, position)
        return self._sources[number][position - self._ends[number] + self.lengths[number]]
