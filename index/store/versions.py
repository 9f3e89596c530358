"""The index directory as whoever reads it sees it: stores, numbered versions derived from them, one of them published.

    CURRENT            name of the published version, replaced in one step
    stores/<n>/        the truth, changed in place by the one writer; one whose encoder is not noted yet is being filled
    versions/<n>/      complete versions, never changed once they are there
    image_roots.json   below which images may be read that the store only refers to
    .lock              held by the one writer, who is noted in it

A reader holds a shared lock on the version it has open, so that nobody deletes it, or its store, under the reader. What
the one writer does is `anykey.index.publish.directory`.
"""

import fcntl
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from anykey.index.errors import IndexCorruptError, IndexFormatError, IndexNotFoundError
from anykey.index.store.manifest import MANIFEST_NAME, Manifest, file_facts, read_manifest, read_whole
from anykey.index.store.store_file import is_unfinished, require_readable
from anykey.program.locks import LockHolder, try_lock

CURRENT_NAME = "CURRENT"
VERSIONS_NAME, STORES_NAME = "versions", "stores"
STORE_NAME = "store.sqlite"
LOCK_NAME = ".lock"
WHOLLY_CHECKED_BYTES = 4 * 2**20  # files up to this size have their checksum verified on every open


@dataclass(frozen=True)
class IndexDirectory:
    """An index directory by its path; it need not exist."""

    path: Path

    def writer(self) -> LockHolder | None:
        """Who has the index open for changes, as far as that can be told; takes no lock, to be in nobody's way."""
        try:
            holder = LockHolder.noted((self.path / LOCK_NAME).read_bytes())
        except OSError:
            return None
        return None if holder is None or holder.is_gone else holder

    @property
    def versions_dir(self) -> Path:
        """Where the complete versions are."""
        return self.path / VERSIONS_NAME

    @property
    def stores_dir(self) -> Path:
        """Where the stores are."""
        return self.path / STORES_NAME

    def current(self) -> str | None:
        """Name of the published version, or `None` before the first.

        Raises:
            IndexCorruptError: `CURRENT` holds no version's name.
        """
        return read_number(self.path / CURRENT_NAME, "version")

    def current_stamp(self) -> tuple[int, int]:
        """What changes whenever another version is published; cheap."""
        return stamp_of(f"{self.path}/{CURRENT_NAME}")

    def version_dir(self, name: str) -> Path:
        """The directory of a version."""
        return self.versions_dir / name

    def store_path(self, name: str) -> Path:
        """The SQLite file of a store."""
        return self.stores_dir / name / STORE_NAME

    def names(self) -> list[str]:
        """Names of the versions that exist, oldest first."""
        return numbered(self.versions_dir)

    def store_names(self) -> list[str]:
        """Names of the stores that have keys, or had some, oldest first."""
        return [name for name in numbered(self.stores_dir) if not is_unfinished(self.store_path(name))]

    def manifests(self) -> list[Manifest]:
        """The manifests of the versions that can be read, oldest first."""
        return [manifest for manifest in self._manifests() if manifest is not None]

    def _manifests(self) -> Iterator[Manifest | None]:
        """The versions' manifests; `None` for one that is damaged or of another format."""
        for name in self.names():
            try:
                yield read_manifest(self.version_dir(name))
            except (IndexCorruptError, IndexFormatError):
                yield None


@dataclass(frozen=True)
class OpenVersion:
    """A version that nobody deletes until `release` is called.

    Attributes:
        path: The version's directory.
        store_path: The store it is derived from.
        manifest: Its manifest.
        stamp: Of `CURRENT`, when it was found there.
    """

    path: Path
    store_path: Path
    manifest: Manifest
    stamp: tuple[int, int]
    lock_fd: int

    def release(self) -> None:
        """Lets a writer delete the version."""
        os.close(self.lock_fd)


