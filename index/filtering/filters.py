"""Filters: the JSON that clients send, to conditions and back. `docs/filters.md` is the grammar by example."""

import json
from collections.abc import Collection, Iterator
from typing import Any

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import (
    MAX_INTEGER,
    MIN_INTEGER,
    And,
    Condition,
    Equals,
    Exists,
    In,
    Not,
    Or,
    Path,
    Range,
    Scalar,
    compared,
    describe,
)
from anykey.index.filtering.instants import instant_of

MAX_DEPTH = 16
MAX_CONDITIONS = 1_000
MAX_IN_VALUES = 10_000

_COMBINATIONS = ("and", "or", "not")
_RANGE = ("gt", "gte", "lt", "lte")
_COMPARISONS = ("eq", "in", "exists", *_RANGE)


def parse_condition(document: Any) -> Condition:
    """Reads a filter.

    Args:
        document: The filter as JSON gives it: objects, lists and scalars.

    Raises:
        InvalidFilterError: it is none, or beyond a limit: 16 conditions deep, 1,000 conditions, 10,000 values in all
            `in` lists together, names and strings of 1,024 bytes, integers of 64 bits.

    >>> parse_condition({"field": "size.width", "gte": 10})
    Range(path=('size', 'width'), gt=None, gte=10, lt=None, lte=None)
    """
    return _Parser().parse(document)


def to_json(condition: Condition) -> dict[str, Any]:
    """Writes the filter that `parse_condition` reads as the condition.

    Conditions that differ only in the order or the repetition of their parts, or in how a number or a date that a value
    equals is written, give equal JSON, also as text if the names are sorted.
    """
    match condition:
        case And(conditions):
            return _combination("and", conditions)
        case Or(conditions):
            return _combination("or", conditions)
        case Not(negated):
            part = to_json(negated)
            return {**part, "exists": False} if part.get("exists") is True else {"not": part}
        case Exists(path):
            return {"field": field_of_path(path), "exists": True}
        case Range(path):
            return {"field": field_of_path(path), **{name: _plain(bound) for name, bound in condition.bounds.items()}}
        case Equals(path) | In(path):
            given = condition.values if isinstance(condition, In) else (condition.value,)
            written = {compared(value): _in_utc(_plain(value)) for value in given}
            values = [written[wanted] for wanted in sorted(written)]
            return {"field": field_of_path(path), **({"eq": values[0]} if len(values) == 1 else {"in": values})}


class _Parser:
    """One reading of one filter; counts what is limited."""

    def __init__(self) -> None:
        self._num_conditions = 0
        self._num_in_values = 0

    def parse(self, document: Any, depth: int = 1) -> Condition:
        self._num_conditions += 1
        if self._num_conditions > MAX_CONDITIONS:
            raise InvalidFilterError("", f"expected at most {MAX_CONDITIONS:,} conditions in the filter, got more")
        if depth > MAX_DEPTH:
            raise InvalidFilterError("", f"expected conditions at most {MAX_DEPTH} deep, got deeper ones")
        if not isinstance(document, dict):
            raise InvalidFilterError("", f"expected a condition, which is an object, got {describe(document)}")
        for name in _COMBINATIONS:
            if name in document:
                _check_members(document, (name,), f"beside '{name}'")
                return self._combination(name, document[name], depth)
        if "field" not in document:
            raise InvalidFilterError("", f"expected 'field', 'and', 'or' or 'not' in it, got {_names(document)}")
        return self._comparison(document)

    def _combination(self, name: str, parts: Any, depth: int) -> Condition:
        if name == "not":
            return Not(self._part(parts, "not", depth))
        if not isinstance(parts, list):
            raise InvalidFilterError(name, f"expected a list of conditions, got {describe(parts)}")
        conditions = tuple(self._part(part, f"{name}[{place}]", depth) for place, part in enumerate(parts))
        return And(conditions) if name == "and" else Or(conditions)

    def _part(self, document: Any, place: str, depth: int) -> Condition:
        try:
            return self.parse(document, depth + 1)
        except InvalidFilterError as error:
            raise error.inside(place) from None

    def _comparison(self, document: dict[str, Any]) -> Condition:
        _check_members(document, ("field", *_COMPARISONS), "in a condition on a field")
        path = parse_path(document["field"])
        given = {name: value for name, value in document.items() if name != "field"}
        if given and all(name in _RANGE for name in given):
            return Range(path, **{name: _not_null(name, bound) for name, bound in given.items()})
        if len(given) != 1:
            wanted = "one of 'eq', 'in', 'exists', or bounds 'gt', 'gte', 'lt', 'lte'"
            raise InvalidFilterError("", f"expected {wanted} beside 'field', got {_names(given)}")
        ((name, value),) = given.items()
        if name == "eq":
            return Equals(path, value)
        return self._in(path, value) if name == "in" else _exists(path, value)

    def _in(self, path: Path, values: Any) -> In:
        if not isinstance(values, list):
            raise InvalidFilterError("in", f"expected a list of values, got {describe(values)}")
        self._num_in_values += len(values)
        if self._num_in_values > MAX_IN_VALUES:
            raise InvalidFilterError("in", f"expected at most {MAX_IN_VALUES:,} values in all 'in' lists, got more")
        return In(path, tuple(values))


