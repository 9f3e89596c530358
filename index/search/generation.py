"""One published version together with its store, open for searches: the latest view of the two, and their health."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError, KeyCorruptError
from anykey.index.key_index import Held, Place
from anykey.index.queries import is_unicode
from anykey.index.search.version_files import VersionFiles, file_bytes
from anykey.index.search.view import View
from anykey.index.store.store_file import naming_damage, open_read_only, reading_any_text
from anykey.index.store.store_reader import ReadTransaction, StoreReader
from anykey.index.store.versions import IndexDirectory, OpenVersion, check_file, open_published
from anykey.index.vectors.structures import EXACT_ALLOWED, ON_CPU, GpuUse

POLL_S = 0.005
SAMPLED_KEYS = 32
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # new at each start of a machine, alike in its containers
_State = tuple[int, int, int] | None  # what a file's replacement or change changes; `None` where there is none


@dataclass(frozen=True)
class Flood:
    """When a reader meets so many changes at once that it waits for a version that covers them, and how long.

    They are a build's, as a rule, whose version is announced a moment later.

    Attributes:
        num_changes: More changes than these are a flood; fewer are taken into memory at once.
        patience_s: How long the reader waits until such a version is announced.
        switch_s: How long it waits until one that is announced has been opened.
    """

    num_changes: int = 20_000
    patience_s: float = 1.0
    switch_s: float = 5.0


FLOOD = Flood()


class SupersededError(Exception):
    """A newer version covers many changes that this one would have to take into memory."""


class Generation:
    """A version that is closed when it has been let go of by its owner and by the last search under way on it.

    Attributes:
        version: The version.
        reader: Its store.
        health: Whether both are sound.
    """

    def __init__(
        self,
        directory: IndexDirectory,
        version: OpenVersion,
        reader: StoreReader,
        files: VersionFiles,
        flood: Flood = FLOOD,
    ) -> None:
        self._directory = directory
        self.version = version
        self.reader = reader
        self.health = Health(version)
        self._files = files
        self._flood = flood
        self._view = View.of(files)
        self._waited_for_seq = 0
        self._num_users = 1  # the owner
        self._lock = threading.Lock()
        self._view_lock = threading.Lock()

    @classmethod
    def open(
        cls, index_dir: Path, gpu: GpuUse = ON_CPU, exact_allowed: int = EXACT_ALLOWED, flood: Flood = FLOOD
    ) -> "Generation":
        """Opens what is published in an index directory, to be searched on GPUs or on the CPU.

        Args:
            index_dir: The index directory.
            gpu: Where to search.
            exact_allowed: A search that so few keys may answer compares with each of them.
            flood: When many changes at once are waited for in a version, and how long.

        Raises:
            IndexNotFoundError: nothing is published there.
            IndexCorruptError: a file is missing or damaged.
            IndexFormatError: this release does not read its format.
        """
        version = open_published(index_dir)
        files = reader = None
        try:
            files = VersionFiles.open(version, gpu, exact_allowed)
            reader = StoreReader(version.store_path)
            reader.check(version.manifest)
            generation = cls(IndexDirectory(index_dir), version, reader, files, flood)
            with generation.moment():
                return generation
        except BaseException:
            if reader is not None:
                reader.close()
            if files is not None:
                files.close()
            version.release()
            raise

    @property
    def view(self) -> View:
        """The latest moment that anybody has asked for."""
        return self._view

    def view_at_hand(self) -> View | None:
        """The latest view, if it is known without waiting that nothing came since, else `None`; for one thread."""
        view = self._view
        return view if self.health.is_untouched and self.reader.seq_at_once() == view.seq else None

    @cached_property
    def identity(self) -> str | None:
        """What no other version of any index has, on any machine, nor this one where it was restored from a copy.

        It is the folder that was opened, and the store's file, as long as the system runs that knows them: a copy of
        the folder has another time of change, and a store that came back to its place is another file. What was written
        to one of them is never taken for what was written to the other. `None` where the system does not tell itself
        from others.
        """
        try:
            booted = _BOOT_ID.read_text().strip()
            folder, store = os.fstat(self.version.lock_fd), os.stat(self.version.store_path)
        except OSError:
            return None
        manifest = self.version.manifest
        files = f"{folder.st_dev}.{folder.st_ino}.{folder.st_ctime_ns} {store.st_dev}.{store.st_ino}"
        return f"{booted} {files} {manifest.store_id} {manifest.version}"

    def held(self) -> list[Held]:
        """What is held of the version, of its store, and of the keys that came since."""
        store = self.version.store_path
        log = store.with_name(f"{store.name}-wal")
        return [
            *self._files.held(self.version.path),
            Held("store", file_bytes(store, log), Place.DISK),
            Held("recent", self._view.recent.num_bytes, Place.MEMORY),
        ]

    @contextmanager
    def moment(
        self, may_be_superseded: bool = False, deadline: Deadline = NEVER
    ) -> Iterator[tuple[ReadTransaction, View]]:
        """The store as it is now, and the view of the same moment, for the length of the block.

        Args:
            may_be_superseded: Whether the caller would rather have a newer version than one with many recent keys.
            deadline: Until when the block is wanted.

        Raises:
            SupersededError: there is such a version.
            DeadlineExceededError: the block is no longer wanted.
            IndexCorruptError: a file is damaged, or turns out to be in the block; `health` has been told.
        """
        with self.health.noting_damage():
            self.health.require_files()
            while True:
                with self.reader.transaction(deadline) as transaction:
                    is_flooded = may_be_superseded and transaction.seq - self._view.seq > self._flood.num_changes
                    if is_flooded and self._is_superseded(transaction.seq, deadline):
                        raise SupersededError
                    view = self._view_at(transaction, deadline)
                    if view is not None:
                        yield transaction, view
                        return

    def acquire(self) -> bool:
        """Keeps it open until `release`; false if it has been closed."""
        with self._lock:
            if not self._num_users:
                return False
            self._num_users += 1
            return True

    def release(self) -> None:
        """Lets go of it once; the last one closes it."""
        with self._lock:
            self._num_users -= 1
            if self._num_users:
                return
        self.reader.close()
        self._files.close()
        self.version.release()

    def _is_superseded(self, seq: int, deadline: Deadline = NEVER) -> bool:
        """Whether another version is announced, or will be in a moment, which is waited for once for these changes."""
        give_up_s = time.monotonic() + (self._flood.patience_s if self._waited_for_seq < seq else 0)
        while self._directory.current_stamp() == self.version.stamp:
            if time.monotonic() >= give_up_s:
                self._waited_for_seq = seq
                return False
            deadline.check()
            time.sleep(POLL_S)
        return True

    def _view_at(self, transaction: ReadTransaction, deadline: Deadline) -> View | None:
        """The view of the moment that a transaction sees; `None` if another thread has moved on to a later one.

        What came since is taken in by one thread, for all, and whether or not its own answer is wanted that long: else
        it might never be done.
        """
        view = self._view
        if view.seq < transaction.seq:
            with deadline.held(self._view_lock):
                view = self._view
                if view.seq < transaction.seq:
                    with transaction.unhurried():
                        changes = transaction.changes_since(view.seq)
                    view = self._view = view.after(changes)
                    for damage in changes.unsound.values():
                        self.health.note(damage.error)
        return view if view.seq == transaction.seq else None


class Health:
    """The soundness of one open version and of its store; safe for use from several threads.

    What is read of the store is compared with checksums then and there. The version's files are mapped into memory: of
    one that changed, searches would give anything, and one that was cut short would end the process. So they are
    looked at before they are used, and used no more once one is damaged.
    """

    def __init__(self, version: OpenVersion) -> None:
        """Begins with files that have just been opened and found sound."""
        self._version = version
        self._opened_store = _state(version.store_path)
        self._sound = {version.path / name: _contents(version.path / name) for name in version.manifest.files}
        self._damage: dict[Path, tuple[IndexCorruptError, _State]] = {}
        self._comparing = threading.Lock()

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has met damage and all files are as they were found sound; no more than a look at each."""
        store, sound = self._version.store_path, self._sound
        return not self._damage and _state(store) is not None and all(_contents(path) == sound[path] for path in sound)

    @property
    def is_outdated(self) -> bool:
        """Whether files were damaged, or the store replaced, so that what is open is not what is there."""
        now, opened = _state(self._version.store_path), self._opened_store
        return bool(self._damage) or (now and now[0]) != (opened and opened[0])

    @contextmanager
    def noting_damage(self) -> Iterator[None]:
        """Remembers the damage that the block meets."""
        try:
            yield
        except IndexCorruptError as error:
            self.note(error)
            raise

    def note(self, error: IndexCorruptError) -> None:
        """Remembers damage; of a file that is damaged as a whole, not that one key in it is."""
        known, _ = self._damage.get(error.path, (None, None))
        is_less = isinstance(error, KeyCorruptError) and known is not None and not isinstance(known, KeyCorruptError)
        if error is not known and not is_less:
            self._damage[error.path] = error, _state(error.path)

    def require_files(self) -> None:
        """Makes sure that the files are there, and those of the version unchanged; looks at their sizes and times.

        Raises:
            IndexCorruptError: one is missing or damaged, or was; then the version has to be opened again.
        """
        for path, (error, _) in list(self._damage.items()):
            if path in self._sound:
                raise error.with_traceback(None)
        self._compare_files()

    def check(self) -> None:
        """Looks at what tells most damage: files that changed, what the store says about itself, and some of its keys.

        Raises:
            IndexCorruptError: a file is missing or damaged; one that somebody met as damaged counts until it changes.
            KeyCorruptError: nothing is damaged but the records of some keys; names one, until it is mended or gone.
            OSError: the store cannot be read.
        """
        met = list(self._damage.items())
        for path, (error, met_in) in met:
            if not isinstance(error, KeyCorruptError) and _state(path) == met_in:
                raise error.with_traceback(None)
        with self.noting_damage():
            self._compare_files()
            self._check_store([error.key for _, (error, _) in met if isinstance(error, KeyCorruptError)])

    def _compare_files(self) -> None:
        """The version's files never change, so that one that did is compared with its checksum, by one thread."""
        if _state(self._version.store_path) is None:
            raise IndexCorruptError(self._version.store_path, "it is missing")
        if all(_contents(path) == known for path, known in self._sound.items()):
            return
        with self._comparing:
            for path, known in self._sound.items():
                now = _contents(path)
                if now is None or now != known:
                    check_file(self._version.path, self._version.manifest, path.name, is_whole=True)
                    self._sound[path] = now

    def _check_store(self, keys: Iterable[str]) -> None:
        """Over connections of its own: those that are open may hold pages that are no longer in the file."""
        from anykey.index.store.store_records import (
            read_records,  # with what builds remember, which searches do not need
        )

        path = self._version.store_path
        with closing(StoreReader(path)) as reader:
            reader.check(self._version.manifest)
            with reader.transaction() as transaction:
                transaction.sample(SAMPLED_KEYS)
        with naming_damage(path), closing(open_read_only(path)) as db, reading_any_text(db):
            for key in filter(is_unicode, keys):
                list(read_records(db, "key = ?", (key,)))


def _contents(path: Path) -> tuple[int, int] | None:
    """What changes with a file's contents; not its inode, which some network file systems make up anew."""
    state = _state(path)
    return state and state[1:]


def _state(path: Path) -> _State:
    try:
        facts = os.stat(str(path))  # which is faster than through the path
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
