"""Locks on files and folders, which end with the process that has them, however it ends."""

import fcntl


def try_lock(fd: int, kind: int) -> bool:
    """Takes a lock (`fcntl.LOCK_SH` or `LOCK_EX`) without waiting; gives whether nobody has one that is in its way."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can be seen, so nobody is waited for
        return True
    return True
