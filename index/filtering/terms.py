"""Terms: what postings are kept for, as bytes whose order is the order of the values.

    name FF name FF ... FE kind value       a value at a path; values of one path and kind lie side by side. A date has
                                            two: one in the order of moments, one in that of code points
    name FF name FF ... FE kind             "there is a value at the path or below it"
    FE kind name                            a modality, a pool

Neither FE nor FF occurs in UTF-8, so no path is the beginning of another. Strings are kept in UTF-8, whose order as
bytes is the order of code points.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anykey.index.filtering.conditions import (
    MAX_INTEGER,
    MAX_PATH_BYTES,
    MAX_PATH_NAMES,
    MAX_STRING_BYTES,
    MIN_INTEGER,
    Bound,
    Compared,
    Path,
    Scalar,
)
from anykey.index.filtering.instants import Instant, instant_of

Column = Literal["number", "string", "dated", "instant"]  # values that lie side by side
ValueType = Literal["boolean", "number", "date", "string"]  # what a value is; a string that is a date is one
TYPES: tuple[ValueType, ...] = ("boolean", "number", "date", "string")

_NAME_END = b"\xff"
_PATH_END = b"\xfe"
_EXISTS = _PATH_END + b"e"
_MODALITY = _PATH_END + b"m"
_POOL = _PATH_END + b"p"
_BOOLEAN = _PATH_END + b"b"
_DATED = _PATH_END + b"d"  # a string that is a date, as it is written
_INSTANT = _PATH_END + b"i"  # the moment that a date names
_NUMBER = _PATH_END + b"n"
_STRING = _PATH_END + b"s"  # any other string
_PREFIXES: Mapping[Column, bytes] = MappingProxyType(
    {"number": _NUMBER, "string": _STRING, "dated": _DATED, "instant": _INSTANT}
)
_OF_TYPES: Mapping[ValueType, bytes] = MappingProxyType(
    {"boolean": _BOOLEAN, "number": _NUMBER, "date": _INSTANT, "string": _STRING}
)
LONGEST_REMEMBERED = 128  # characters
_LAST_EXACT = 2**53  # up to here every integer is a double
_DOUBLE, _BITS = struct.Struct(">d"), struct.Struct(">Q")
_SIGN_BIT, _ALL_BITS = 2**63, 2**64 - 1


@lru_cache(maxsize=8)  # there are three, and a version has one of them for each key
def modality_term(modality: str) -> bytes:
    """The term of a modality's keys."""
    return _MODALITY + modality.encode()


def pool_term(pool: str) -> bytes:
    """The term of a pool's keys."""
    return _POOL + _utf8(pool)


def pool_of(value: bytes) -> str:
    """The pool whose term has a value; see `column_of`."""
    return value.decode("utf-8", "surrogatepass")


def exists_term(path: Path) -> bytes:
    """The term of the keys with a value at the path or below it."""
    return _start(path) + _EXISTS


def value_term(path: Path, wanted: Compared) -> bytes:
    """The term of the keys with a value at the path that has this in common with what is looked for."""
    kind, value = wanted
    return _start(path) + (_INSTANT + _utf8(str(value)) if kind == "instant" else _encode(value))


def bound_term(path: Path, column: Column, bound: Bound | Instant) -> bytes:
    """The term of a value at the path, among those that a bound is compared with."""
    if isinstance(bound, str | Instant):
        return _start(path) + _PREFIXES[column] + _utf8(str(bound))[: MAX_STRING_BYTES + 1]
    return _start(path) + _encode(bound)


def kind_range(path: Path, column: Column) -> tuple[bytes, bytes]:
    """What all values of one column at the path are not below, and what they are below."""
    start, prefix = _start(path), _PREFIXES[column]
    return start + prefix, start + prefix[:-1] + bytes([prefix[-1] + 1])


def type_column(path: Path, of_type: ValueType) -> bytes:
    """The column of a type's values at a path; see `column_of`."""
    return _start(path) + _OF_TYPES[of_type]


