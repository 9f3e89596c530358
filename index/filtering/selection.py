"""Sets of positions: the found ones, or all but the found ones, so that a negation costs nothing until it is asked for.

Shape legend: N = positions there are, P = positions found.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DENSE = 32  # from one position in so many on, going over all N beats sorting


@dataclass(frozen=True)
class Selection:
    """A set of positions out of 0 to N - 1.

    Attributes:
        found: Some of them, `[P]`, ascending, none twice.
        size: N.
        is_rest: Whether the set is what was not found.
    """

    found: NDArray[np.uint32]
    size: int
    is_rest: bool = False

    def __invert__(self) -> "Selection":
        return Selection(self.found, self.size, not self.is_rest)

    def positions(self) -> NDArray[np.int64]:
        """All positions of the set, ascending."""
        if not self.is_rest:
            return self.found.astype(np.int64)
        return np.flatnonzero(~_mark(self.found, self.size))


def select(positions: NDArray[np.uint32], size: int) -> Selection:
    """The set of positions that come in any order, and perhaps several times."""
    return Selection(_arrange(positions, size), size)


def intersect(selections: Iterable[Selection]) -> Selection:
    """What is in all of the sets, of which there is at least one; they are of one size.

    They are joined as they come, so that about 2 N positions are held at once, however many sets there are.
    """
    found: NDArray[np.uint32] | None = None
    dropped: list[NDArray[np.uint32]] = []
    size = num_dropped = 0
    for each in selections:
        size = each.size
        if not each.is_rest:
            found = each.found if found is None else _in_both(found, each.found, size)
            continue
        dropped.append(each.found)
        num_dropped += len(each.found)
        if num_dropped > size:
            dropped = [_arrange(np.concatenate(dropped), size)]
            num_dropped = len(dropped[0])
    left_out = np.concatenate([np.empty(0, np.uint32), *dropped])
    if found is None:
        return ~select(left_out, size)
    return Selection(found[~_mark(left_out, size)[found]] if num_dropped else found, size)


def _in_both(first: NDArray[np.uint32], second: NDArray[np.uint32], size: int) -> NDArray[np.uint32]:
    few, many = (first, second) if len(first) < len(second) else (second, first)
    return few[_mark(many, size)[few]]


def _arrange(positions: NDArray[np.uint32], size: int) -> NDArray[np.uint32]:
    if np.all(positions[1:] > positions[:-1]):
        return positions
    if len(positions) * DENSE < size:
        ascending = np.sort(positions)
        is_new = np.append(True, ascending[1:] > ascending[:-1])
        return np.compress(is_new, ascending)
    return np.flatnonzero(_mark(positions, size)).astype(np.uint32)


def _mark(positions: NDArray[np.uint32], size: int) -> NDArray[np.bool_]:
    marks = np.zeros(size, dtype=np.bool_)
    marks[positions] = True
    return marks
