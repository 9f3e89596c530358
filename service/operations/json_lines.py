"""Files of JSON lines that are written to the end, go over to another file when they are full, and are few."""

import json
import os
import threading
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


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
