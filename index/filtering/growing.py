"""Postings in memory that grow behind their last position, for keys that no version's postings cover yet.

Terms of one kind at one path are a *column*: which terms there are, in order, and for each posting its position and its
term's number, as two arrays. A condition is one comparison with the numbers, whatever is asked of how many terms.
"""

import bisect
import sys
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import compress, groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.filtering.conditions import Condition
from anykey.index.filtering.evaluation import Bounds, Selection, evaluate, select
from anykey.index.filtering.postings import TERM_BYTES, Posted, posted_terms
from anykey.index.filtering.terms import column_of, modality_term, order_of_place, place_of, pool_of, pool_term

ROWS_MEASURED = 100  # of those that wait, for an estimate
FEW_TERMS = 64  # that came: more are sorted in with all others, which takes one pass instead of one for each
ROWS_BETWEEN_LOOKS = 256  # at the deadline, while terms are taken in


class GrowingPostings:
    """Postings of keys at positions 0, 1, 2, ...; safe for use from several threads.

    Whoever asks says how many positions there were at his moment, and what came later is not looked at. What a key's
    metadata say is taken in when somebody first asks for any: most searches have no filter.
    """

    def __init__(self) -> None:
        self._columns: dict[bytes, _Column] = {}
        self._waiting: list[Posted] = []
        self._num_taken = 0
        self._lock = threading.Lock()

    def put(self, position: int, rows: Iterable[Posted]) -> None:
        """Takes keys from a position on, in place of those that are there; nobody has asked for these yet."""
        with self._lock:
            self._waiting[position - self._num_taken :] = rows

    def positions(self, condition: Condition, size: int, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Those of the first `size` positions whose metadata a condition holds of, ascending.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        return evaluate(condition, self.first(size, deadline), deadline).positions()

    def positions_of_modalities(self, names: Iterable[str], size: int, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Those of the first `size` positions with a key of some modalities, ascending."""
        return self.first(size, deadline).with_any(sorted(map(modality_term, names))).positions()

    def positions_of_pool(self, pool: str, size: int, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Those of the first `size` positions with a key in a pool, ascending."""
        return self.first(size, deadline).with_any([pool_term(pool)]).positions()

    @property
    def num_bytes(self) -> int:
        """About what the postings take in memory; what waits to be taken in is estimated from some of it."""
        with self._lock:
            some = self._waiting[:: len(self._waiting) // ROWS_MEASURED + 1]
            waiting = sum(map(_size_of, some)) * len(self._waiting) // max(1, len(some))
            return waiting + sum(column.num_bytes for column in self._columns.values())

    def pools(self) -> frozenset[str]:
        """Names of the pools that the keys are in."""
        with self._lock:
            waiting = (pool for _, pools, _ in self._waiting for pool in pools)
            column = self._columns.get(column_of(pool_term(""))[0])
            taken = () if column is None else map(pool_of, column.values())
            return frozenset((*waiting, *taken))

    def only(self, kept: NDArray[np.int64]) -> "GrowingPostings":
        """Those of some positions alone, which are numbered anew."""
        with self._lock:
            fewer = GrowingPostings()
            fewer._num_taken = int(np.searchsorted(kept, self._num_taken))
            fewer._waiting = [self._waiting[position - self._num_taken] for position in kept[fewer._num_taken :]]
            for name, column in self._columns.items():
                left = column.only(kept[: fewer._num_taken])
                if left is not None:
                    fewer._columns[name] = left
            return fewer

    def first(self, size: int, deadline: Deadline = NEVER) -> "FirstPositions":
        """The postings of the first `size` positions.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        with deadline.held(self._lock):
            before = self._num_taken
            try:
                for row in self._waiting:
                    self._take(self._num_taken, row)
                    self._num_taken += 1
                    if self._num_taken % ROWS_BETWEEN_LOOKS == 0:
                        deadline.check()
            finally:  # what was taken in stays so, for whoever asks next
                del self._waiting[: self._num_taken - before]
        return FirstPositions(self._columns, size, self._lock)

    def _take(self, position: int, row: Posted) -> None:
        for term in posted_terms(row):
            name, value = column_of(term)
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = _Column()
            column.add(value, position)


class FirstPositions:
    """The postings of the first positions; what is asked of each column is looked up while nobody changes it."""

    def __init__(self, columns: dict[bytes, "_Column"], size: int, lock: threading.Lock) -> None:
        self._columns = columns
        self._size = size
        self._lock = lock

    def with_any(self, terms: Sequence[bytes]) -> Selection:
        """The positions that have one of the terms."""
        return self._select(
            self._postings(name, lambda column, values=tuple(values): column.numbers(values))  # type: ignore[misc]
            for name, values in _by_column(terms)
        )

    def between(self, bounds: Bounds) -> Selection:
        """The positions that have a term between two."""
        name, _ = column_of(bounds.low)
        return self._select([self._postings(name, lambda column: column.numbers_between(bounds))])

    def counted(
        self, bounds: Bounds, is_in_N: NDArray[np.bool_]
    ) -> Iterator[tuple[Sequence[bytes], NDArray[np.int64]]]:
        """The values of the terms between two, ascending, and how many of some positions have each; at once."""
        name, _ = column_of(bounds.low)
        with self._lock:
            column = self._columns.get(name)
            if column is None:
                return
            numbers_V, (positions, numbers) = column.numbers_between(bounds), column.arrays()
            values, num_terms = column.values_between(bounds), column.num_terms
        stop = int(np.searchsorted(positions, self._size))
        is_counted = is_in_N[positions[:stop]]
        yield values, np.bincount(numbers[:stop][is_counted], minlength=num_terms)[numbers_V]

    def next_place(self, low: bytes) -> bytes | None:
        """What the first terms from one on begin with that are of a path of metadata; see `place_of`."""
        number = bisect.bisect_left(self._places, low, key=order_of_place)
        return self._places[number] if number < len(self._places) else None

    @cached_property
    def _places(self) -> list[bytes]:
        with self._lock:
            return sorted({place_of(name) for name in self._columns} - {b""}, key=order_of_place)

    def _postings(self, name: bytes, numbers_in: Callable[["_Column"], NDArray[np.uint32]]) -> NDArray[np.uint32]:
        with self._lock:
            column = self._columns.get(name)
            if column is None:
                return np.empty(0, np.uint32)
            wanted, (positions, numbers), num_terms = numbers_in(column), column.arrays(), column.num_terms
        stop = int(np.searchsorted(positions, self._size))
        positions, numbers = positions[:stop], numbers[:stop]
        if len(wanted) <= 1:
            return positions[numbers == wanted[0]] if len(wanted) else positions[:0]
        is_wanted = np.zeros(num_terms, np.bool_)
        is_wanted[wanted] = True
        return positions[is_wanted[numbers]]

    def _select(self, parts: Iterable[NDArray[np.uint32]]) -> Selection:
        return select(np.concatenate([np.empty(0, np.uint32), *parts]), self._size)


class _Column:
    """All terms of one kind at one path, numbered as they came, and who has them."""

    def __init__(self) -> None:
        self._number_of: dict[bytes, int] = {}
        self._ordered: list[bytes] = []  # the terms
        self._order = array("I")  # their numbers in that order
        self._positions = array("I")  # of the postings, ascending
        self._numbers = array("I")  # of their terms
        self._arrays: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None = None

    @property
    def num_terms(self) -> int:
        return len(self._number_of)

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        per_posting = 2 * self._positions.itemsize * (1 if self._arrays is None else 2)
        return sum(map(len, self._number_of)) + TERM_BYTES * self.num_terms + per_posting * len(self._positions)

    def values(self) -> list[bytes]:
        """The terms' values, ascending."""
        self._put_in_order()
        return list(self._ordered)

    def add(self, value: bytes, position: int) -> None:
        number = self._number_of.get(value)
        if number is None:
            number = self._number_of[value] = len(self._number_of)
        self._positions.append(position)
        self._numbers.append(number)
        self._arrays = None

    def arrays(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Positions and numbers of all postings, as they are now."""
        if self._arrays is None:
            self._arrays = np.array(self._positions, np.uint32), np.array(self._numbers, np.uint32)
        return self._arrays

    def numbers(self, values: Iterable[bytes]) -> NDArray[np.uint32]:
        """The numbers of those of some terms that there are."""
        found = [self._number_of[value] for value in values if value in self._number_of]
        return np.array(found, np.uint32)

    def numbers_between(self, bounds: Bounds) -> NDArray[np.uint32]:
        """The numbers of the terms between two, in the order of the terms."""
        self._put_in_order()
        return np.array(self._order[self._places_between(bounds)], np.uint32)

    def values_between(self, bounds: Bounds) -> list[bytes]:
        """The values of the terms between two, ascending."""
        self._put_in_order()
        return self._ordered[self._places_between(bounds)]

    def _put_in_order(self) -> None:
        """Gives the terms that came since somebody asked for the order their places: many at once, few one by one."""
        num_before = len(self._ordered)
        if num_before == self.num_terms:
            return
        if self.num_terms - num_before > FEW_TERMS:
            terms = list(self._number_of)
            order = [*self._order, *range(num_before, len(terms))]
            order.sort(key=terms.__getitem__)
            self._order, self._ordered = array("I", order), [terms[number] for number in order]
            return
        for number, value in enumerate(islice(self._number_of, num_before, None), num_before):
            place = bisect.bisect_left(self._ordered, value)
            self._ordered.insert(place, value)
            self._order.insert(place, number)

    def _places_between(self, bounds: Bounds) -> slice:
        low, high = column_of(bounds.low)[1], column_of(bounds.high)[1]
        first = (bisect.bisect_right if bounds.is_above else bisect.bisect_left)(self._ordered, low)
        is_open = column_of(bounds.low)[0] != column_of(bounds.high)[0]  # the highest of this kind is not said
        last = (bisect.bisect_left if bounds.is_below else bisect.bisect_right)(self._ordered, high)
        return slice(first, len(self._ordered) if is_open else last)

    def only(self, kept: NDArray[np.int64]) -> "_Column | None":
        """The postings of some positions, which are numbered anew, and their terms; `None` where there are none."""
        positions, numbers = self.arrays()
        places = np.searchsorted(kept, positions)
        is_kept = kept[np.minimum(places, len(kept) - 1)] == positions if len(kept) else np.zeros(len(places), np.bool_)
        if not is_kept.any():
            return None
        return self._with(places[is_kept], numbers[is_kept])

    def _with(self, positions: NDArray[np.int64], numbers: NDArray[np.uint32]) -> "_Column":
        """Some of the postings at other positions, ascending, and their terms; no term is compared with another."""
        self._put_in_order()
        used, renumbered = np.unique(numbers, return_inverse=True)
        terms, order = list(self._number_of), np.array(self._order, np.int64)
        is_used = np.zeros(len(terms), np.bool_)
        is_used[used] = True
        left = _Column()
        left._number_of = {terms[number]: place for place, number in enumerate(used.tolist())}
        left._ordered = list(compress(self._ordered, is_used[order].tolist()))
        left._order = _array(np.searchsorted(used, order[is_used[order]]))
        left._positions, left._numbers = _array(positions), _array(renumbered)
        return left


def _array(numbers: NDArray[Any]) -> "array[int]":
    made = array("I")
    made.frombytes(numbers.astype(np.uint32).tobytes())
    return made


def _size_of(value: object) -> int:
    """Bytes of an object and of those in it."""
    within: Iterable[object] = ()
    if isinstance(value, dict):
        within = (*value, *value.values())
    elif isinstance(value, list | tuple):
        within = value
    return sys.getsizeof(value) + sum(map(_size_of, within))


def _by_column(terms: Sequence[bytes]) -> Iterable[tuple[bytes, list[bytes]]]:
    """Ascending terms by their columns: those of one column lie side by side."""
    for name, group in groupby(map(column_of, terms), key=lambda pair: pair[0]):
        yield name, [value for _, value in group]
