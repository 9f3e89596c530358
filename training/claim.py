"""A run folder is written by one run at a time."""

import fcntl
import os
from pathlib import Path

from anykey.program.locks import holder_of, try_lock
from anykey.training.errors import InvalidRecipeError


class Claim:
    """A lock on a run folder itself; the kernel frees it when the process ends, however that comes about."""

    def __init__(self, path: Path) -> None:
        """Takes it; the folder is made if it is not there.

        Raises:
            InvalidRecipeError: another run is writing there; says which process.
            OSError: the folder cannot be made or opened.
        """
        path.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDONLY)
        if not try_lock(self._fd, fcntl.LOCK_EX):
            holder = holder_of(self._fd)
            self.release()
            raise InvalidRecipeError(
                f"another run is writing to {path} ({holder}): wait for it, or choose another --output"
            )

    def release(self) -> None:
        """Lets others have it."""
        os.close(self._fd)
