"""The index directory: numbered versions, one of them published, and who may touch what.

    CURRENT            name of the published version, replaced in one step
    versions/<n>/      complete versions, never changed once they are there
    building/          work in progress; becomes the next version by being renamed
    .lock              held by the one builder

A reader holds a shared lock on the version it has open, so that no builder deletes it under the reader.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from index.errors import IndexCorruptError, IndexFormatError, IndexLockedError, IndexNotFoundError
from index.manifest import MANIFEST_NAME, Manifest, file_facts, read_manifest

CURRENT_NAME = "CURRENT"
STORE_NAME = "store.sqlite"
VECTORS_NAME = "vectors.faiss"
BAD_ROWS_NAME = "bad_rows.jsonl"
VERSIONS_KEPT = 2
WHOLLY_CHECKED_BYTES = 4 * 2**20  # files up to this size have their checksum verified on every open


@dataclass(frozen=True)
class IndexDirectory:
    """An index directory by its path; it need not exist yet."""

    path: Path

    @property
    def building_dir(self) -> Path:
        """Where the next version grows."""
        return self.path / "building"

    @property
    def versions_dir(self) -> Path:
        """Where the complete versions are."""
        return self.path / "versions"

    def current(self) -> str | None:
        """Name of the published version, or `None` before the first.

        Raises:
            IndexCorruptError: `CURRENT` holds no version's name.
        """
        path = self.path / CURRENT_NAME
        try:
            name = path.read_bytes().decode("ascii", "replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not name.isdecimal():
            raise IndexCorruptError(path, "expected the number of a version in it")
        return name

    def version_dir(self, name: str) -> Path:
        """The directory of a version."""
        return self.versions_dir / name

    def names(self) -> list[str]:
        """Names of the versions that exist, oldest first."""
        if not self.versions_dir.is_dir():
            return []
        return sorted((path.name for path in self.versions_dir.iterdir() if path.name.isdecimal()), key=int)

    def next_name(self) -> str:
        """Name for the version after the newest."""
        return str(int((self.names() or ["0"])[-1]) + 1)

    @contextmanager
    def locked_for_building(self) -> Iterator[None]:
        """Keeps every other builder out; the lock ends with the process, however it ends.

        Raises:
            IndexLockedError: another builder has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise IndexLockedError(f"index {self.path} is being built by {holder}; wait for it to end") from error
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield

    def publish(self, manifest: Manifest) -> Path:
        """Makes `building/` the published version, in one step for every reader.

        Args:
            manifest: What the version says about itself; it is written first.

        Returns:
            The version's directory.
        """
        manifest.write(self.building_dir)
        for path in sorted(self.building_dir.iterdir()):
            _sync(path)
        _sync(self.building_dir)
        self.versions_dir.mkdir(exist_ok=True)
        target = self.version_dir(manifest.version)
        os.rename(self.building_dir, target)
        _sync(self.versions_dir)
        self._point_to(manifest.version)
        return target

    def recover(self) -> None:
        """Publishes a complete version that a builder was stopped before announcing.

        A version directory is complete from the moment it has its name, so this is safe.
        """
        names = self.names()
        current = self._current_or_damaged()
        if names and (current is None or int(names[-1]) > int(current)):
            self._point_to(names[-1])

    def remove_old(self) -> None:
        """Deletes all but the newest versions; one that a reader has open stays for now."""
        for name in self.names()[:-VERSIONS_KEPT]:
            _delete_unless_read(self.version_dir(name))

    def _current_or_damaged(self) -> str | None:
        try:
            return self.current()
        except IndexCorruptError:
            return None

    def _point_to(self, name: str) -> None:
        aside = self.path / f"{CURRENT_NAME}.new"
        aside.write_text(f"{name}\n", encoding="ascii")
        _sync(aside)
        os.replace(aside, self.path / CURRENT_NAME)
        _sync(self.path)


@dataclass(frozen=True)
class OpenVersion:
    """A version that no builder deletes until `release` is called.

    Attributes:
        path: The version's directory.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest
    lock_fd: int

    def release(self) -> None:
        """Lets builders delete the version."""
        os.close(self.lock_fd)


def open_published(index_dir: Path, files: Collection[str] = ()) -> OpenVersion:
    """Finds the published version, checks its files cheaply and keeps it from being deleted.

    Args:
        index_dir: The index directory.
        files: Names of the files to check; all when none are named.

    Raises:
        IndexNotFoundError: nothing is published there.
        IndexCorruptError: a file is missing or damaged.
        IndexFormatError: this release does not read its format.
    """
    directory = IndexDirectory(index_dir)
    while True:
        name = directory.current()
        if name is None:
            raise IndexNotFoundError(
                f"no index at {index_dir}; build one with "
                f"`anykey-index build --corpus CORPUS --checkpoint CHECKPOINT --output {index_dir}`"
            )
        path = directory.version_dir(name)
        lock_fd = _lock_for_reading(path)
        if lock_fd is not None:
            break
        if directory.current() == name:  # else a builder was faster: look again
            raise IndexCorruptError(path, f"it is missing, though {CURRENT_NAME} names it")
    try:
        manifest = read_manifest(path)
        for file_name in files or sorted({STORE_NAME, VECTORS_NAME, *manifest.files}):
            check_file(path, manifest, file_name)
    except (IndexCorruptError, IndexFormatError):
        os.close(lock_fd)
        raise
    return OpenVersion(path, manifest, lock_fd)


def check_file(version_dir: Path, manifest: Manifest, name: str) -> None:
    """Compares a file with the manifest: its size, and its checksum if it is small.

    Raises:
        IndexCorruptError: it is missing, unreadable, unknown to the manifest, or differs from it.
    """
    path = version_dir / name
    expected = manifest.files.get(name)
    if expected is None:
        raise IndexCorruptError(version_dir / MANIFEST_NAME, f"it does not list {name}")
    try:
        size_bytes = path.stat().st_size
        if size_bytes != expected.size_bytes:
            raise IndexCorruptError(path, f"it has {size_bytes} bytes, the manifest says {expected.size_bytes}")
        if size_bytes <= WHOLLY_CHECKED_BYTES and file_facts(path) != expected:
            raise IndexCorruptError(path, "its checksum differs from the manifest's")
    except OSError as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise IndexCorruptError(path, reason) from error


def _delete_unless_read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        if _try_lock(fd, fcntl.LOCK_EX):
            shutil.rmtree(path)
    finally:
        os.close(fd)


def _lock_for_reading(path: Path) -> int | None:
    """A descriptor that holds the shared lock; `None` if the version is gone or going."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if _try_lock(fd, fcntl.LOCK_SH) and path.is_dir():
        return fd
    os.close(fd)
    return None


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can be seen, so nobody is waited for
        return True
    return True


def _sync(path: Path) -> None:
    """Forces a file or directory to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
