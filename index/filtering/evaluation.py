"""From a condition to the positions that it holds of, over whatever keeps the positions of each term.

Sets of positions are the found ones, or all but the found ones, so that a negation costs nothing until it is asked for.
What was found is remembered for the next search with the same filters, and so are counts; that is bounded.

Shape legend: N = positions there are, P = positions found.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import Deadline
from anykey.index.filtering.conditions import And, Bound, Condition, Equals, Exists, In, Not, Or, Path, Range
from anykey.index.filtering.filters import to_json
from anykey.index.filtering.instants import Instant
from anykey.index.filtering.terms import Column, bound_term, exists_term, kind_range, value_term

DENSE = 32  # from one position in so many on, going over all N beats sorting
MOST_ENTRIES = 4096
MOST_BYTES = 64 * 2**20  # of what is found, and of what remembering it takes besides
LARGEST_SHARE = 4  # an entry has at most one part in so many of it
MOST_CONDITION_BYTES = 32 * 2**10  # as JSON; to know a larger condition again takes longer than is gained
FEW_VALUES = 16  # of a list, which are not large whatever they are
ENTRY_BYTES = 256  # digest, object and their places

Name = bytes  # of the filters of a scope, or of what was asked within one
T = TypeVar("T")


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


class Bounds(NamedTuple):
    """Between which terms some values of a range lie.

    Attributes:
        low: The lowest term.
        is_above: Whether the term itself is outside.
        high: The highest term.
        is_below: Whether the term itself is outside.
        leaves_out_dates: Whether strings that are dates are none of these values, where they lie among others.
    """

    low: bytes
    is_above: bool
    high: bytes
    is_below: bool
    leaves_out_dates: bool = False

    @classmethod
    def all_of(cls, column: bytes) -> "Bounds":
        """Those of all values of a column; see `column_of`."""
        return cls(column, False, column[:-1] + bytes([column[-1] + 1]), True)

    def hold(self, term: bytes) -> bool:
        """Whether a term of the column lies between them."""
        is_high_enough = term > self.low if self.is_above else term >= self.low
        return is_high_enough and (term < self.high if self.is_below else term <= self.high)

    @classmethod
    def of(cls, path: Path, column: Column, given: Mapping[str, Bound | Instant]) -> "Bounds":
        """Those of one column of values; where none is given, those of all of the column."""
        low, high = kind_range(path, column)
        bounds = cls(low, False, high, True)
        for name, bound in given.items():
            term = bound_term(path, column, bound)
            if name.startswith("g"):
                bounds = bounds._replace(low=term, is_above=name == "gt")
            else:
                bounds = bounds._replace(high=term, is_below=name == "lt")
        return bounds


def all_bounds(condition: Range) -> list[Bounds]:
    """Where the values of a range lie: dates apart from other strings."""
    path, given = condition.path, condition.bounds
    if condition.kind != "string":
        return [Bounds.of(path, "number", given)]
    if condition.instants is None:
        return [Bounds.of(path, "string", given), Bounds.of(path, "dated", given)]
    others = Bounds.of(path, "string", given)._replace(leaves_out_dates=True)
    return [Bounds.of(path, "instant", condition.instants), others]


class TermPositions(Protocol):
    """The positions of each term; terms are those of `index.filtering.terms`."""

    def with_any(self, terms: Sequence[bytes]) -> Selection:
        """Those that have one of the terms, which are ascending."""
        ...

    def between(self, bounds: Bounds) -> Selection:
        """Those that have a term between two of one path and kind."""
        ...


def evaluate(condition: Condition, positions: TermPositions, deadline: Deadline) -> Selection:
    """The positions that a condition holds of.

    Raises:
        DeadlineExceededError: the answer is no longer wanted; it is looked at before each part of the condition.
    """
    deadline.check()
    match condition:
        case And(conditions):
            return intersect(evaluate(part, positions, deadline) for part in dict.fromkeys(conditions))
        case Or(conditions):
            return ~intersect(~evaluate(part, positions, deadline) for part in dict.fromkeys(conditions))
        case Not(negated):
            return ~evaluate(negated, positions, deadline)
        case Exists(path):
            return positions.with_any([exists_term(path)])
        case Range():
            first, *others = (positions.between(bounds) for bounds in all_bounds(condition))
            return ~intersect([~first, *(~other for other in others)]) if others else first
        case Equals(path) | In(path):
            return positions.with_any(sorted(value_term(path, wanted) for wanted in condition.wanted))


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


class Remembered(Generic[T]):
    """What was found, by what was asked, the least recently used forgotten first; safe for several threads.

    A condition is known by its digest, so that none is kept, however large it is.
    """

    def __init__(self, size_of: Callable[[T], int], most_bytes: int = MOST_BYTES) -> None:
        """Remembers nothing yet.

        Args:
            size_of: Bytes that something takes.
            most_bytes: Room, what remembering takes included.
        """
        self._size_of = size_of
        self._most_bytes = most_bytes
        self._entries: OrderedDict[Name, T] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What is taken."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: Name) -> T | None:
        """What was found, if it is remembered."""
        with self._lock:
            found = self._entries.get(name)
            if found is not None:
                self._entries.move_to_end(name)
            return found

    def put(self, name: Name, found: T) -> None:
        """Remembers what was found, unless it is too large; forgets other things for it."""
        size = self._size(found)
        if size > self._most_bytes // LARGEST_SHARE:
            return
        with self._lock:
            replaced = self._entries.pop(name, None)
            self._num_bytes += size - (0 if replaced is None else self._size(replaced))
            self._entries[name] = found
            while self._num_bytes > self._most_bytes or len(self._entries) > MOST_ENTRIES:
                _, forgotten = self._entries.popitem(last=False)
                self._num_bytes -= self._size(forgotten)

    def _size(self, found: T) -> int:
        return self._size_of(found) + ENTRY_BYTES


def name_of(modalities: Collection[str] | None, pool: str | None, condition: Condition | None) -> Name | None:
    """What filters are remembered by: equal for equal ones; `None` for a condition that is not worth it."""
    if condition is not None and _has_large_list(condition):  # found out before it is written as JSON
        return None
    names = None if modalities is None else sorted(set(modalities))
    text = json.dumps([names, pool, None if condition is None else to_json(condition)])
    return None if len(text) > MOST_CONDITION_BYTES else hashlib.sha256(text.encode()).digest()


def _has_large_list(condition: Condition) -> bool:
    if isinstance(condition, In):
        return len(condition.values) > FEW_VALUES and sum(len(str(value)) for value in condition.values) > (
            MOST_CONDITION_BYTES
        )
    if isinstance(condition, And | Or):
        return any(map(_has_large_list, condition.conditions))
    return isinstance(condition, Not) and _has_large_list(condition.condition)
