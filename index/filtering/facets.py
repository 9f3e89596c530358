"""Facets: how many keys have each value of a field, or one within bounds, and what fields there are.

What is counted is what conditions find: the count of a value is the number of keys that `Equals` holds of, and that of
a range the number that `Range` holds of. A key with a list of values counts once for each of them.

Shape legend: N = positions of a source, V = values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import Deadline
from anykey.index.filtering.conditions import Path, Range, Scalar
from anykey.index.filtering.evaluation import Bounds, Selection, TermPositions, evaluate, intersect
from anykey.index.filtering.terms import (
    TYPES,
    ValueType,
    behind_place,
    column_of,
    order_of_place,
    path_of,
    stand_for_one,
    type_column,
    value_of,
)

DEFAULT_VALUES = 10
FREQUENT_VALUES = 10  # of each field that is told of
_VALUE_BYTES = 150  # what a value takes in memory, besides its letters


@dataclass(frozen=True)
class ValueFacet:
    """Asks for the most frequent values of a field.

    Attributes:
        path: The field.
        limit: How many values.
        prefix: What they begin with, which only strings do; `None`: anything.
    """

    path: Path
    limit: int = DEFAULT_VALUES
    prefix: str | None = None


@dataclass(frozen=True)
class RangeFacet:
    """Asks how many keys have a value of a field within bounds.

    Attributes:
        path: The field.
        ranges: The bounds, all of this field; they may overlap.
    """

    path: Path
    ranges: tuple[Range, ...]


Facet = ValueFacet | RangeFacet


class ValueCount(NamedTuple):
    """A value, in the form that stands for all that equal it, and how many keys have it."""

    value: Scalar
    num_keys: int


@dataclass(frozen=True)
class FacetCounts:
    """What a facet came to, of the keys of a scope.

    Attributes:
        facet: What was asked for.
        num_keys: Keys with a value at the path itself.
        num_missing: Keys without.
        is_known: Whether any key has such a value, or had when the version was made, whatever the scope.
        values: The most frequent values, equally frequent ones in the order of values: false and true, numbers, dates,
            other strings. None of a `RangeFacet`.
        num_other_values: How many more there are.
        range_counts: Keys with a value within each of the ranges; none of a `ValueFacet`.
    """

    facet: Facet
    num_keys: int
    num_missing: int
    is_known: bool
    values: tuple[ValueCount, ...] = ()
    num_other_values: int = 0
    range_counts: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, about."""
        return _VALUE_BYTES * (1 + len(self.range_counts)) + _num_bytes(self.values)


class Extent(NamedTuple):
    """The lowest and the highest value of a type."""

    lowest: Scalar
    highest: Scalar


@dataclass(frozen=True)
class FieldFacts:
    """What the keys of a scope have at a path.

    Attributes:
        path: The path.
        num_keys: Keys with a value at the path itself.
        types: How many keys have a value of each type; a key with several counts for each.
        num_values: How many values there are, equal ones counted once.
        values: The most frequent ones, as those of `FacetCounts`.
        numbers: Between which the numbers lie; `None` without any.
        dates: Between which the dates lie; `None` without any.
    """

    path: Path
    num_keys: int
    types: Mapping[ValueType, int]
    num_values: int
    values: tuple[ValueCount, ...]
    numbers: Extent | None
    dates: Extent | None


