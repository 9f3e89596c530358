"""Files that fsspec opens, read on where they broke off, unless they have changed since."""

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar, cast

from anykey.sources.files.http_files import BUFFER_BYTES, BrokenOffError, FileState, PassingError, tried
from anykey.sources.files.locations import hide_secrets
from anykey.sources.files.time_limits import in_time

T = TypeVar("T")
Find = Callable[[], tuple[Any, str]]
StateOf = Callable[[dict[str, Any]], FileState]


class _ChangedError(OSError):
    """Another file is where the one was that was being read: parts of two are not a file."""


_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, _ChangedError)


def open_tried(
    find: Find, location: str, state_of: StateOf, limit_s: float, known: FileState | None = None
) -> BinaryIO:
    """Opens a file for reading; what fails and may pass is tried again twice.

    Args:
        find: Gives the file system, as fsspec keeps it for the thread that asks, and the file's path there.
        location: The file's location, whose secrets no message shows.
        state_of: What the file system's description of a file tells of its version.
        limit_s: Longest time that opening it, or reading a part of it, may take.
        known: What is known of the file; one without a version or a size is not read on once it broke off.

    Raises:
        OSError: it cannot be opened; reading it raises `BrokenOffError` where it cannot be read on.
        ImportError: a library is not installed.
    """
    is_sure = known is None or None not in (known.version, known.size_bytes)
    return io.BufferedReader(_TriedFile(find, location, state_of, limit_s, is_sure), BUFFER_BYTES)


class _TriedFile(io.RawIOBase):
    def __init__(self, find: Find, location: str, state_of: StateOf, limit_s: float, is_sure: bool) -> None:
        self._find, self._location, self._state_of, self._limit_s = find, location, state_of, limit_s
        self._is_sure = is_sure  # whether it can be told to be the same file when it is opened again
        self._opened: tuple[BinaryIO, FileState] | None = None
        self._state: FileState | None = None
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
        start, num_bytes = self._position, len(buffer)
        data = self._tried(lambda file: _read(file, start, num_bytes))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            with suppress(Exception):  # all was read that was wanted
                in_time(opened[0].close, self._limit_s)
        super().close()

    def _tried(self, use: Callable[[BinaryIO], T]) -> T:
        def call() -> T:
            opened, self._opened = self._opened, None  # a late call keeps the file to itself
            try:
                self._opened, result = in_time(lambda: self._use(opened, self._state, use), self._limit_s)
            except _LASTING:
                raise
            except Exception as error:  # each backend raises the errors of its own library
                kind = PassingError if self._is_sure or not self._position else BrokenOffError
                raise kind(hide_secrets(str(error), self._location) or type(error).__name__) from error
            self._state = self._opened[1]
            return result

        return tried(call)

    def _use(
        self, opened: tuple[BinaryIO, FileState] | None, known: FileState | None, use: Callable[[BinaryIO], T]
    ) -> tuple[tuple[BinaryIO, FileState], T]:
        """Uses the file that is open, or opens it; one that fails is closed."""
        file, state = opened or self._open(known)
        try:
            return (file, state), use(file)
        except BaseException:
            with suppress(Exception):  # it has failed already
                file.close()
            raise

    def _open(self, known: FileState | None) -> tuple[BinaryIO, FileState]:
        """Opens the file, if it is the one that was open before."""
        files, path = self._find()
        if known is not None:
            files.invalidate_cache()
        file = cast(BinaryIO, files.open(path, "rb"))
        state = self._state_of(getattr(file, "details", None) or files.info(path))
        if known not in (None, state):
            file.close()
            raise _ChangedError("it changed while it was read")
        return file, state


def _read(file: BinaryIO, start: int, num_bytes: int) -> bytes:
    file.seek(start)
    return file.read(num_bytes)