def place_of(term: bytes) -> bytes:
    """What the terms at one path begin with; nothing for modalities and pools.

    Raises:
        NoTermError: it is no term.
    """
    with _decoding():
        return term[: term.index(_PATH_END)]


def order_of_place(place: bytes) -> bytes:
    """What orders places as their terms are: those of what is in an object come before the object's own."""
    return place + _PATH_END


def behind_place(place: bytes) -> bytes:
    """What the terms at a path are below, and those at all paths behind it are not; see `place_of`."""
    return place + _PATH_END + _NAME_END


def path_of(place: bytes) -> Path:
    """The path whose terms begin with something; see `place_of`.

    Raises:
        NoTermError: no terms begin with it.
    """
    with _decoding():
        return tuple(name.decode("utf-8", "surrogatepass") for name in place.split(_NAME_END)[:-1])


def value_of(of_type: ValueType, value: bytes) -> Scalar:
    """The value of a type's term, as `column_of` gives it, in the form that stands for all that equal it.

    Whole numbers of 64 bits are integers, and dates are in UTC (`Instant.written`).

    Raises:
        NoTermError: no value of the type has such a term.
    """
    if of_type == "boolean":
        return value != b"\0"
    with _decoding():
        if of_type == "number":
            return _decode_number(value)
        text = value.decode("utf-8", "replace")
        return Instant.of_ordered(text).written() if of_type == "date" else text


class NoTermError(ValueError):
    """Bytes that are no term: only a damaged file has such."""


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (ValueError, struct.error) as error:
        raise NoTermError(f"expected a term: {error}") from error


def stand_for_one(of_type: ValueType, values: Sequence[bytes]) -> NDArray[np.bool_] | None:
    """Which of a type's terms, ascending, are of one value each; `None`: all.

    The others are strings beyond the length that a condition can name, which were cut, and integers beyond doubles.
    """
    if of_type == "string" and max(map(len, values), default=0) > MAX_STRING_BYTES:
        return np.array([len(value) <= MAX_STRING_BYTES for value in values])
    if of_type == "number" and values and not _INFINITE.isdisjoint((values[0], values[-1])):
        return np.array([value not in _INFINITE for value in values])
    return None


def is_instant(term: bytes) -> bool:
    """Whether a term is of a moment that dates name."""
    return _kind(term) == _INSTANT


def is_dated(term: bytes) -> bool:
    """Whether a term is of a date as it is written."""
    return _kind(term) == _DATED


def is_string(term: bytes) -> bool:
    """Whether a term is of a string that is no date."""
    return _kind(term) == _STRING


def strings_beside(column: bytes) -> bytes:
    """The column of strings at the path of another column; see `column_of`."""
    return column[:-2] + _STRING


def moment_term(column: bytes, value: bytes) -> bytes | None:
    """The term of the moment that a string names, if it is a date; the string as `column_of` gives it."""
    instant = instant_of(value.decode("utf-8", "replace"))
    return None if instant is None else column[:-2] + _INSTANT + _utf8(str(instant))


def column_of(term: bytes) -> tuple[bytes, bytes]:
    """A term in two: the path and kind that it shares with others, and the value, which orders those."""
    stop = term.index(_PATH_END) + 2
    return term[:stop], term[stop:]


def terms_of(metadata: dict[str, Any]) -> set[bytes]:
    """The terms of all that a condition can find in a metadata object (JSON).

    Paths that no condition can name count as values below the last one it can.
    """
    terms: set[bytes] = set()
    pending: list[tuple[_Place, Any]] = [(_Place(), metadata)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, dict):
            pending.extend([(_place_below(place, name), inner) for name, inner in item.items()])
        elif isinstance(item, list):
            pending.extend([(place, inner) for inner in item])
        elif item is not None:
            terms.update(place.exists)
            if place.is_named:
                terms.update(_terms_at(place.start, item))
    return terms


