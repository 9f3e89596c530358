"""Copies of remote files and folders, made once in a cache folder and then read like what lies on this machine.

A copy's name is a digest of its URL and of what the server tells of the version (entity tag, time, size), so what has
changed is fetched again. A copy is written aside and renamed, by one process at a time. What comes is read as
everything is that lies elsewhere, see `sources.files.files`: with the same time limits, and tried again for the same
reasons. A file that broke off, and that nothing tells from another one, is fetched from its beginning again.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock

from anykey.program.cache_folder import FOLDER_SUFFIX, PART_SUFFIX, Lease
from anykey.sources.errors import SourceError
from anykey.sources.files.files import FoundFile, file_state, files_below, open_file, reason_of
from anykey.sources.files.http_files import BrokenOffError, FileState, tried
from anykey.sources.files.locations import PIPE, hide_secrets, path_of, without_secrets
from anykey.sources.files.pipes import run_pipe
from anykey.sources.files.threads import map_in_threads
from anykey.sources.files.time_limits import LIMIT_S

CHUNK_BYTES = 4 * 1024**2
FOLDER_THREADS = 16  # that fetch the files of a folder, which may be small


def default_cache_dir() -> Path:
    """`anykey/data` in the folder that the XDG base directory specification names for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anykey" / "data"


def copy_file(location: str, cache_dir: Path | None = None, limit_s: float = LIMIT_S) -> Lease:
    """Copies a remote file, unless this version of it is there.

    Args:
        location: A URL, or `pipe:COMMAND` for what a command writes.
        cache_dir: Where copies are kept; `None` for `default_cache_dir()`.
        limit_s: Longest time that each part of it may take to come.

    Returns:
        The copy, which stays as long as this object lives.

    Raises:
        SourceError: it cannot be read whole; the message has the URL without user, password and query.
    """
    with _named_errors(location):
        folder = _made(cache_dir)
        state = None if location.startswith(PIPE) else file_state(location, limit_s=limit_s)
        path = folder / _file_name(location, state)
        with FileLock(f"{path}.lock"):
            try:
                return Lease(path)
            except FileNotFoundError:
                return tried(lambda: _keep_file(location, state, path, limit_s), BrokenOffError)


def copy_folder(location: str, cache_dir: Path | None = None) -> Lease:
    """Copies a remote folder with all that is below it, unless all of it is there as it is now.

    What was fetched of a folder stays when something fails, and the next try goes on from there.

    Args:
        location: A URL.
        cache_dir: Where copies are kept; `None` for `default_cache_dir()`.

    Returns:
        The copy, which stays as long as this object lives.

    Raises:
        SourceError: it cannot be read whole; the message has the URL without user, password and query.
    """

    def refuse(error: OSError) -> None:
        raise error

    with _named_errors(location):
        folder = _made(cache_dir)
        files = files_below(location, refuse)
        told = "".join(f"{file.name}\0{file.state.told if file.state else ''}\0" for file in files)
        path = folder / f"{_digest(location, told)}{FOLDER_SUFFIX}"
        with FileLock(f"{path}.lock"):
            try:
                return Lease(path)
            except FileNotFoundError:
                return _keep_folder(files, path)


def _made(cache_dir: Path | None) -> Path:
    folder = cache_dir or default_cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _named_errors(location: str) -> Iterator[None]:
    """Says of what cannot be read where it is; a file may also have a name that this machine has no place for."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = hide_secrets(reason_of(error) if isinstance(error, OSError) else str(error), location)
        raise SourceError(f"cannot read {without_secrets(location)}: {reason}") from error


def _keep_file(location: str, state: FileState | None, path: Path, limit_s: float) -> Lease:
    """Writes a file aside and renames it; the lock is held, so no one else writes there."""
    aside = path.with_name(f"{path.name}{PART_SUFFIX}")
    try:
        with aside.open("wb") as file:
            held = Lease(aside)  # the file itself, whatever it is called
            num_bytes = _write(location, state, file, limit_s)
        if num_bytes == 0:
            raise OSError("it is empty")
        aside.replace(path)
        lease = Lease(path)
        del held
        return lease
    finally:
        aside.unlink(missing_ok=True)


def _write(location: str, state: FileState | None, file: BinaryIO, limit_s: float) -> int:
    """Writes what is at a location, and gives how many bytes it has."""
    num_bytes = 0
    if location.startswith(PIPE):
        for chunk in run_pipe(location.removeprefix(PIPE), limit_s, CHUNK_BYTES):
            num_bytes += file.write(chunk)
        return num_bytes
    with open_file(location, limit_s, state) as opened:
        while chunk := opened.read(CHUNK_BYTES):
            num_bytes += file.write(chunk)
    if state is not None and state.size_bytes not in (None, num_bytes):
        raise OSError(f"{num_bytes} of {state.size_bytes} bytes came")
    return num_bytes


def _keep_folder(files: list[FoundFile], path: Path) -> Lease:
    """Writes a folder aside and renames it; files that are there from an earlier try are not fetched again."""
    aside = path.with_name(f"{path.name}{PART_SUFFIX}")
    aside.mkdir(exist_ok=True)
    held = Lease(aside)

    def keep(file: FoundFile) -> None:
        target = aside / file.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            begun = target.with_name(f".{hashlib.sha256(target.name.encode()).hexdigest()[:32]}{PART_SUFFIX}")
            tried(lambda: _write_to(begun, file), BrokenOffError)
            begun.replace(target)

    for _ in map_in_threads(keep, files, FOLDER_THREADS):
        pass
    aside.replace(path)
    lease = Lease(path)
    del held
    return lease


def _write_to(path: Path, file: FoundFile) -> None:
    with path.open("wb") as opened:
        _write(file.location, file.state or file_state(file.location), opened, LIMIT_S)


def _file_name(location: str, state: FileState | None) -> str:
    digest = _digest(location, state.told if state else "")
    if location.startswith(PIPE):
        return f"{digest}.tar"
    return f"{digest}{PurePosixPath(path_of(location)).suffix.lower()[:16]}"


def _digest(location: str, told: str) -> str:
    return hashlib.sha256(f"{location}\n{told}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
