"""Conditions on metadata, and what they mean: what a search, a count or a scan may ask of a key's metadata object.

Every condition is checked when it is made, so whatever evaluates one may trust it.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.instants import Instant, instant_of

Scalar = str | int | float | bool
Path = tuple[str, ...]  # names of nested objects, outermost first
Kind = Literal["boolean", "number", "string"]
Bound = str | int | float
Compared = tuple[Kind | Literal["instant"], Scalar]  # what two values have in common that are equal

MAX_PATH_NAMES = 16
MAX_PATH_BYTES = 1024  # in UTF-8, all names together
MAX_STRING_BYTES = 1024  # in UTF-8; longer strings of metadata equal no condition's, and sort as strings do
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
_COMPARISONS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@dataclass(frozen=True)
class Equals:
    """A value at the path equals `value`.

    Attributes:
        path: Where to look.
        value: What is looked for.
        wanted: What equal values have in common; decides whether two conditions are equal.
    """

    path: Path
    value: Scalar = field(compare=False)
    wanted: frozenset[Compared] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_path(self.path)
        _checked_kind(self.value, "eq")
        object.__setattr__(self, "wanted", frozenset({compared(self.value)}))


@dataclass(frozen=True)
class In:
    """A value at the path is one of `values`.

    Attributes:
        path: Where to look.
        values: What is looked for, in any order.
        wanted: What values equal to them have in common; decides whether two conditions are equal.
    """

    path: Path
    values: tuple[Scalar, ...] = field(compare=False)
    wanted: frozenset[Compared] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_path(self.path)
        if not self.values:
            raise InvalidFilterError("in", "expected at least one value, got an empty list")
        for place, value in enumerate(self.values):
            _checked_kind(value, f"in[{place}]")
        object.__setattr__(self, "wanted", frozenset(map(compared, self.values)))


@dataclass(frozen=True)
class Range:
    """A value at the path lies between the bounds; all bounds are numbers, or all are strings.

    Where all bounds are dates, a value that is a date too is compared as a moment; all other strings by code point.

    Attributes:
        path: Where to look.
        gt: The value is above this.
        gte: The value is this or above; not with `gt`.
        lt: The value is below this.
        lte: The value is this or below; not with `lt`.
        instants: The bounds as moments, by name; `None` unless all are dates.
    """

    path: Path
    gt: Bound | None = None
    gte: Bound | None = None
    lt: Bound | None = None
    lte: Bound | None = None
    instants: dict[str, Instant] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_path(self.path)
        kinds = {name: _checked_kind(bound, name) for name, bound in self.bounds.items()}
        if not kinds:
            raise InvalidFilterError("", "expected at least one of gt, gte, lt, lte")
        first = next(iter(kinds))
        for name, kind in kinds.items():
            if kind == "boolean":
                raise InvalidFilterError(name, "expected a number or a string, got a boolean")
            if kind != kinds[first]:
                raise InvalidFilterError(name, f"expected a {kinds[first]} as in '{first}', got a {kind}")
        for strict, other in (("gt", "gte"), ("lt", "lte")):
            if strict in kinds and other in kinds:
                raise InvalidFilterError(other, f"expected either '{strict}' or '{other}', got both")
        object.__setattr__(self, "instants", _instants_of(self.bounds))

    @property
    def bounds(self) -> dict[str, Bound]:
        """The bounds there are, by name."""
        bounds = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    @property
    def kind(self) -> Kind:
        """Kind of the bounds, and so of the values that may lie between them."""
        return kind_of(next(iter(self.bounds.values())))


@dataclass(frozen=True)
class Exists:
    """There is a value at the path or below it."""

    path: Path

    def __post_init__(self) -> None:
        _check_path(self.path)


@dataclass(frozen=True)
class And:
    """All of the conditions hold."""

    conditions: tuple["Condition", ...]

    def __post_init__(self) -> None:
        _check_not_empty(self.conditions, "and")


@dataclass(frozen=True)
class Or:
    """At least one of the conditions holds."""

    conditions: tuple["Condition", ...]

    def __post_init__(self) -> None:
        _check_not_empty(self.conditions, "or")


@dataclass(frozen=True)
class Not:
    """The condition does not hold."""

    condition: "Condition"


Condition = Equals | In | Range | Exists | And | Or | Not


def matches(condition: Condition, metadata: dict[str, Any]) -> bool:
    """Whether a condition holds of one key's metadata (JSON, as the corpus had it).

    This is what conditions mean; every faster evaluation agrees with it. Values are strings, numbers and booleans: null
    is no value. Of a list each element counts, at any depth, and one that fits is enough. Numbers compare exactly,
    dates by the moment they name, other strings by code point, and no value is equal to or between values of another
    kind.

    >>> matches(Range(("size", "width"), gte=10), {"size": [{"width": 4}, {"width": 12.5}]})
    True
    """
    match condition:
        case And(conditions):
            return all(matches(part, metadata) for part in conditions)
        case Or(conditions):
            return any(matches(part, metadata) for part in conditions)
        case Not(negated):
            return not matches(negated, metadata)
        case Exists(path):
            return any(map(_holds_value, _at(path, metadata)))
        case Range(path):
            return any(_is_between(value, condition) for value in _at(path, metadata) if is_value(value))
        case Equals(path) | In(path):
            return any(compared(value) in condition.wanted for value in _at(path, metadata) if is_value(value))


def paths_in(condition: Condition) -> list[Path]:
    """The fields that a condition asks for, each once, in its order.

    >>> paths_in(And((Equals(("a",), 1), Not(Exists(("b", "c"))), Exists(("a",)))))
    [('a',), ('b', 'c')]
    """
    if isinstance(condition, And | Or):
        return list(dict.fromkeys(path for part in condition.conditions for path in paths_in(part)))
    return paths_in(condition.condition) if isinstance(condition, Not) else [condition.path]


def values_at(path: Path, metadata: dict[str, Any]) -> list[Scalar]:
    """The values at a path, in their order; of a list each element counts, at any depth.

    >>> values_at(("size", "width"), {"size": [{"width": 4}, {"width": 12.5}]})
    [4, 12.5]
    """
    return [value for value in _at(path, metadata) if is_value(value)]


def is_value(item: Any) -> bool:
    """Whether something in metadata is a value: no null, list or object."""
    return isinstance(item, (str, int, float))


def kind_of(value: Scalar) -> Kind:
    """Kind of a value; only values of one kind compare."""
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number"


def compared(value: Scalar) -> Compared:
    """What a value has in common with all values that equal it: its kind, for in Python `True == 1`, and itself.

    Of a date it is the moment, in one form.
    """
    if isinstance(value, str) and (instant := instant_of(value)) is not None:
        return "instant", str(instant)
    return kind_of(value), value


def describe(item: Any) -> str:
    """JSON's name of what something is, for messages."""
    if item is None:
        return "null"
    if is_value(item):
        return f"a {kind_of(item)}"
    return "a list" if isinstance(item, (list, tuple)) else "an object"