def open_published(index_dir: Path, files: Collection[str] | None = None) -> OpenVersion:
    """Finds the published version, checks its files cheaply and keeps it from being deleted.

    Args:
        index_dir: The index directory.
        files: Names of the files to check; all when absent.

    Raises:
        IndexNotFoundError: nothing is published there.
        IndexCorruptError: a file is missing or damaged.
        IndexFormatError: this release does not read its format.
        PermissionError: a file may not be read.
    """
    directory = IndexDirectory(index_dir)
    while True:
        stamp = directory.current_stamp()
        name = directory.current()
        if name is None:
            raise _nothing_published(directory)
        path = directory.version_dir(name)
        lock_fd = _lock_for_reading(path)
        if lock_fd is not None:
            break
        if directory.current() == name:  # else a writer was faster: look again
            raise IndexCorruptError(path, f"it is missing, though {CURRENT_NAME} names it")
    try:
        manifest = read_manifest(path)
        for file_name in sorted(manifest.files) if files is None else files:
            check_file(path, manifest, file_name)
    except (IndexCorruptError, IndexFormatError, OSError):
        os.close(lock_fd)
        raise
    return OpenVersion(path, directory.store_path(manifest.store), manifest, stamp, lock_fd)


def check_file(version_dir: Path, manifest: Manifest, name: str, is_whole: bool = False) -> None:
    """Compares a file with the manifest: its size, and its checksum if it is small.

    Args:
        version_dir: The version.
        manifest: Its manifest.
        name: The file.
        is_whole: Compares the checksum of a large file too.

    Raises:
        IndexCorruptError: it is missing, unreadable, unknown to the manifest, or differs from it.
        PermissionError: it may not be read.
    """
    path = version_dir / name
    expected = manifest.files.get(name)
    if expected is None:
        raise IndexCorruptError(version_dir / MANIFEST_NAME, f"it does not list {name}")
    try:
        require_readable(path)
        size_bytes = path.stat().st_size
        if size_bytes != expected.size_bytes:
            raise IndexCorruptError(path, f"it has {size_bytes} bytes, the manifest says {expected.size_bytes}")
        if (is_whole or size_bytes <= WHOLLY_CHECKED_BYTES) and file_facts(path) != expected:
            raise IndexCorruptError(path, "its checksum differs from the manifest's")
    except PermissionError:
        raise
    except OSError as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise IndexCorruptError(path, reason) from error


def _nothing_published(directory: IndexDirectory) -> IndexNotFoundError:
    path = directory.path
    if directory.store_names():
        return IndexNotFoundError(
            f"no index is published at {path}, for {path / CURRENT_NAME} is missing, but there are keys: publish them "
            f"with `anykey-index repair --index {path}`"
        )
    return IndexNotFoundError(
        f"no index at {path}; build one with "
        f"`anykey-index build --corpus CORPUS --checkpoint CHECKPOINT --output {path}`"
    )


def read_number(path: Path, what: str) -> str | None:
    """The number in a file such as `CURRENT`, as text; `None` where there is no such file.

    Args:
        path: The file.
        what: What messages call that which has the number.

    Raises:
        IndexCorruptError: it holds no number.
    """
    try:
        number = read_whole(path).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not number.isdecimal():
        raise IndexCorruptError(path, f"expected the number of a {what} in it")
    return number


def stamp_of(path: Path | str) -> tuple[int, int]:
    """What changes whenever a file is replaced; cheap."""
    try:
        facts = os.stat(path)
    except OSError:
        return 0, 0
    return facts.st_ino, facts.st_mtime_ns


def numbered(folder: Path) -> list[str]:
    """Names in a folder that are numbers, ascending."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if path.name.isdecimal()), key=int)


def _lock_for_reading(path: Path) -> int | None:
    """A descriptor that holds the shared lock; `None` if the version is gone or going."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if try_lock(fd, fcntl.LOCK_SH) and path.is_dir():
        return fd
    os.close(fd)
    return None
