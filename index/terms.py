"""Terms: what postings are kept for, as bytes whose order is the order of the values.

    name FF name FF ... FE kind value       a value at a path; values of one path and kind lie side by side
    name FF name FF ... FE kind             "there is a value at the path or below it"
    FE kind name                            a modality, a pool

Neither FE nor FF occurs in UTF-8, so no path is the beginning of another. Strings are kept in UTF-8, whose order as
bytes is the order of code points.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any

from index.conditions import (
    MAX_PATH_BYTES,
    MAX_PATH_NAMES,
    MAX_STRING_BYTES,
    Kind,
    Path,
    Scalar,
    is_value,
    kind_of,
)

_NAME_END = b"\xff"
_PATH_END = b"\xfe"
_EXISTS = _PATH_END + b"e"
_MODALITY = _PATH_END + b"m"
_POOL = _PATH_END + b"p"
_VALUE: dict[Kind, bytes] = {kind: _PATH_END + kind[:1].encode() for kind in ("boolean", "number", "string")}
_AFTER_VALUE: dict[Kind, bytes] = {kind: marks[:1] + bytes([marks[1] + 1]) for kind, marks in _VALUE.items()}
_LAST_EXACT = 2**53  # up to here every integer is a double
_DOUBLE, _BITS = struct.Struct(">d"), struct.Struct(">Q")
_SIGN_BIT, _ALL_BITS = 2**63, 2**64 - 1


def modality_term(modality: str) -> bytes:
    """The term of a modality's keys."""
    return _MODALITY + modality.encode()


def pool_term(pool: str) -> bytes:
    """The term of a pool's keys."""
    return _POOL + _utf8(pool)


def exists_term(path: Path) -> bytes:
    """The term of the keys with a value at the path or below it."""
    return _start(path) + _EXISTS


def value_term(path: Path, value: Scalar) -> bytes:
    """The term of the keys with a value at the path."""
    return _start(path) + _encode(value)


def kind_range(path: Path, kind: Kind) -> tuple[bytes, bytes]:
    """The bytes that all values of a kind at the path are not below, and the bytes that they are below."""
    start = _start(path)
    return start + _VALUE[kind], start + _AFTER_VALUE[kind]


def terms_of(metadata: Mapping[str, Any]) -> set[bytes]:
    """The terms of all that a condition can find in a metadata object.

    Paths that no condition can name count as a value below the last one it can.
    """
    terms: set[bytes] = set()
    pending: list[tuple[tuple[bytes, ...], bool, Any]] = [((), True, metadata)]
    while pending:
        starts, is_named, item = pending.pop()  # the path's beginnings, the longest last; whether it goes on unnamed
        if isinstance(item, Mapping):
            for name, inner in item.items():
                longer = _longer(starts, name) if is_named else None
                pending.append((starts, False, inner) if longer is None else ((*starts, longer), True, inner))
        elif isinstance(item, list):
            pending.extend((starts, is_named, inner) for inner in item)
        elif is_value(item):
            terms.update(start + _EXISTS for start in starts)
            if is_named:
                terms.add(starts[-1] + _encode(item))
    return terms


def _longer(starts: tuple[bytes, ...], name: str) -> bytes | None:
    """The beginning of the terms one name further down; `None` for a path that no condition can name."""
    longer = (starts[-1] if starts else b"") + _utf8(name) + _NAME_END
    num_names = len(starts) + 1
    return longer if num_names <= MAX_PATH_NAMES and len(longer) - num_names <= MAX_PATH_BYTES else None


def _start(path: Path) -> bytes:
    return b"".join(_utf8(name) + _NAME_END for name in path)


def _encode(value: Scalar) -> bytes:
    """Kind and value; values that no condition can name only keep their order relative to those it can."""
    kind = kind_of(value)
    if isinstance(value, str):
        return _VALUE[kind] + _utf8(value)[: MAX_STRING_BYTES + 1]
    return _VALUE[kind] + (_encode_number(value) if kind == "number" else bytes([value]))


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


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # metadata is checked elsewhere, and no version may fail over it
