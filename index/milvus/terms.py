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

from anykey.index.filtering.conditions import Compared, Path, Scalar, compared

TERM_CHARS = 22
MAX_INSTANTS = 256  # of one key that Milvus compares; a JSON field has 65,536 bytes
LAST_EXACT = 2**53  # up to here every integer is a double

Kind = Literal["boolean", "number", "string", "instant"]


def exists_term(path: Path) -> str:
    """The term of the keys with a value at the path or below it."""
    return _digest("exists", path)


def value_term(path: Path, wanted: Compared) -> str:
    """The term of the keys with a value at the path; values that are equal share one."""
    kind, value = wanted
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _digest(kind, path, value)


def instant_name(path: Path) -> str:
    """The name under which a key's moment at the path is kept, see `instants_of`."""
    return _digest("instant", path)


def single_term(path: Path, kind: Kind) -> str:
    """The term of the keys whose only value at the path is one that Milvus compares as we do, and of this kind."""
    return _digest(f"single {kind}", path)


def other_term(path: Path, kind: Kind) -> str:
    """The term of the keys with values of this kind at the path that Milvus cannot compare."""
    return _digest(f"other {kind}", path)


def terms_of(metadata: Mapping[str, Any]) -> set[str]:
    """All terms of a metadata object."""
    terms: set[str] = set()
    instants = instants_of(metadata)
    for path, value, is_single in _values(metadata):
        terms.update(exists_term(path[:length]) for length in range(1, len(path) + 1))
        kind, _ = wanted = compared(value)
        terms.add(value_term(path, wanted))
        is_kept = kind != "instant" or instant_name(path) in instants
        if kind != "boolean":  # which no bounds ask for
            terms.add((single_term if is_single and is_exact(value) and is_kept else other_term)(path, kind))
    return terms


def instants_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The moments that the dates of a metadata object name, in a form whose order as text is theirs, by `instant_name`.

    None of a list, and no more than Milvus can hold.
    """
    found: dict[str, str] = {}
    for path, value, is_single in _values(metadata):
        kind, moment = compared(value)
        if kind == "instant" and is_single and len(found) < MAX_INSTANTS:
            found[instant_name(path)] = str(moment)
    return found


def is_exact(value: Scalar) -> bool:
    """Whether Milvus, which compares integers with fractions as doubles, compares the value exactly."""
    return not isinstance(value, int) or -LAST_EXACT <= value <= LAST_EXACT


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
