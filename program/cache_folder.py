"""Folders of files and folders that can be fetched or made again, kept below a size: the longest unused go first.

An entry is named by a digest, and its time says when it was used last. Who uses one holds a lock on it, which the
kernel frees when the process ends, however that comes about; nobody removes it meanwhile.
"""

import fcntl
import logging
import os
import re
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_DATA_BYTES = 200 * 1024**3
MAX_FEATURES_BYTES = 50 * 1024**3
FOLDER_SUFFIX = ".folder"
PART_SUFFIX = ".part"  # of what is not yet whole
_OURS = re.compile(r"[0-9a-f]{32}(?!.*\.lock$).*", re.DOTALL)  # other files in the folder are somebody else's

logger = logging.getLogger(__name__)


class Lease:
    """Keeps an entry of a cache folder from being removed as long as this object lives; sent to a process, there too.

    Attributes:
        path: The file or folder.
    """

    def __init__(self, path: Path) -> None:
        """Takes it, and marks it as used now.

        Raises:
            FileNotFoundError: there is no such entry, or it is just being removed.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(self._fd, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(self._fd), os.stat(path)):
            raise FileNotFoundError(path)
        with suppress(OSError):  # another user's file
            os.utime(self._fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def __reduce__(self) -> tuple[type["Lease"], tuple[Path]]:
        return Lease, (self.path,)


@dataclass(frozen=True)
class _Entry:
    path: Path
    used_at_ns: int
    num_bytes: int


def keep_below(folder: Path, max_bytes: int) -> None:
    """Removes entries of a cache folder until the others take no more than `max_bytes`, and logs what it removed.

    Entries that are in use stay, whatever they take.
    """
    entries = sorted(_entries(folder), key=lambda entry: entry.used_at_ns)
    excess = sum(entry.num_bytes for entry in entries) - max_bytes
    num_removed = num_bytes = 0
    for entry in entries:
        if excess > num_bytes and _removed(entry.path):
            num_removed, num_bytes = num_removed + 1, num_bytes + entry.num_bytes
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


def _entries(folder: Path) -> list[_Entry]:
    found = []
    for entry in os.scandir(folder) if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another process removed it
            status = entry.stat(follow_symlinks=False)
            if not _OURS.fullmatch(entry.name):
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(_Entry(Path(entry.path), status.st_mtime_ns, status.st_size))
            elif stat.S_ISDIR(status.st_mode) and FOLDER_SUFFIX in entry.name:
                found.append(_Entry(Path(entry.path), status.st_mtime_ns, _bytes_below(entry.path)))
    return found


def _bytes_below(folder: str) -> int:
    paths = (os.path.join(inner, name) for inner, _, names in os.walk(folder) for name in names)
    return sum(map(os.path.getsize, paths))


def _removed(path: Path) -> bool:
    """Removes an entry, unless somebody uses it or it cannot be told; gives whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            _remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _remove_folder(path: Path) -> None:
    """Removes a folder that is locked; what is left of it if the process ends meanwhile is not a whole one."""
    if path.suffix != PART_SUFFIX:
        part = path.with_name(f"{path.name}{PART_SUFFIX}")
        shutil.rmtree(part, ignore_errors=True)
        path = path.rename(part)
    shutil.rmtree(path)
