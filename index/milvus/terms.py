"""Terms: short names for everything that a condition can find in a metadata object.

A term is a digest, so that values of any length, with any characters in them, can stand in a Milvus expression and in
an index over an array of short strings. It has 128 bits: no two values of a corpus share one, short of an accident
that is not to be expected in the life of a universe.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from index.filtering.filters import Path, Scalar

TERM_CHARS = 22
LAST_EXACT = 2**53  # up to here every integer is a double

Kind = Literal["boolean", "number", "string"]


def exists_term(path: Path) -> str:
    """The term of the keys with a value at the path or below it."""
    return _digest("exists", path)


def value_term(path: Path, value: Scalar) -> str:
    """The term of the keys with a value at the path; numbers that are equal share one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _digest(kind_of(value), path, value)


def single_term(path: Path, kind: Kind) -> str:
    """The term of the keys whose only value at the path is one that Milvus compares as we do, and of this kind."""
    return _digest(f"single {kind}", path)


def other_term(path: Path, kind: Kind) -> str:
    """The term of the keys with values of this kind at the path that Milvus cannot compare."""
    return _digest(f"other {kind}", path)


def terms_of(metadata: Mapping[str, Any]) -> set[str]:
    """All terms of a metadata object."""
    terms: set[str] = set()
    for path, value, is_single in _values(metadata):
        terms.update(exists_term(path[:length]) for length in range(1, len(path) + 1))
        terms.add(value_term(path, value))
        kind = kind_of(value)
        if kind != "boolean":  # which no bounds ask for
            terms.add((single_term if is_single and is_exact(value) else other_term)(path, kind))
    return terms


def is_exact(value: Scalar) -> bool:
    """Whether Milvus, which compares integers with fractions as doubles, compares the value exactly."""
    return not isinstance(value, int) or -LAST_EXACT <= value <= LAST_EXACT


def kind_of(value: Scalar) -> Kind:
    """Kind of a value; only values of one kind compare."""
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number"


def _values(metadata: Mapping[str, Any]) -> Iterator[tuple[Path, Scalar, bool]]:
    """Values with their paths, and whether no list is on the way; without recursion, for metadata may nest deeply."""
    pending: list[tuple[Path, Any, bool]] = [((), metadata, True)]
    while pending:
        path, item, is_single = pending.pop()
        if isinstance(item, Mapping):
            pending.extend(((*path, name), inner, is_single) for name, inner in item.items())
        elif isinstance(item, list):
            pending.extend((path, inner, False) for inner in item)
        elif item is not None:
            yield path, item, is_single


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
    return base64.urlsafe_b64encode(digest)[:TERM_CHARS].decode()
