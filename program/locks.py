"""Locks on files and folders, which end with the process that has them, however it ends."""

import fcntl
import os
from pathlib import Path

_TABLE = Path("/proc/locks")


def try_lock(fd: int, kind: int) -> bool:
    """Takes a lock (`fcntl.LOCK_SH` or `LOCK_EX`) without waiting; gives whether nobody has one that is in its way."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can be seen, so nobody is waited for
        return True
    return True


def holder_of(fd: int) -> str:
    """Who has the lock on an open file or folder: `process 123`, or `another process` where the system does not say.

    Linux lists all locks as `1: FLOCK ADVISORY WRITE 123 fe:00:456 0 EOF`, those of other machines and of containers
    that cannot be seen from here left out. The device is not compared: file systems in layers name another one there.
    """
    inode = str(os.fstat(fd).st_ino)
    try:
        rows = [line.split() for line in _TABLE.read_text().splitlines()]
    except OSError:
        return "another process"
    held = {row[4] for row in rows if row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode}
    return f"process {held.pop()}" if len(held) == 1 else "another process"
