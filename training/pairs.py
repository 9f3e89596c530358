"""What training consumes: pairs of one image and its captions, by position."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from braceexpand import braceexpand

from training.errors import InvalidPairsError, NoPairsError


@dataclass(frozen=True)
class Pair:
    """An image and what people say of it.

    Attributes:
        name: The pair's name in its source.
        image: Encoded bytes or a path.
        captions: At least one non-empty text.
        where: File and row, for messages; the name alone where there is none.
    """

    name: str
    image: bytes | Path
    captions: tuple[str, ...]
    where: str = ""


class PairSource(Protocol):
    """Pairs by position. Reading one never moves another, so any order and any worker will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Pair:
        """Reads the pair at `position`; raises `InvalidRowError` when the row is no pair."""
        ...


class ConcatenatedPairs:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[PairSource]) -> None:
        self._sources = list(sources)

    def __len__(self) -> int:
        return sum(len(source) for source in self._sources)

    def __getitem__(self, position: int) -> Pair:
        """Reads the pair at `position`; raises `InvalidRowError` when the row is no pair."""
        for source in self._sources:
            if position < len(source):
                return source[position]
            position -= len(source)
        raise IndexError(position)


def open_pairs(names: Sequence[str]) -> PairSource:
    """Opens pair sources by name.

    Args:
        names: Paths and patterns, see `expand`: `.tar` files are WebDataset shards, `.jsonl` files manifests.

    Returns:
        All pairs, in the order of the names.

    Raises:
        NoPairsError: a pattern matches nothing, or the files hold no pairs.
        InvalidPairsError: a file of another kind, or a damaged one.
    """
    paths = expand(names)
    sources = [_open(path) for path in paths]
    pairs = sources[0] if len(sources) == 1 else ConcatenatedPairs(sources)
    if len(pairs) == 0:
        raise NoPairsError(f"no pairs in {', '.join(str(path) for path in paths)}")
    return pairs


def expand(names: Sequence[str]) -> list[Path]:
    """Files named by paths with `{00000..00009}` and `{a,b}` braces and `*`, `?`, `[...]` patterns in any part.

    The benchmark reads pairs by the same rules with code of its own; a test compares the two.

    Raises:
        NoPairsError: a name without a file.
        InvalidPairsError: unbalanced braces.
    """
    paths: list[Path] = []
    for name in names:
        try:
            patterns = list(braceexpand(name))
        except ValueError as error:
            raise InvalidPairsError(f"unbalanced braces in '{name}'") from error
        for pattern in patterns:
            matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
            files = [path for path in map(Path, matches) if path.is_file()]
            if not files:
                raise NoPairsError(f"no file '{pattern}' (from '{name}')")
            paths += files
    if not paths:
        raise NoPairsError("no data named: expected WebDataset shards (.tar) or a manifest (.jsonl)")
    return paths


def _open(path: Path) -> PairSource:
    from training.manifest import Manifest
    from training.shards import Shard

    if path.suffix == ".tar":
        return Shard(path)
    if path.suffix == ".jsonl":
        return Manifest(path)
    raise InvalidPairsError(f"cannot read pairs from {path}: expected a .tar shard or a .jsonl manifest")


def captions_of(value: object) -> tuple[str, ...]:
    """The captions in a JSON row: `captions` (list), or `caption` or `text` (string).

    Args:
        value: A decoded JSON value.

    Returns:
        The non-empty captions, stripped.

    Raises:
        ValueError: there are none; the message says what was expected.
    """
    if isinstance(value, dict):
        found: object = next((value[name] for name in ("captions", "caption", "text") if value.get(name)), [])
        listed = [found] if isinstance(found, str) else found
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            captions = tuple(text.strip() for text in listed if text.strip())
            if captions:
                return captions
    raise ValueError("expected an object with non-empty 'captions', 'caption' or 'text'")
