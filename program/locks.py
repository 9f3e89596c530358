"""Locks on files and folders, which end with the process that has them, however it ends."""

import fcntl
import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

_TABLE = Path("/proc/locks")
_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class LockHolder:
    """Who has a lock, as noted in the file that is locked.

    Attributes:
        pid: Number of the process.
        host: Name of the machine or container that it runs in.
        command: The program and its subcommand, such as `anykey-index build`, without arguments.
        job: What it has the lock for, such as `build` or `live changes`.
        since: Since when, ISO 8601, UTC.
        started: When the process was started, as its system counts; empty where that is not told.
    """

    pid: int
    host: str
    command: str
    job: str
    since: str
    started: str = ""

    @classmethod
    def this_process(cls, job: str) -> "LockHolder":
        """This process, from now on."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _command(), job, since, _started(os.getpid()))

    @classmethod
    def noted(cls, data: bytes) -> "LockHolder | None":
        """Who is noted in a file; `None` for what is no such note, as of earlier releases."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None

    @property
    def is_gone(self) -> bool:
        """Whether the process has surely ended; of another machine's or container's, that cannot be told."""
        return self.host == socket.gethostname() and _started(self.pid) != self.started

    def note(self) -> bytes:
        """What is noted in the file."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command}: {self.job}, since {self.since})"


def _command() -> str:
    """The program that runs, and its subcommand; arguments may be secrets."""
    subcommand = [word for word in sys.argv[1:2] if word.replace("-", "").isalpha() and not word.startswith("-")]
    return " ".join([Path(sys.argv[0] or "python").name, *subcommand])


def _started(pid: int) -> str:
    """When a process was started, which tells it from a later one of its number; empty if there is none."""
    try:
        return (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


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
