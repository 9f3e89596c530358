"""Names become files: braces, patterns, URLs, and `#` before a part of a file."""

import os
from pathlib import Path

from anykey.sources.errors import NoPairsError
from anykey.sources.files.locations import normal_location
from anykey.sources.names import expand, named_files
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.mbeir import query_files
from anykey.sources.pairs.remote import fetch, is_remote, without_secrets


def find_files(name: str, cache_dir: Path | None = None) -> list[DataFile]:
    """The files and folders of one name.

    `{00000..00009}` and `{a,b}` expand in any part of a name. Then a file or folder of that very name is meant; else
    `*`, `?` and `[...]` match files, sorted by name. What follows the last `#` is a part of the file. A folder in
    M-BEIR's layout stands for its training queries.

    Args:
        name: A path, a pattern, a URL or `pipe:COMMAND`; remote files are fetched.
        cache_dir: Where fetched files are kept; `None` for the user's cache folder.

    Raises:
        NoPairsError: there is no such file.
        SourceError: unbalanced braces, or a file that cannot be fetched.
    """
    found: list[DataFile] = []
    for pattern in expand(name):
        location = normal_location(pattern)
        found += [fetch(location, cache_dir)] if is_remote(location) else _local_files(location, name)
    return found


def _local_files(pattern: str, name: str) -> list[DataFile]:
    base, _, part = pattern.rpartition("#")
    for path, chosen in ((pattern, ""), (base, part)):
        matches = (match for match in named_files(path) if os.path.isfile(match) or os.path.isdir(match))
        found = [DataFile(Path(match), chosen) for match in matches]
        if found:
            return [inner for file in found for inner in query_files(file) or [file]]
    raise NoPairsError(f"no file '{pattern}' (from '{without_secrets(name)}')")
