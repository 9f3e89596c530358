"""Conditions on metadata: what a search, a count or a scan may ask of a key's metadata object."""

from dataclasses import dataclass

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
