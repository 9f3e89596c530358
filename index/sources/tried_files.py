"""Files that fsspec opens, read on where they broke off, unless they have changed since."""

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar, cast

from index.sources.http_files import BUFFER_BYTES, FileState, PassingError, tried
from index.sources.locations import hide_secrets

T = TypeVar("T")
StateOf = Callable[[dict[str, Any]], FileState]


class _ChangedError(OSError):
    """Another file is where the one was that was being read: parts of two are no file."""


_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, _ChangedError)


def open_tried(files: Any, path: str, location: str, state_of: StateOf) -> BinaryIO:
    """Opens a file for reading; what fails and may pass is tried again twice.

    Args:
        files: The file system.
        path: The file's path there.
        location: Its location, whose secrets no message shows.
        state_of: What the file system's description of a file tells of its version.

    Raises:
        OSError: it cannot be opened.
        ImportError: a library is not installed.
    """
    return io.BufferedReader(_TriedFile(files, path, location, state_of), BUFFER_BYTES)


class _TriedFile(io.RawIOBase):
    def __init__(self, files: Any, path: str, location: str, state_of: StateOf) -> None:
        self._files, self._path, self._location, self._state_of = files, path, location, state_of
        self._state: FileState | None = None
        self._file: BinaryIO | None = None
        self._position = 0
        self._tried(lambda file: None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            self._position = self._tried(lambda file: file.seek(offset, whence))
        else:
            self._position = offset if whence == io.SEEK_SET else self._position + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._tried(lambda file: self._read(file, len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _read(self, file: BinaryIO, num_bytes: int) -> bytes:
        file.seek(self._position)
        return file.read(num_bytes)

    def _tried(self, use: Callable[[BinaryIO], T]) -> T:
        def call() -> T:
            try:
                return use(self._opened())
            except _LASTING:
                raise
            except Exception as error:  # each backend raises the errors of its own library
                self._drop()
                raise PassingError(hide_secrets(str(error), self._location) or type(error).__name__) from error

        return tried(call)

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):  # it has failed already
                file.close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            if self._state is not None:
                self._files.invalidate_cache()
            file = cast(BinaryIO, self._files.open(self._path, "rb"))
            state = self._state_of(getattr(file, "details", None) or self._files.info(self._path))
            if self._state not in (None, state):
                file.close()
                raise _ChangedError("it changed while it was read")
            self._file, self._state = file, state
        return self._file
