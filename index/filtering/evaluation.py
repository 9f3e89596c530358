"""From a condition to the positions that it holds of, over whatever keeps the positions of each term."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from index.deadline import Deadline
from index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range
from index.filtering.selection import Selection, intersect
from index.filtering.terms import exists_term, kind_range, value_term


class Bounds(NamedTuple):
    """Between which terms the values of a range lie.

    Attributes:
        low: The lowest term.
        is_above: Whether the term itself is outside.
        high: The highest term.
        is_below: Whether the term itself is outside.
    """

    low: bytes
    is_above: bool
    high: bytes
    is_below: bool

    @classmethod
    def of(cls, condition: Range) -> "Bounds":
        """Those of a condition; where it has none, those of its kind of values."""
        low, high = kind_range(condition.path, condition.kind)
        bounds = cls(low, False, high, True)
        for name, bound in condition.bounds.items():
            term = value_term(condition.path, bound)
            if name.startswith("g"):
                bounds = bounds._replace(low=term, is_above=name == "gt")
            else:
                bounds = bounds._replace(high=term, is_below=name == "lt")
        return bounds


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
            return positions.between(Bounds.of(condition))
        case Equals(path) | In(path):
            return positions.with_any(sorted(value_term(path, value) for _, value in condition.wanted))
