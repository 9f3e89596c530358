"""Folders of files that can be had again, kept below a size: those that were used longest ago go first.

A file is named by a digest, and its time says when it was used last. Who uses one holds a lock on it, which the kernel
frees when the process ends, however that comes about; nobody removes it meanwhile.
"""

import fcntl
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

MAX_DATA_BYTES = 200 * 1024**3
MAX_FEATURES_BYTES = 50 * 1024**3
_OURS = re.compile(r"[0-9a-f]{32}(?!.*\.lock$).*", re.DOTALL)  # other files in the folder are somebody else's

logger = logging.getLogger(__name__)


class Lease:
    """Keeps a file of a cache folder from being removed as long as this object lives; sent to a process, there too."""

    def __init__(self, path: Path) -> None:
        """Takes it, and marks the file as used now.

        Raises:
            FileNotFoundError: there is no such file, or it is just being removed.
        """
        self._path = path
        self._fd = os.open(path, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(self._fd, fcntl.LOCK_SH)
        if os.fstat(self._fd).st_nlink == 0:
            raise FileNotFoundError(path)
        with suppress(OSError):  # another user's file
            os.utime(self._fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def __reduce__(self) -> tuple[type["Lease"], tuple[Path]]:
        return Lease, (self._path,)


def keep_below(folder: Path, max_bytes: int) -> None:
    """Removes files of a cache folder until the others take no more than `max_bytes`, and logs what it removed.

    Files that are in use stay, whatever they take.
    """
    files = sorted(_files(folder), key=lambda found: found[1].st_mtime_ns)
    excess = sum(status.st_size for _, status in files) - max_bytes
    num_removed = num_bytes = 0
    for path, status in files:
        if excess > num_bytes and _removed(path):
            num_removed, num_bytes = num_removed + 1, num_bytes + status.st_size
    if num_removed:
        logger.warning(
            "removed %d files (%d bytes) from the cache %s, those used longest ago: it may take %d bytes",
            *(num_removed, num_bytes, folder, max_bytes),
        )
    if excess > num_bytes:
        logger.warning(
            "the cache %s takes %d bytes more than the %d it may: the files are in use",
            *(folder, excess - num_bytes, max_bytes),
        )


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for entry in os.scandir(folder) if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another process removed it
            if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
    return found


def _removed(path: Path) -> bool:
    """Removes a file, unless somebody uses it or it cannot be told; gives whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
