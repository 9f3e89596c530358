"""No right to read a file, told by its name."""

import errno
import os
from pathlib import Path


def require_readable(path: Path) -> None:
    """Makes sure that a file that is there may be read, since SQLite and FAISS tell it as if it were damaged.

    Raises:
        PermissionError: it may not; names it.
    """
    if path.exists() and not os.access(path, os.R_OK):  # to open and close it would drop SQLite's locks on it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
