"""The index directory in the hands of its one writer: who may write, what is published, and what is cleared away.

    plan.sqlite        scratch of a build
    folding/           work in progress on the next version; becomes it by being renamed

The rest of it is `anykey.index.store.versions`.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from anykey.index.errors import IndexCorruptError, IndexFormatError, IndexLockedError, OutputExistsError
from anykey.index.releases import RELEASE_NAME
from anykey.index.store.manifest import Manifest, read_manifest
from anykey.index.store.store_file import is_unfinished, naming_damage, open_read_only, read_meta
from anykey.index.store.versions import CURRENT_NAME, LOCK_NAME, STORE_NAME, IndexDirectory, numbered
from anykey.program.files import make_folder, naming_target, replace_file, sync, sync_all
from anykey.program.locks import LockHolder, holder_of, try_lock

LEFT_BEHIND_S = 5.0  # until the process has ended that folded for a writer that was killed; it ends at once
LOOK_S = 0.01
logger = logging.getLogger(__name__)


class WritableDirectory(IndexDirectory):
    """An index directory by its path, to be written; it need not exist yet."""

    @property
    def plan_path(self) -> Path:
        """Where a build keeps its plan."""
        return self.path / "plan.sqlite"

    @property
    def folding_dir(self) -> Path:
        """Where the next version grows."""
        return self.path / "folding"

    def next_name(self) -> str:
        """Name for the version after the newest."""
        return str(int((self.names() or ["0"])[-1]) + 1)

    @contextmanager
    def locked_for_writing(self, job: str) -> Iterator[int]:
        """Keeps every other writer out; the lock ends with the process, however it ends.

        A process that has the file that is locked from this one has the lock with it, until both have ended.

        Args:
            job: What it is for, as others are told.

        Yields:
            The file that is locked.

        Raises:
            IndexLockedError: another writer has it.
            OutputExistsError: it is a directory of releases, whose `CURRENT` an index would overwrite.
            OSError: a file is in its place, or the disk is full or not writable.
        """
        make_folder(self.path, "an index")
        if not self.versions_dir.exists() and next(self.path.glob(f"*/{RELEASE_NAME}"), None) is not None:
            raise OutputExistsError(f"{self.path} has releases in it; an index needs a directory of its own")
        path = self.path / LOCK_NAME
        with path.open("ab+", buffering=0) as file:  # a buffer that finds no room would be written again, and unnamed
            _lock(self.path, file)
            with naming_target(path):
                file.truncate(0)
                file.write(LockHolder.this_process(job).note())
            try:
                yield file.fileno()
            finally:
                with contextlib.suppress(OSError):
                    file.truncate(0)

    def unfinished_store_names(self) -> list[str]:
        """Names of the stores that somebody began to fill and no version was ever made of, oldest first."""
        return [name for name in numbered(self.stores_dir) if is_unfinished(self.store_path(name))]

    def begin_store(self) -> Path:
        """Makes room for a store after the newest; gives the path of its file, which is not there yet."""
        path = self.store_path(str(int((numbered(self.stores_dir) or ["0"])[-1]) + 1))
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

        It must be done before the store takes other changes: those have the same numbered, and would make it look as
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

    def _num_kept(self) -> int | None:
        """How many versions the published one says are kept; `None` where it cannot be read, or there is none."""
        current = self._current_or_damaged()
        try:
            return None if current is None else read_manifest(self.version_dir(current)).options.keep_versions
        except (IndexCorruptError, IndexFormatError, OSError):
            return None

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


def _lock(index_dir: Path, file: IO[bytes]) -> None:
    """Locks a file; waits a little for the end of what a writer that was killed has left running."""
    give_up_s = time.monotonic() + LEFT_BEHIND_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            file.seek(0)
            holder = LockHolder.noted(file.read())
            if holder is None or not holder.is_gone or time.monotonic() > give_up_s:
                raise _locked_error(index_dir, file) from error
        time.sleep(LOOK_S)


def _locked_error(index_dir: Path, file: IO[bytes]) -> IndexLockedError:
    file.seek(0)
    noted = file.read()
    holder = LockHolder.noted(noted)
    named = str(holder or noted.decode(errors="replace").strip() or holder_of(file.fileno()))
    message = f"index {index_dir} is being written by {named}: an index has one writer at a time"
    return IndexLockedError(message, holder)


def _delete_unless_read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        if try_lock(fd, fcntl.LOCK_EX):
            shutil.rmtree(path)
    finally:
        os.close(fd)
