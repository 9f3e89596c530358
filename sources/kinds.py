"""How a file tells what it is: by its suffix, or else by its first bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from anykey.sources.files.files import open_file

HEAD_BYTES = 512


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        suffixes: Suffixes of files that are of this kind whatever they hold, in lower case.
        looks_so: Whether a file of another suffix is of this kind, by its first `HEAD_BYTES`.
    """

    suffixes: tuple[str, ...]
    looks_so: Callable[[bytes], bool]


def _looks_like_jsonl(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


JSONL = Kind((".jsonl", ".ndjson"), _looks_like_jsonl)
CSV = Kind((".csv", ".tsv"), lambda head: False)
PARQUET = Kind((".parquet", ".pq"), lambda head: head.startswith(b"PAR1"))
SHARD = Kind((".tar",), lambda head: head[257:262] == b"ustar")
KINDS = (JSONL, CSV, PARQUET, SHARD)


def head_of(location: str) -> bytes:
    """The first bytes of a file; raises `OSError` where it cannot be read."""
    with open_file(location) as opened:
        return opened.read(HEAD_BYTES)


def kind_of(path: PurePath, read_head: Callable[[], bytes], kinds: Sequence[Kind] = KINDS) -> Kind | None:
    """The kind of a file; `None` if it is of none.

    Args:
        path: Its path, for the suffix.
        read_head: Gives its first bytes; called where the suffix says nothing.
        kinds: Those that it may be of; they are asked in order.
    """
    suffix = path.suffix.lower()
    found = next((kind for kind in kinds if suffix in kind.suffixes), None)
    if found is not None:
        return found
    head = read_head()
    return next((kind for kind in kinds if kind.looks_so(head)), None)