class _Place(NamedTuple):
    """Where in a metadata object something is.

    Attributes:
        start: The beginning of the terms of the path, or of the last path above that a condition can name.
        exists: What a value here makes true: that there is one at the path, and below all paths above.
        num_names: Length of the path.
        is_named: Whether a condition can name the path itself.
    """

    start: bytes = b""
    exists: tuple[bytes, ...] = ()
    num_names: int = 0
    is_named: bool = True


def _place_below(place: _Place, name: str) -> _Place:
    """The place one name further down; places of names that are long for one are not remembered."""
    return _known_below(place, name) if len(name) <= LONGEST_REMEMBERED else _below(place, name)


@lru_cache(maxsize=4096)  # most keys have the same few fields
def _known_below(place: _Place, name: str) -> _Place:
    return _below(place, name)


def _below(place: _Place, name: str) -> _Place:
    start, num_names = place.start + _utf8(name) + _NAME_END, place.num_names + 1
    if not place.is_named or num_names > MAX_PATH_NAMES or len(start) - num_names > MAX_PATH_BYTES:
        return place._replace(is_named=False)
    return _Place(start, (*place.exists, start + _EXISTS), num_names)


def _kind(term: bytes) -> bytes:
    start = term.index(_PATH_END)
    return term[start : start + len(_PATH_END) + 1]


def _start(path: Path) -> bytes:
    return b"".join(_utf8(name) + _NAME_END for name in path)


def _terms_at(start: bytes, value: Scalar) -> tuple[bytes, ...]:
    if isinstance(value, str) and (instant := instant_of(value)) is not None:
        return start + _INSTANT + _utf8(str(instant)), start + _DATED + _utf8(value)
    return (start + _encode(value),)


def _encode(value: Scalar) -> bytes:
    """Kind and value; values that no condition can name only keep their order relative to those it can."""
    if isinstance(value, str):
        return _STRING + _utf8(value)[: MAX_STRING_BYTES + 1]
    return _BOOLEAN + bytes([value]) if isinstance(value, bool) else _NUMBER + _encode_number(value)


def _encode_number(value: int | float) -> bytes:
    """Eight bytes for the largest double that is not above the value, then what is missing to the value, if anything.

    Integers beyond the doubles become infinite: no condition can name them, and all it can name are nearer to zero.
    """
    try:
        double = float(value)
    except OverflowError:
        return _encode_double(math.inf if value > 0 else -math.inf)
    if isinstance(value, float) or -_LAST_EXACT <= value <= _LAST_EXACT:
        return _encode_double(double)
    if double > value:
        double = math.nextafter(double, -math.inf)
    missing = 0 if math.isinf(double) else value - int(double)
    size = (missing.bit_length() + 7) // 8  # at most 122: doubles lie less than 2**971 apart
    return _encode_double(double) + (bytes([size]) + missing.to_bytes(size, "big") if size else b"")


def _encode_double(value: float) -> bytes:
    """The double's bits, changed so that they sort as doubles do."""
    (bits,) = _BITS.unpack(_DOUBLE.pack(value + 0.0))  # one zero for both
    return _BITS.pack(bits ^ (_ALL_BITS if bits & _SIGN_BIT else _SIGN_BIT))


_INFINITE = frozenset((_encode_double(-math.inf), _encode_double(math.inf)))


def _decode_number(value: bytes) -> int | float:
    (bits,) = _BITS.unpack(value[:8])
    (double,) = _DOUBLE.unpack(_BITS.pack(bits ^ (_SIGN_BIT if bits & _SIGN_BIT else _ALL_BITS)))
    if not math.isfinite(double):
        raise ValueError("expected a finite number")
    if len(value) > 8:
        return int(double) + int.from_bytes(value[9:], "big")
    return int(double) if double.is_integer() and MIN_INTEGER <= double <= MAX_INTEGER else float(double)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # metadata is checked elsewhere, and no version may fail over it