def _at(path: Path, metadata: dict[str, Any]) -> list[Any]:
    """All that is at a path, lists replaced by their elements."""
    found: list[Any] = [metadata]
    for name in path:
        inner = [item[name] for item in found if isinstance(item, dict) and name in item]
        found = list(flatten(inner))
    return found


def flatten(items: list[Any]) -> Iterator[Any]:
    """The items, lists replaced by their elements; without recursion, for metadata may nest deeply."""
    pending = items[::-1]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        else:
            yield item


def _holds_value(item: Any) -> bool:
    """Whether something is a value, or has one anywhere inside."""
    pending = [item]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif is_value(item):
            return True
    return False


def _is_between(value: Any, condition: Range) -> bool:
    if kind_of(value) != condition.kind:
        return False
    bounds: dict[str, Any] = condition.bounds
    if condition.instants is not None and (instant := instant_of(value)) is not None:
        value, bounds = instant, condition.instants
    return all(_COMPARISONS[name](value, bound) for name, bound in bounds.items())


def _instants_of(bounds: dict[str, Bound]) -> dict[str, Instant] | None:
    """The bounds as moments, if all are dates."""
    found = {name: instant_of(bound) if isinstance(bound, str) else None for name, bound in bounds.items()}
    instants = {name: instant for name, instant in found.items() if instant is not None}
    return instants if len(instants) == len(bounds) else None


def _checked_kind(value: Any, where: str) -> Kind:
    """The kind of what a condition compares with; refuses what no condition may."""
    if not is_value(value):
        hint = "; to ask whether there is a value, use 'exists'" if value is None else ""
        raise InvalidFilterError(where, f"expected a string, a number or a boolean, got {describe(value)}{hint}")
    kind = kind_of(value)
    if kind == "string":
        _check_text(value, where, MAX_STRING_BYTES)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidFilterError(where, f"expected a finite number, got {value}")
    elif isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise InvalidFilterError(where, f"expected an integer of 64 bits, got one of {value.bit_length() + 1}")
    return kind


def _check_path(path: Path) -> None:
    if not 1 <= len(path) <= MAX_PATH_NAMES:
        raise InvalidFilterError("field", f"expected 1 to {MAX_PATH_NAMES} names, got {len(path)}")
    for name in path:
        if not isinstance(name, str):
            raise InvalidFilterError("field", f"expected names that are strings, got {describe(name)}")
        if not name:
            raise InvalidFilterError("field", "expected names, got an empty one")
    _check_text("".join(path), "field", MAX_PATH_BYTES)


def _check_text(text: str, where: str, max_bytes: int) -> None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidFilterError(where, f"expected Unicode, got half a surrogate pair at {error.start}") from error
    if size_bytes > max_bytes:
        raise InvalidFilterError(where, f"expected at most {max_bytes:,} bytes, got {size_bytes:,}")


def _check_not_empty(conditions: tuple[Condition, ...], name: str) -> None:
    if not conditions:
        raise InvalidFilterError(name, "expected at least one condition, got an empty list")
