"""Files of JSON lines that are written to the end, go over to another file when they are full, and are few."""

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from anykey.program.files import sync

PRIVATE = 0o600  # only who runs the service may read it


class JsonLines:
    """One such file, and older ones beside it: `NAME.1` is the last that was full, and `NAME.2` came before it.

    A line is there whole or not at all: what could be written only in part is taken back, and what a crash cut is ended
    when the file is opened. Any thread may write; one process at a time should. A file that was renamed or deleted by
    another program, as `logrotate` does, is made anew.
    """

    def __init__(self, path: Path, *, max_bytes: int, num_files: int, is_durable: bool = False) -> None:
        """Opens the file, which may be there.

        Args:
            path: The file; its folder is made.
            max_bytes: A file that would have more is renamed before.
            num_files: How many there are at most, this one and older ones.
            is_durable: Whether lines are on the disk when they are written, and not only with the system.

        Raises:
            OSError: it cannot be written.
        """
        self.path = path
        self._max_bytes = max_bytes
        self._num_files = num_files
        self._is_durable = is_durable
        self._lock = threading.Lock()
        self._file = -1
        self._begun_s = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines, all or none.

        Raises:
            OSError: they could not be written; none was.
        """
        data = b"".join(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n" for row in rows)
        with self._lock:
            if self._file < 0 or not self._is_same():
                self._open()
            size = os.fstat(self._file).st_size
            if size and size + len(data) > self._max_bytes:
                self._rotate()
                size = 0
            try:
                _write_all(self._file, data)
                if self._is_durable:
                    os.fsync(self._file)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, size)
                raise

    def forget_before(self, oldest_s: float, begin_anew_after_s: float) -> None:
        """Deletes older files of which all lines are too old, and begins another file so that this one can become one.

        Args:
            oldest_s: Lines of before this moment are too old, in seconds since 1970.
            begin_anew_after_s: How old the first line of a file may become before another one is begun.
        """
        with self._lock, suppress(OSError):
            for number in range(1, self._num_files):
                older = self._older(number)
                if older.exists() and older.stat().st_mtime < oldest_s:
                    older.unlink()
            if self._file >= 0 and os.fstat(self._file).st_size and time.time() - self._begun_s > begin_anew_after_s:
                self._rotate()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._close()

    def _open(self) -> None:
        self._close()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            _write_all(self._file, b"\n")
            size += 1
        self._begun_s = _first_moment(self._file) if size else time.time()
        if self._is_durable:
            sync(self.path.parent)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_same(self) -> bool:
        """Whether the file is still the one of its name."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _rotate(self) -> None:
        self._close()
        if self._num_files == 1:
            self.path.unlink(missing_ok=True)
        for number in range(self._num_files - 1, 0, -1):
            newer = self.path if number == 1 else self._older(number - 1)
            with suppress(FileNotFoundError):
                newer.replace(self._older(number))
        self._open()

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _first_moment(file: int) -> float:
    """About when a file was begun: some systems tell it, and others when it was last written."""
    facts = os.fstat(file)
    return float(getattr(facts, "st_birthtime", facts.st_mtime))


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
