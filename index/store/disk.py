"""Whether a file of an index can be read at all, and what is said of it where it cannot."""

import errno
import os
from pathlib import Path

from anykey.index.errors import IndexCorruptError


def require_readable(path: Path) -> None:
    """Makes sure that a file that is there may be read, since SQLite and FAISS tell it as if it were damaged.

    Raises:
        PermissionError: it may not; names it.
    """
    if path.exists() and not os.access(path, os.R_OK):  # to open and close it would drop SQLite's locks on it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


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
