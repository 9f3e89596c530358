"""Names become pair sources."""

import glob
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from training.errors import InvalidPairsError, NoPairsError
from training.pairs import Pair, PairSource
from training.sources.manifest import Manifest
from training.sources.shards import Shard


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
    if path.suffix == ".tar":
        return Shard(path)
    if path.suffix == ".jsonl":
        return Manifest(path)
    raise InvalidPairsError(f"cannot read pairs from {path}: expected a .tar shard or a .jsonl manifest")
