"""A run folder is written by one run at a time."""

import fcntl
from pathlib import Path
from typing import TextIO

from training.errors import InvalidRecipeError

_LOCK = ".running"


class Claim:
    """A lock on a run folder; the kernel frees it when the process ends, however that comes about."""

    def __init__(self, path: Path) -> None:
        """Takes it; the folder is made if it is not there.

        Raises:
            InvalidRecipeError: another run is writing there.
            OSError: the folder cannot be written.
        """
        path.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (path / _LOCK).open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InvalidRecipeError(
                f"another run is writing to {path}: wait for it, or choose another --output"
            ) from None

    def release(self) -> None:
        """Lets others have it."""
        self._file.close()
