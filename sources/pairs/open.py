"""Names become pair sources."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anykey.program.cache_folder import MAX_DATA_BYTES, keep_below
from anykey.sources.columns import Columns
from anykey.sources.errors import NoPairsError
from anykey.sources.files.copies import default_cache_dir
from anykey.sources.pairs.concatenated import ConcatenatedPairs
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.formats import FORMATS, Format, format_of
from anykey.sources.pairs.names import find_files


def open_pairs(
    names: Sequence[str],
    cache_dir: Path | None = None,
    max_cache_bytes: int = MAX_DATA_BYTES,
    columns: Columns | None = None,
    formats: Sequence[Format] = FORMATS,
) -> ConcatenatedPairs:
    """Opens pair sources by name.

    Args:
        names: Paths, patterns and URLs, see `find_files`; `docs/data.md` lists the formats.
        cache_dir: Where fetched files are kept; `None` for the user's cache folder.
        max_cache_bytes: What these may take. Those used longest ago are removed; those of pairs that are open stay.
        columns: What fields are called, where they have other names than the usual ones.
        formats: What files may be, the first one that accepts a file counts.

    Returns:
        All pairs, in the order of the names; its `lengths` are the numbers of pairs of each name.

    Raises:
        NoPairsError: no name is given, or its files hold no pairs.
        SourceError: a name matches nothing, a file of another kind, or a damaged one, or one that cannot be fetched.
    """
    named = columns or Columns()
    groups = [[replace(file, columns=named) for file in find_files(name, cache_dir)] for name in _some(names)]
    leases = [file.lease for group in groups for file in group if file.lease]
    if leases:
        keep_below(cache_dir or default_cache_dir(), max_cache_bytes)
    pairs = ConcatenatedPairs(
        [ConcatenatedPairs([format_of(file, formats).open(file) for file in group]) for group in groups], leases
    )
    for group, length in zip(groups, pairs.lengths, strict=True):
        if length == 0:  # beside others that have some it would go unnoticed
            raise NoPairsError(f"no pairs in {', '.join(file.label for file in group)}")
    return pairs


def source_states(names: Sequence[str], cache_dir: Path | None = None) -> list[str]:
    """A line for every file that the pairs depend on, which changes when the file does.

    That is the path, size and time of a local file, of each file in a folder, and of a dataset's candidates; for a
    remote file its URL's and version's digest. Images that rows name are left out: reading them all would take as long
    as training. See `open_pairs` for arguments and errors.
    """
    return [line for name in names for file in find_files(name, cache_dir) for line in _states(file)]


def _some(names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise NoPairsError("no data named: expected files or folders of pairs, see docs/data.md")
    return names


def _states(file: DataFile) -> list[str]:
    if file.root is not None:  # whose name tells the version of all that is in it
        return [f"{file.root.name}/{file.path.relative_to(file.root)}#{file.part}"]
    if file.url:
        return [f"{file.path.name}#{file.part} {file.path.stat().st_size}"]
    lines = []
    for path in format_of(file).files(file):
        try:
            status = path.stat()
        except FileNotFoundError:  # a link that leads nowhere; what it belongs to is a bad row
            lines.append(f"{path}#{file.part} missing")
            continue
        lines.append(f"{path}#{file.part} {status.st_size} {status.st_mtime_ns}")
    return lines
