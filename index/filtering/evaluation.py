"""From a condition to the positions that it holds of, over whatever keeps the positions of each term."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from anykey.index.deadline import Deadline
from anykey.index.filtering.conditions import And, Bound, Condition, Equals, Exists, In, Not, Or, Path, Range
from anykey.index.filtering.instants import Instant
from anykey.index.filtering.selection import Selection, intersect
from anykey.index.filtering.terms import Column, bound_term, exists_term, kind_range, value_term


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
