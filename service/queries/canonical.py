"""One spelling for each query, however it was sent: what tells it from all others."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from typing import Any

import numpy as np


def digest_of(*values: Any) -> str:
    """SHA-256 (hex) of values: equal ones have the same, and others have another.

    Every field of a dataclass counts that is compared, those that are yet to be thought of too.

    Raises:
        TypeError: there is something in it of which it is not known what tells it from others.
    """
    digest = hashlib.sha256()
    for piece in _pieces(values):
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    """Bytes that tell a value from others, if each is preceded by its length."""
    if isinstance(value, Enum):  # before str, which some of them are
        yield from _pieces((type(value).__name__, value.value))
    elif value is None or isinstance(value, bool | int | float):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, str):
        yield b"str"
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes | bytearray | memoryview):
        yield b"bytes"
        yield bytes(value)
    else:
        yield from _pieces_within(value)


def _pieces_within(value: Any) -> Iterator[bytes]:
    """Those of a value that holds others."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"dataclass {type(value).__qualname__}".encode()
        for field in dataclasses.fields(value):
            if field.compare:
                yield field.name.encode()
                yield from _pieces(getattr(value, field.name))
    elif isinstance(value, Set):
        members = sorted(digest_of(member) for member in value)
        yield from _pieces(("set", *members))
    elif isinstance(value, Mapping):
        members = sorted(digest_of(*pair) for pair in value.items())
        yield from _pieces(("mapping", *members))
    elif isinstance(value, tuple | list):
        yield f"sequence {len(value)}".encode()
        for member in value:
            yield from _pieces(member)
    else:
        raise TypeError(f"a {type(value).__name__} has no canonical form")