@dataclass(frozen=True)
class FieldsPage:
    """Some of the fields that the keys of a scope have, in the order in which postings have them.

    Attributes:
        fields: What is told of each.
        num_keys: How many keys the scope has.
        last: The last of these fields, after which others follow; `None` at the end.
    """

    fields: tuple[FieldFacts, ...]
    num_keys: int
    last: Path | None

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, about."""
        return sum(10 * _VALUE_BYTES + _num_bytes(facts.values) for facts in self.fields)


class CountedTerms(TermPositions, Protocol):
    """Positions of each term that can be counted."""

    def counted(
        self, bounds: Bounds, is_in_N: NDArray[np.bool_]
    ) -> Iterator[tuple[Sequence[bytes], NDArray[np.int64]]]:
        """The values `[V]` of the terms between two, ascending, and how many of some positions have each."""
        ...

    def next_place(self, low: bytes) -> bytes | None:
        """What the first terms from one on begin with that are of a path of metadata; `None` if there are none."""
        ...


class Source(NamedTuple):
    """Keys that have postings of their own, and which of them are in a scope."""

    terms: CountedTerms
    is_in_N: NDArray[np.bool_]


class FieldCounter:
    """Counts what the keys of a scope have; they are in several sources, the largest first.

    A field of any number of values takes little memory: those of the largest source are looked at some at a time.
    """

    def __init__(self, sources: Sequence[Source], deadline: Deadline) -> None:
        """Counts nothing yet.

        Args:
            sources: The keys.
            deadline: Until when the counts are wanted.
        """
        self._sources = sources
        self._deadline = deadline
        self.num_keys = sum(int(np.count_nonzero(source.is_in_N)) for source in sources)

    def count(self, facet: Facet) -> FacetCounts:
        """What a facet comes to.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        self._deadline.check()
        num_keys, is_known = self._with_value(facet.path, TYPES)
        counts = FacetCounts(facet, num_keys, self.num_keys - num_keys, is_known)
        if isinstance(facet, RangeFacet):
            return replace(counts, range_counts=tuple(self._num_in(self._matching(one)) for one in facet.ranges))
        if not num_keys:
            return counts
        tally = _Tally(facet.limit)
        for of_type in TYPES if facet.prefix is None else ("date", "string"):
            for values, counts_V in self._counted(facet.path, of_type, facet.prefix):
                tally.add(of_type, values, counts_V)
        best = tally.values()
        return replace(counts, values=best, num_other_values=tally.num_values - len(best))

    def fields(self, after: Path | None, limit: int) -> FieldsPage:
        """Some fields with values.

        Args:
            after: The field to go on after; at the beginning when absent.
            limit: How many.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        found: list[FieldFacts] = []
        place = None if after is None else type_column(after, "boolean")[:-2]
        while (place := self._next_place(b"" if place is None else behind_place(place))) is not None:
            path = path_of(place)
            facts = self._facts(path) if all(path) else None  # filters name no other fields
            if facts is not None and len(found) == limit:
                return FieldsPage(tuple(found), self.num_keys, found[-1].path)
            if facts is not None:
                found.append(facts)
        return FieldsPage(tuple(found), self.num_keys, None)

    def _facts(self, path: Path) -> FieldFacts | None:
        """What there is at a path; `None` for nothing."""
        types = {of_type: num for of_type in TYPES if (num := self._with_value(path, (of_type,))[0])}
        if not types:
            return None
        tally = _Tally(FREQUENT_VALUES)
        for of_type in types:
            for values, counts_V in self._counted(path, of_type):
                tally.add(of_type, values, counts_V)
        num_keys = self._with_value(path, tuple(types))[0]
        extents = tally.extents()
        numbers, dates = extents.get("number"), extents.get("date")
        return FieldFacts(path, num_keys, types, tally.num_values, tally.values(), numbers, dates)

    def _next_place(self, low: bytes) -> bytes | None:
        self._deadline.check()
        places = [source.terms.next_place(low) for source in self._sources]
        return min((place for place in places if place is not None), key=order_of_place, default=None)

    def _with_value(self, path: Path, types: Sequence[ValueType]) -> tuple[int, bool]:
        """How many keys have a value of some types at a path, and whether any has outside of the scope."""
        selections = [
            _any_of([source.terms.between(_all_of(path, of_type)) for of_type in types]) for source in self._sources
        ]
        return self._num_in(selections), any(len(_positions(selection)) for selection in selections)

    def _matching(self, wanted: Range) -> list[Selection]:
        return [evaluate(wanted, source.terms, self._deadline) for source in self._sources]

    def _num_in(self, selections: Sequence[Selection]) -> int:
        """How many keys of the scope are in a set, which is given for each source."""
        return sum(
            int(np.count_nonzero(source.is_in_N[_positions(selection)]))
            for source, selection in zip(self._sources, selections, strict=True)
        )

    def _counted(
        self, path: Path, of_type: ValueType, prefix: str | None = None
    ) -> Iterator[tuple[Sequence[bytes], NDArray[np.int64]]]:
        """The values of a type at a path, some at a time, ascending each time, with their counts in all sources."""
        bounds = _all_of(path, of_type)
        if prefix is not None and of_type == "string":
            start = bounds.low + prefix.encode("utf-8", "surrogatepass")
            bounds = bounds._replace(low=start, high=start + b"\xff")  # which is in no UTF-8
        for values, counts_V in self._joined(bounds):
            if prefix is not None and of_type == "date":
                is_wanted_V = [str(value_of(of_type, value)).startswith(prefix) for value in values]
                yield values, np.where(np.array(is_wanted_V, np.bool_), counts_V, 0)
            else:
                yield values, counts_V

    def _joined(self, bounds: Bounds) -> Iterator[tuple[Sequence[bytes], NDArray[np.int64]]]:
        """Counts of values in all sources; those that only the smaller ones have come last."""
        (terms, is_in_N), *smaller = self._sources
        others: dict[bytes, int] = {}
        for source in smaller:
            for values, counts_V in source.terms.counted(bounds, source.is_in_N):
                for value, num in zip(values, counts_V.tolist(), strict=True):
                    if num:
                        others[value] = others.get(value, 0) + num
        for values, counts_V in terms.counted(bounds, is_in_N):
            self._deadline.check()
            yield values, counts_V + np.array([others.pop(value, 0) for value in values]) if others else counts_V
        if others:
            rest = sorted(others)
            yield rest, np.array([others[value] for value in rest])


@dataclass
class _Tally:
    """The most frequent of all values that are added, and what else is told of all of them.

    Attributes:
        limit: How many of them.
        num_values: How many there are.
    """

    limit: int
    num_values: int = 0
    _best: list[tuple[int, int, bytes]] = field(default_factory=list)  # by count, falling; by type; by value
    _extents: dict[ValueType, tuple[bytes, bytes]] = field(default_factory=dict)

    def add(self, of_type: ValueType, values: Sequence[bytes], counts_V: NDArray[np.int64]) -> None:
        """Takes values of a type, ascending, none of which has been added before; what no key has does not count."""
        is_one_V = stand_for_one(of_type, values)
        if is_one_V is not None:
            counts_V = np.where(is_one_V, counts_V, 0)
        there = np.flatnonzero(counts_V)
        if not len(there):
            return
        self.num_values += len(there)
        order = there[np.argsort(-counts_V[there], kind="stable")[: self.limit]]
        rank = TYPES.index(of_type)
        added = [(-int(counts_V[place]), rank, values[place]) for place in order]
        self._best = nsmallest(self.limit, [*self._best, *added])
        lowest, highest = self._extents.get(of_type, (values[there[0]], values[there[-1]]))
        self._extents[of_type] = min(lowest, values[there[0]]), max(highest, values[there[-1]])

    def values(self) -> tuple[ValueCount, ...]:
        """The most frequent values."""
        return tuple(ValueCount(value_of(TYPES[rank], value), -num) for num, rank, value in self._best)

    def extents(self) -> dict[ValueType, Extent]:
        """Between which values of each type lie."""
        return {
            of_type: Extent(value_of(of_type, lowest), value_of(of_type, highest))
            for of_type, (lowest, highest) in self._extents.items()
        }


def _all_of(path: Path, of_type: ValueType) -> Bounds:
    """Between which terms all values of a type at a path lie."""
    column, _ = column_of(type_column(path, of_type))
    return Bounds.all_of(column)._replace(leaves_out_dates=of_type == "string")


def _any_of(selections: Sequence[Selection]) -> Selection:
    """The positions of all of them; most fields have values of one type, which is quickly told."""
    there = [selection for selection in selections if len(_positions(selection))]
    return there[0] if len(there) == 1 else ~intersect([~selection for selection in selections])


def _positions(selection: Selection) -> NDArray[np.uint32] | NDArray[np.int64]:
    return selection.positions() if selection.is_rest else selection.found


def _num_bytes(values: Sequence[ValueCount]) -> int:
    return sum(_VALUE_BYTES + (len(value) if isinstance(value, str) else 0) for value, _ in values)
