"""One spelling for each query, however it was sent: what tells it from all others."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any

import numpy as np

PLAIN = (type(None), bool, int, float, str)


def digest_of(*values: Any) -> str:
    """SHA-256 (hex) of values: equal ones have the same, and others have another.

    Every field of a dataclass counts that is compared, those that are yet to be thought of too.

    Raises:
        TypeError: there is something in it of which it is not known what tells it from others.
    """
    pieces: list[bytes] = []
    _add(pieces, values)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def _add(pieces: list[bytes], value: Any) -> None:
    """Adds bytes that tell a value from others, if each is preceded by its length."""
    if isinstance(value, Enum):  # before str, which some of them are
        _add(pieces, (type(value).__name__, value.value))
    elif isinstance(value, str):
        pieces += (b"str", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, PLAIN):
        pieces.append(f"{type(value).__name__} {value!r}".encode())
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
    else:
        raise TypeError(f"a {type(value).__name__} has no canonical form")


def _add_fields(pieces: list[bytes], value: Any) -> None:
    """Those of a dataclass: its name, how many fields are not as usual, and these; most of a query are as usual."""
    told = []
    for name, usual in _fields_of(type(value)):  # type: ignore[arg-type]  # classes are hashable
        member = getattr(value, name)
        is_usual = type(member) is type(usual) and isinstance(member, PLAIN) and member == usual
        if not is_usual:
            told.append((name, member))
    pieces.append(f"dataclass {type(value).__qualname__} {len(told)}".encode())
    for name, member in told:
        pieces.append(name.encode())
        _add(pieces, member)


@functools.cache
def _fields_of(kind: type) -> tuple[tuple[str, Any], ...]:
    """The names of a dataclass's fields that are compared, each with what it is if nothing is said."""
    return tuple((field.name, field.default) for field in dataclasses.fields(kind) if field.compare)
