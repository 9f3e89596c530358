"""The index directory: stores, numbered versions derived from them, one of them published, and who may touch what.

    CURRENT            name of the published version, replaced in one step
    stores/<n>/        the truth, changed in place by the one writer; one whose encoder is not noted yet is being filled
    versions/<n>/      complete versions, never changed once they are there
    plan.sqlite        scratch of a build
    folding/           work in progress on the next version; becomes it by being renamed
    image_roots.json   below which images may be read that the store only refers to
    .lock              held by the one writer

A reader holds a shared lock on the version it has open, so that nobody deletes it, or its store, under the reader.
"""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anykey.index.errors import IndexCorruptError, IndexFormatError, IndexLockedError, IndexNotFoundError
from anykey.index.store.manifest import MANIFEST_NAME, Manifest, file_facts, read_manifest, read_whole
from anykey.index.store.store_file import is_unfinished, naming_damage, open_read_only, read_meta, require_readable
from anykey.program.files import make_folder, naming_target, replace_file, sync, sync_all
from anykey.program.locks import try_lock

LOCK_NAME = ".lock"
CURRENT_NAME = "CURRENT"
VERSIONS_NAME, STORES_NAME = "versions", "stores"
STORE_NAME = "store.sqlite"
WHOLLY_CHECKED_BYTES = 4 * 2**20  # files up to this size have their checksum verified on every open
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexDirectory:
    """An index directory by its path; it need not exist yet."""

    path: Path

    @property
    def plan_path(self) -> Path:
        """Where a build keeps its plan."""
        return self.path / "plan.sqlite"

    @property
    def folding_dir(self) -> Path:
        """Where the next version grows."""
        return self.path / "folding"

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
        path = self.path / CURRENT_NAME
        try:
            name = read_whole(path).decode("ascii", "replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not name.isdecimal():
            raise IndexCorruptError(path, "expected the number of a version in it")
        return name

    def current_stamp(self) -> tuple[int, int]:
        """What changes whenever another version is published; cheap."""
        try:
            facts = os.stat(self.path / CURRENT_NAME)
        except OSError:
            return 0, 0
        return facts.st_ino, facts.st_mtime_ns

    def version_dir(self, name: str) -> Path:
        """The directory of a version."""
        return self.versions_dir / name

    def store_path(self, name: str) -> Path:
        """The SQLite file of a store."""
        return self.stores_dir / name / STORE_NAME

    def names(self) -> list[str]:
        """Names of the versions that exist, oldest first."""
        return _numbers(self.versions_dir)

    def next_name(self) -> str:
        """Name for the version after the newest."""
        return str(int((self.names() or ["0"])[-1]) + 1)

    @contextmanager
    def locked_for_writing(self) -> Iterator[None]:
        """Keeps every other writer out; the lock ends with the process, however it ends.

        Raises:
            IndexLockedError: another writer has it.
            OSError: a file is in its place, or the disk is full or not writable.
        """
        make_folder(self.path, "an index")
        path = self.path / LOCK_NAME
        with path.open("ab+", buffering=0) as file:  # a buffer that finds no room would be written again, and unnamed
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().decode().strip() or "another process"
                raise IndexLockedError(
                    f"index {self.path} is being written by {holder}: an index has one writer at a time"
                ) from error
            with naming_target(path):
                file.truncate(0)
                file.write(f"process {os.getpid()}".encode())
            yield

    def store_names(self) -> list[str]:
        """Names of the stores that have keys, or had some, oldest first."""
        return [name for name in _numbers(self.stores_dir) if not is_unfinished(self.store_path(name))]

    def unfinished_store_names(self) -> list[str]:
        """Names of the stores that somebody began to fill and no version was ever made of, oldest first."""
        return [name for name in _numbers(self.stores_dir) if is_unfinished(self.store_path(name))]

    def begin_store(self) -> Path:
        """Makes room for a store after the newest; gives the path of its file, which is not there yet."""
        path = self.store_path(str(int((_numbers(self.stores_dir) or ["0"])[-1]) + 1))
        path.parent.mkdir(parents=True)
        sync(self.stores_dir)
        sync(self.path)
        return path

    def delete_store(self, name: str) -> None:
        """Deletes a store that no version is derived from."""
        shutil.rmtree(self.stores_dir / name)

    def publish(self, manifest: Manifest) -> None:
        """Makes `folding/` the published version, in one step for every reader.

        Args:
            manifest: What the version says about itself; it is written first.
        """
        self.complete(manifest)
        self.announce(manifest.version)

    def complete(self, manifest: Manifest) -> None:
        """Makes `folding/` a version, on disk, that no reader looks at before it is announced.

        Args:
            manifest: What the version says about itself; it is written first.
        """
        manifest.write(self.folding_dir)
        sync_all(self.folding_dir)
        self.versions_dir.mkdir(exist_ok=True)
        os.rename(self.folding_dir, self.version_dir(manifest.version))
        sync(self.versions_dir)

    def announce(self, name: str) -> None:
        """Makes a complete version the published one."""
        current = self.path / CURRENT_NAME
        if current.is_dir():  # a file cannot take its place
            shutil.rmtree(current)
        replace_file(current, f"{name}\n".encode("ascii"))

    def recover(self) -> None:
        """Ends what a writer was stopped in.

        A complete version that was not announced is announced, if its store has the changes that it covers: a build
        makes the version first. Any other, half a version and the scratch of a build are cleared away.
        """
        self.clear_up()
        building = self.path / "building"
        if (building / STORE_NAME).exists():
            logger.warning("%s is what a build of an earlier release was stopped in; starting over", building)
        shutil.rmtree(building, ignore_errors=True)
        self.plan_path.unlink(missing_ok=True)
        for name in self._unannounced():
            if self._is_covered(name):
                self.announce(name)
                return

    def clear_up(self) -> None:
        """Deletes half a version, and the newest complete ones whose changes never came into their store.

        It must be done before the store takes other changes: those have the same numbers, and would make it look as
        if it had the changes of such a version. Where it cannot be told which version is published, none is deleted
        but those of stores that no version was ever made of.
        """
        shutil.rmtree(self.folding_dir, ignore_errors=True)
        is_told = self._current_or_damaged() is not None
        for name in self._unannounced():
            if self._is_covered(name) or not (is_told or self._is_of_unfinished(name)):
                return
            shutil.rmtree(self.version_dir(name))

    def remove_old(self) -> None:
        """Deletes all but the newest versions, as many as the published one says, and stores that have none any more.

        What is read stays; so does the published version, which is not among the newest where later ones could not be
        announced. Where the published one cannot be read, so that nobody knows how many are to stay, all do.
        """
        current, num_kept = self._current_or_damaged(), self._num_kept()
        for name in [] if num_kept is None else self.names()[:-num_kept]:
            if name != current:
                _delete_unless_read(self.version_dir(name))
        for name in self._unused_stores():
            self.delete_store(name)

    def covered_seqs(self, store_name: str) -> list[int]:
        """Up to which changes versions cover a store, ascending; one that cannot be read, nobody can open."""
        return sorted(manifest.seq for manifest in self.manifests() if manifest.store == store_name)

    def manifests(self) -> list[Manifest]:
        """The manifests of the versions that can be read, oldest first."""
        return [manifest for manifest in self._manifests() if manifest is not None]

    def _num_kept(self) -> int | None:
        """How many versions the published one says are kept; `None` where it cannot be read, or there is none."""
        current = self._current_or_damaged()
        try:
            return None if current is None else read_manifest(self.version_dir(current)).options.keep_versions
        except (IndexCorruptError, IndexFormatError, OSError):
            return None

    def _manifests(self) -> Iterator[Manifest | None]:
        """The versions' manifests; `None` for one that is damaged or of another format."""
        for name in self.names():
            try:
                yield read_manifest(self.version_dir(name))
            except (IndexCorruptError, IndexFormatError):
                yield None

    def _unused_stores(self) -> list[str]:
        """Stores that no version is derived from any more, oldest first; none where that cannot be told."""
        manifests = list(self._manifests())
        used = {manifest.store for manifest in manifests if manifest is not None}
        return [] if None in manifests else [name for name in self.store_names() if name not in used]

    def _unannounced(self) -> list[str]:
        """Complete versions after the published one, newest first; all of them where that cannot be told."""
        current = self._current_or_damaged()
        return [name for name in reversed(self.names()) if current is None or int(name) > int(current)]

    def _current_or_damaged(self) -> str | None:
        try:
            return self.current()
        except IndexCorruptError:
            return None

    def _is_of_unfinished(self, name: str) -> bool:
        """Whether the store of a version, which can be read, is still being filled."""
        return is_unfinished(self.store_path(read_manifest(self.version_dir(name)).store))

    def _is_covered(self, name: str) -> bool:
        """Whether the store of a version has all of its changes; true where that cannot be told."""
        try:
            manifest = read_manifest(self.version_dir(name))
            path = self.store_path(manifest.store)
            with naming_damage(path), contextlib.closing(open_read_only(path)) as db:
                return int(read_meta(db)["seq"]) >= manifest.seq
        except (IndexCorruptError, IndexFormatError, LookupError, TypeError, ValueError):
            return True


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


def _numbers(folder: Path) -> list[str]:
    """Names in a folder that are numbers, ascending."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if path.name.isdecimal()), key=int)


def _delete_unless_read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        if try_lock(fd, fcntl.LOCK_EX):
            shutil.rmtree(path)
    finally:
        os.close(fd)


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
