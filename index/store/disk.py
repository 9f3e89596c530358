"""Whether a file of an index can be read or written at all, and is on disk, and what is said of it where it cannot."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anykey.index.errors import IndexCorruptError


def require_readable(path: Path) -> None:
    """Makes sure that a file that is there may be read, since SQLite and FAISS tell it as if it were damaged.

    Raises:
        PermissionError: it may not; names it.
    """
    if path.exists() and not os.access(path, os.R_OK):  # to open and close it would drop SQLite's locks on it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def make_folder(path: Path, use: str) -> None:
    """Makes a folder, if it is not there, for some use.

    Raises:
        NotADirectoryError: a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        reason = f"expected a folder for {use}, found a file"
        raise NotADirectoryError(errno.ENOTDIR, reason, str(path)) from error


def read_whole(path: Path) -> bytes:
    """Reads a file; opening a pipe in its place would wait for somebody to write to it.

    Raises:
        IndexCorruptError: something else than a file is there.
        FileNotFoundError: nothing is there.
        PermissionError: it may not be read.
    """
    if path.exists() and not path.is_file():
        raise IndexCorruptError(path, "it is no file")
    return path.read_bytes()


@contextmanager
def naming_target(path: str | Path) -> Iterator[None]:
    """Says of what is written in the block that it could not be, where the system does not say of which file.

    Raises:
        OSError: the disk is full, or the like; names the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:  # it says so itself
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Forces a file or directory to disk.

    Raises:
        OSError: it cannot be; names it.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        with naming_target(path):
            os.fsync(fd)
    finally:
        os.close(fd)
