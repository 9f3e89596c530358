"""Writing one file so that a reader sees the old one or the new, never something between."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes aside, flushes to the disk, and renames.

    Raises:
        OSError: the file cannot be written; the old one, if any, is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