def _exists(path: Path, is_there: Any) -> Condition:
    if not isinstance(is_there, bool):
        raise InvalidFilterError("exists", f"expected true or false, got {describe(is_there)}")
    return Exists(path) if is_there else Not(Exists(path))


def _not_null(name: str, bound: Any) -> Any:
    """The bound, if the document has one: to a `Range`, `None` is no bound."""
    if bound is None:
        raise InvalidFilterError(name, "expected a number or a string, got null")
    return bound


def _check_members(document: dict[str, Any], known: Collection[str], place: str) -> None:
    unknown = [name for name in document if name not in known]
    if unknown:
        allowed = ", ".join(f"'{name}'" for name in known)
        raise InvalidFilterError("", f"expected no more than {allowed} {place}, got {_names(unknown)}")


def _names(members: Collection[Any], max_shown: int = 5, max_chars: int = 40) -> str:
    """Names of an object's members, as far as a message has room for them."""
    shown = [ascii(name if len(str(name)) <= max_chars else f"{name[:max_chars]}...") for name in members]
    if not shown:
        return "nothing"
    return ", ".join(shown[:max_shown]) + (f" and {len(shown) - max_shown} more" if len(shown) > max_shown else "")


def parse_path(names: Any) -> Path:
    """A field as clients name it, to its path.

    Raises:
        InvalidFilterError: it is no name.

    >>> parse_path("size.width")
    ('size', 'width')
    """
    if isinstance(names, list):
        return tuple(names)
    if not isinstance(names, str):
        raise InvalidFilterError("field", f"expected a string or a list of strings, got {describe(names)}")
    return tuple(_split_dots(names))


def _split_dots(text: str) -> Iterator[str]:
    name = ""
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            escaped = next(letters, "")
            if escaped not in ("\\", "."):
                raise InvalidFilterError("field", r"expected '\.' (a dot in a name) or '\\' (a backslash) after '\'")
            name += escaped
        elif letter == ".":
            yield name
            name = ""
        else:
            name += letter
    yield name


def field_of_path(path: Path) -> str:
    """A path as clients name it; `parse_path` reads it."""
    return ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in path)


def _plain(value: Scalar) -> Scalar:
    """The value, whole numbers written as integers where a filter takes those."""
    if isinstance(value, float) and value.is_integer() and MIN_INTEGER <= value <= MAX_INTEGER:
        return int(value)
    return value


def _in_utc(value: Scalar) -> Scalar:
    """The value, a date in UTC where that has its year; not for bounds, which other strings are compared with too."""
    instant = instant_of(value) if isinstance(value, str) else None
    return value if instant is None else instant.iso() or value


def _combination(name: str, conditions: tuple[Condition, ...]) -> dict[str, Any]:
    parts = {json.dumps(part, sort_keys=True): part for part in map(to_json, conditions)}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return {name: [parts[text] for text in sorted(parts)]}
