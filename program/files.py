"""Files and folders that are replaced whole: a reader sees the old one or the new, never something between."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes `PATH.new`, forces it to disk and renames it. One process at a time may do so.

    Raises:
        OSError: the file cannot be written, and is named; the old one, if any, is as it was.
    """
    aside = path.with_name(f"{path.name}.new")
    try:
        with naming_target(aside):
            aside.write_bytes(content)
        sync(aside)
        os.replace(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise
    sync(path.parent)


def replace_folder(aside: Path, folder: Path) -> None:
    """Renames `aside` to `folder`, whose old content goes only when the new is in place.

    Raises:
        OSError: a rename failed; the old content is where it was.
    """
    if not folder.exists():
        aside.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(old)
    try:
        aside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def make_folder(path: Path, use: str) -> None:
    """Makes a folder, if it is not there, for some use.

    Raises:
        NotADirectoryError: a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        reason = f"expected a folder for {use}, found a file"
        raise NotADirectoryError(errno.ENOTDIR, reason, str(path)) from error


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk.

    Raises:
        OSError: it cannot be; names it.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        with naming_target(path):
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_all(folder: Path) -> None:
    """Forces the files right in a folder to disk, and then their names.

    Raises:
        OSError: one cannot be; names it.
    """
    for path in (*sorted(folder.iterdir()), folder):
        sync(path)


@contextmanager
def naming_target(path: str | Path) -> Iterator[None]:
    """Says of what is written in the block that it could not be, where the system does not say of which file.

    Raises:
        OSError: the disk is full, or the like; names the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:  # it says so itself
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
