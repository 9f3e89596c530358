"""One spelling for each query, however it was sent: what tells it from all others."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any

import numpy as np

PLAIN = frozenset((type(None), bool, int, float))


def digest_of(*values: Any) -> str:
    """SHA-256 (hex) of values: equal ones have the same, and others have another.

    Every field of a dataclass counts that is compared, those that are yet to be thought of too.

    Raises:
        TypeError: there is something in it of which it is not known what tells it from others.
    """
    pieces: list[bytes] = []
    _add(pieces, values)
    return hashlib.sha256(b"".join([b"%d " % len(piece) + piece for piece in pieces])).hexdigest()


def _add(pieces: list[bytes], value: Any) -> None:
    """Adds bytes that tell a value from others, if each is preceded by its length."""
    kind = type(value)
    if kind is str:
        pieces += (b"str", value.encode("utf-8", "surrogatepass"))
    elif kind in PLAIN:
        pieces.append(f"{kind.__name__} {value!r}".encode())
    elif isinstance(value, Enum):  # some of them are texts, too
        _add(pieces, (kind.__name__, value.value))
    elif isinstance(value, bytes | bytearray | memoryview):
        pieces += (b"bytes", bytes(value))
    else:
        _add_within(pieces, value)


def _add_within(pieces: list[bytes], value: Any) -> None:
    """Those of a value that holds others."""
    if isinstance(value, tuple | list):
        pieces.append(f"sequence {len(value)}".encode())
        for member in value:
            _add(pieces, member)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add_fields(pieces, value)
    elif isinstance(value, np.ndarray):
        pieces += (f"{value.dtype.str} {value.shape}".encode(), np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Set):
        _add(pieces, ("set", *sorted(digest_of(member) for member in value)))
    elif isinstance(value, Mapping):
        _add(pieces, ("mapping", *sorted(digest_of(*pair) for pair in value.items())))
    elif isinstance(value, str | float):  # of a kind of its own, such as a number of numpy's
        _add(pieces, str(value) if isinstance(value, str) else float(value))
    else:
        raise TypeError(f"a {type(value).__name__} has no canonical form")


def _add_fields(pieces: list[bytes], value: Any) -> None:
    """Those of a dataclass: its name, how many fields are not as usual, and these; most of a query are as usual."""
    told: list[bytes] = []
    num_told = 0
    for name, usual, usual_pieces in _fields_of(type(value)):  # type: ignore[arg-type]  # classes are hashable
        member = getattr(value, name)
        if member is usual:  # as of most fields of most queries
            continue
        of_member: list[bytes] = []
        _add(of_member, member)
        if of_member != usual_pieces:
            num_told += 1
            told += (name.encode(), *of_member)
    pieces.append(f"dataclass {type(value).__qualname__} {num_told}".encode())
    pieces += told


@functools.cache
def _fields_of(kind: type) -> tuple[tuple[str, Any, list[bytes] | None], ...]:
    """The names of a dataclass's fields that are compared, each with what it is if nothing is said."""
    return tuple((field.name, *_usual(field)) for field in dataclasses.fields(kind) if field.compare)


def _usual(field: "dataclasses.Field[Any]") -> tuple[Any, list[bytes] | None]:
    if field.default is dataclasses.MISSING:
        return field.default, None
    pieces: list[bytes] = []
    _add(pieces, field.default)
    return field.default, pieces
