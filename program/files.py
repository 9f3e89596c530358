"""Files and folders that are replaced whole: a reader sees the old one or the new, never something between."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Writes `PATH.new`, forces it to disk and renames it. One process at a time may do so.

    Args:
        path: The file.
        content: What it holds from now on.
        mode: Permissions of a new file, at no moment more; the one that is replaced lends its own, and its owner where
            this process may give files away. Absent: as any file that the process makes.

    Raises:
        OSError: the file cannot be written, and is named; the old one, if any, is as it was.
    """
    aside = path.with_name(f"{path.name}.new")
    try:
        with naming_target(aside):
            if mode is not None:
                _make_empty(aside, mode, path)
            aside.write_bytes(content)
        sync(aside)
        os.replace(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise
    sync(path.parent)


def _make_empty(aside: Path, mode: int, like: Path) -> None:
    aside.unlink(missing_ok=True)
    os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        old = like.stat()
    except FileNotFoundError:
        aside.chmod(mode)
        return
    with suppress(PermissionError):
        os.chown(aside, old.st_uid, old.st_gid)
    aside.chmod(stat.S_IMODE(old.st_mode))


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


def sync_tree(folder: Path) -> None:
    """Forces all files in and below a folder to disk, and their names.

    Raises:
        OSError: one cannot be; names it.
    """
    for inner in [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]:
        sync_all(inner)
    sync_all(folder)


def link_file(source: Path, target: Path) -> None:
    """Gives a file, which nobody changes in place, another name; copies it where the file system cannot.

    Raises:
        OSError: it cannot be copied either; names the file.
    """
    try:
        os.link(source, target)
    except OSError:
        with naming_target(target):
            shutil.copy2(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Gives all files in and below a folder another name below another folder, as `link_file` does.

    Raises:
        OSError: one cannot be linked or copied; names it.
    """
    shutil.copytree(source, target, copy_function=lambda a, b: link_file(Path(a).resolve(), Path(b)))


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
