"""Conditions on metadata: what a search, a count or a scan may ask of a key's metadata object."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool
Path = tuple[str, ...]  # names of nested objects, outermost first


@dataclass(frozen=True)
class Equals:
    """A value at the path equals `value`."""

    path: Path
    value: Scalar


@dataclass(frozen=True)
class In:
    """A value at the path is one of `values`."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A value at the path lies between the bounds; all bounds are numbers, or all are strings."""

    path: Path
    gt: str | float | None = None
    gte: str | float | None = None
    lt: str | float | None = None
    lte: str | float | None = None


@dataclass(frozen=True)
class Exists:
    """There is a value other than null at the path."""

    path: Path


@dataclass(frozen=True)
class And:
    """All of the conditions hold."""

    conditions: tuple["Condition", ...]


@dataclass(frozen=True)
class Or:
    """At least one of the conditions holds."""

    conditions: tuple["Condition", ...]


@dataclass(frozen=True)
class Not:
    """The condition does not hold."""

    condition: "Condition"


Condition = Equals | In | Range | Exists | And | Or | Not


def matches(condition: Condition, metadata: Mapping[str, Any]) -> bool:
    """Whether a condition holds of one key's metadata."""
    match condition:
        case And(conditions):
            return all(matches(part, metadata) for part in conditions)
        case Or(conditions):
            return any(matches(part, metadata) for part in conditions)
        case Not(negated):
            return not matches(negated, metadata)
        case Exists(path):
            return any(found[: len(path)] == path for found, _ in values_of(metadata))
        case Equals(path, value):
            return _holds(metadata, path, lambda found: _same(found, value))
        case In(path, values):
            return _holds(metadata, path, lambda found: any(_same(found, value) for value in values))
        case Range(path):
            return _holds(metadata, path, lambda found: _between(found, condition))


def values_of(item: Any, path: Path = ()) -> Iterator[tuple[Path, Scalar]]:
    """All values with their paths, lists replaced by their elements; null is no value."""
    if isinstance(item, Mapping):
        for name, inner in item.items():
            yield from values_of(inner, (*path, name))
    elif isinstance(item, list):
        for inner in item:
            yield from values_of(inner, path)
    elif item is not None:
        yield path, item


def _holds(metadata: Mapping[str, Any], path: Path, test: Callable[[Scalar], bool]) -> bool:
    return any(test(value) for found, value in values_of(metadata) if found == path)


def _kind(value: Scalar) -> str:
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number"


def _same(one: Scalar, other: Scalar) -> bool:
    return _kind(one) == _kind(other) and one == other


def _between(value: Any, limits: Range) -> bool:
    bounds = [(limits.gt, operator.gt), (limits.gte, operator.ge), (limits.lt, operator.lt), (limits.lte, operator.le)]
    given = [(bound, compare) for bound, compare in bounds if bound is not None]
    return all(_kind(value) == _kind(bound) and compare(value, bound) for bound, compare in given)
