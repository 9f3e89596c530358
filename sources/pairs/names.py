"""Names become files: braces, patterns, URLs, and `#` before a part of a file."""

from collections.abc import Iterator
from pathlib import Path

from anykey.sources.errors import SourceError
from anykey.sources.files.copies import copy_file, copy_folder
from anykey.sources.files.locations import PIPE, scheme_of, without_secrets
from anykey.sources.names import Named, expand, find
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.mbeir import query_files


def find_files(name: str, cache_dir: Path | None = None) -> list[DataFile]:
    """The files and folders of one name.

    `{00000..00009}` and `{a,b}` expand in any part of a name. Then a file or folder of that very name is meant; else
    `*`, `?` and `[...]` match files, sorted by name. What follows the last `#` is a part of the file. A folder in
    M-BEIR's layout stands for its training queries.

    Args:
        name: A path, a pattern, a URL or `pipe:COMMAND`; remote files are fetched.
        cache_dir: Where fetched files are kept; `None` for the user's cache folder.

    Raises:
        SourceError: there is no such file, braces are unbalanced, or something cannot be fetched.
    """
    return [file for expanded in expand(name) for file in _files(expanded, cache_dir)]


def _files(name: str, cache_dir: Path | None) -> Iterator[DataFile]:
    if name.startswith(PIPE):
        yield _fetched(Named(name), cache_dir)
        return
    for found in find(name, has_parts=True):
        file = _fetched(found, cache_dir) if scheme_of(found.location) else _local(found)
        yield from (query_files(file) if found.is_folder else []) or [file]


def _fetched(found: Named, cache_dir: Path | None) -> DataFile:
    lease = (copy_folder if found.is_folder else copy_file)(found.location, cache_dir)
    root = lease.path if found.is_folder else None
    return DataFile(lease.path, found.part, without_secrets(found.location), lease=lease, root=root)


def _local(found: Named) -> DataFile:
    path = Path(found.location)
    if not (path.is_dir() or path.is_file()):
        raise SourceError(f"{path} is neither a file nor a folder")  # reading a pipe waits for somebody to write to it
    return DataFile(path, found.part)
