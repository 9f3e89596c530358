"""What the system says of files, told with their names: no right to read them, no room to write them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_readable(path: Path) -> None:
    """Makes sure that a file that is there may be read, since SQLite and FAISS tell it as if it were damaged.

    Raises:
        PermissionError: it may not; names it.
    """
    if path.exists() and not os.access(path, os.R_OK):  # to open and close it would drop SQLite's locks on it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def naming_place(path: Path) -> Iterator[None]:
    """Names a file or folder in errors of the system that name none, such as that of a full disk.

    Raises:
        OSError: the same error, with the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
