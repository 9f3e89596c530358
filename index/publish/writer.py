"""The one writer of an index: changes to its store, and folding them into new versions in the background."""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from anykey.index.changes import Applied, Change, RequestKey
from anykey.index.errors import SearchIndexError, UnannouncedError
from anykey.index.key_index import NewKey
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.fold_process import FoldProcess
from anykey.index.publish.folding import (
    Provenance,
    provenance_of,
    publish_next,
    publish_with_changes,
    remove_unneeded,
    tidy_up,
)
from anykey.index.publish.tuning.held_out import require_queries
from anykey.index.store.backoff import FAILURE_NAME, NO_FAILURE, BackOff, FoldFailure
from anykey.index.store.live_changes import CheckedChange
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.new_keys import to_record
from anykey.index.store.records import Record, TuningQueries
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.store.store_reader import check_store
from anykey.index.store.versions import open_published
from anykey.index.vectors.structures import ON_CPU, GpuUse
from anykey.program.progress import Report, quietly

FoldIn = Literal["thread", "process"]
DELETED_IN_A_PIECE = 2_000  # keys: other changes wait for a piece, a tenth of a second or so
logger = logging.getLogger(__name__)


class Writer:
    """Holds the directory's lock from its making to its close; safe for use from several threads.

    Attributes:
        encoder: The encoder that made the vectors.
        fold_failure: What is said of making a version in the background, if that failed last time.
    """

    def __init__(
        self,
        directory: WritableDirectory,
        compact_after: int,
        gpu: GpuUse = ON_CPU,
        job: str = "live changes",
        fold_in: FoldIn = "thread",
    ) -> None:
        """Takes the lock and opens the published version's store.

        Args:
            directory: The index directory.
            compact_after: Changes after which a new version is made in the background; 0 for never.
            gpu: GPUs that versions are made with, and measured on.
            job: What it writes for, as others are told that find the index locked.
            fold_in: Whether changes are folded in a thread of this process, or in a process of its own.

        Raises:
            IndexLockedError: the index has another writer.
            IndexNotFoundError: nothing is published there.
        """
        self._directory = directory
        self._compact_after = compact_after
        self._gpu = gpu
        self._store_lock = threading.Lock()
        self._fold_lock = threading.Lock()
        self._folding: threading.Thread | None = None
        self._next_try: threading.Timer | None = None
        self._is_closing = False
        self._back_off = BackOff()
        self.fold_failure: FoldFailure | None = None
        open_published(directory.path, files=[]).release()  # or else a lock file would be left where no index is
        with ExitStack() as stack:
            lock_fd = stack.enter_context(directory.locked_for_writing(job))
            self._fold_process = FoldProcess(lock_fd) if fold_in == "process" else None
            directory.recover()
            version = open_published(directory.path)
            version.release()  # the lock keeps its store, and nothing else of it is needed
            self.encoder = version.manifest.encoder
            self._folded_seq = version.manifest.seq
            check_store(version.store_path, version.manifest)
            self._store = Store(version.store_path)
            self._store.covered_seq = version.manifest.seq
            stack.callback(self._store.close)
            self._resources = stack.pop_all()

    @property
    def is_folding(self) -> bool:
        """Whether a version is being made in the background."""
        return self._folding is not None and self._folding.is_alive()

    def upsert(self, keys: Sequence[NewKey], width: int) -> None:
        """Stores keys in place of those of the same names, all or nothing and durably.

        Args:
            keys: The keys.
            width: Length of the index's vectors.

        Raises:
            InvalidKeyError: a key cannot be stored; says which and why. Nothing was changed.
            IndexCorruptError: the store is damaged.
            OSError: the disk is full or not writable; nothing was changed.
        """
        self.commit([to_record(key, width) for key in keys])

    def commit(self, records: Sequence[Record], gone: Collection[str] = ()) -> int:
        """Stores and deletes keys, all or nothing and durably; gives the number deleted.

        Raises:
            IndexCorruptError: the store is damaged.
            OSError: the disk is full or not writable; nothing was changed.
        """
        with self._changing():
            return self._store.commit(records, deleted=gone)

    def apply(
        self, changes: Sequence[Change], width: int, *, atomic: bool = False, request: RequestKey | None = None
    ) -> Applied:
        """Makes changes of single keys in their order and durably, each as far as it can be made.

        Args:
            changes: The changes.
            width: Length of the index's vectors.
            atomic: Whether none is made if one of them cannot be.
            request: By what the request for them is known, if it may be repeated.

        Raises:
            RequestMismatchError: another request was made under that name. Nothing was changed.
            IndexCorruptError: the store is damaged.
            OSError: the disk is full or not writable; nothing was changed.
        """
        checked = [CheckedChange.of(change, width) for change in changes]
        with self._changing():
            return self._store.apply(checked, atomic=atomic, request=request)

    def delete_found(self, find: Callable[[], Iterable[str]], request: RequestKey | None = None) -> Applied:
        """Deletes the keys that are found while nothing else can change, all or nothing and durably.

        Args:
            find: Finds them.
            request: As for `apply`.

        Raises:
            RequestMismatchError, IndexCorruptError, OSError: as `apply`.
        """
        with self._changing():
            earlier = None if request is None else self._store.remembered(request)
            return earlier or self._store.delete(find(), request)

    def delete_unchanged(
        self, stored: Sequence[tuple[str, int]], pause: Callable[[Applied], None], request: RequestKey | None = None
    ) -> Applied:
        """Deletes keys that are still as they were found, in pieces, each all or nothing and durably.

        Args:
            stored: Their names, each with the number of the change that stored it.
            pause: Called between two pieces, while others may change keys, with what was done; ends it by raising.
            request: By what the request is known, if it may be repeated; it is remembered when all is done.

        Raises:
            RequestMismatchError, IndexCorruptError, OSError: as `apply`.
        """
        if request is not None and (earlier := self.remembered(request)) is not None:
            return earlier
        applied = Applied()
        for start in range(0, len(stored), DELETED_IN_A_PIECE):
            if start:
                pause(applied)
            piece = stored[start : start + DELETED_IN_A_PIECE]
            is_last = start + len(piece) == len(stored)
            with self._changing():
                applied = self._store.delete_unchanged(piece, applied.num_deleted, request if is_last else None)
        return applied

    def remembered(self, request: RequestKey) -> Applied | None:
        """The answer to an earlier request of the same name, if it is remembered.

        Raises:
            RequestMismatchError: that was another request.
            IndexCorruptError: the store is damaged.
        """
        with self._store_lock, naming_damage(self._store.path):
            return self._store.remembered(request)

    def compact(self, options: FoldOptions | None = None, report: Report | None = None) -> Manifest:
        """Folds all changes into a new version and publishes it, unless there is nothing new; gives the published one.

        Args:
            options: How versions are derived from now on; as before when absent.
            report: Told of the search structure's progress, if anybody is.

        Raises:
            IndexCorruptError: the store is damaged.
            OSError: the disk is full or not writable; the published version stays.
        """
        with self._fold_lock:
            published, provenance = self._published()
            with self._store_lock:
                before = FoldOptions.of(self._store.meta)
                chosen = options or before
                if self._store.seq == published.seq and chosen == published.options:
                    return published
            store_path = self._directory.store_path(published.store)
            with self._deriving(before, chosen):
                manifest = self._publish_next(store_path, provenance, chosen, report or quietly)
            with self._store_lock, naming_damage(self._store.path):
                self._covers(manifest)
            remove_unneeded(self._directory, self._store, self._store_lock)
            return manifest

    def _publish_next(self, store_path: Path, provenance: Provenance, options: FoldOptions, report: Report) -> Manifest:
        deriving = None
        if self._fold_process is not None:
            deriving = partial(self._fold_process.derive, self._directory, options, report, self._gpu)
        return publish_next(self._directory, store_path, provenance, options, report, self._gpu, deriving)

    def load(
        self, records: Iterable[Record], options: FoldOptions | None = None, report: Report | None = None
    ) -> Manifest:
        """Stores many keys and publishes a version that covers them, both at once for every reader, or neither.

        Other changes wait until it is done.

        Args:
            records: The keys; read one by one.
            options: How versions are derived from now on; as before when absent.
            report: Told of the search structure's progress, if anybody is.

        Raises:
            IndexCorruptError: the store is damaged.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        with self._fold_lock, self._store_lock:
            published, provenance = self._published()
            chosen = options or FoldOptions.of(self._store.meta)

            def changes() -> bool:
                self._store.commit(records)
                return self._store.seq != published.seq or chosen != published.options

            return self._publish_with(changes, provenance, chosen, report) or published

    def tune(self, queries: TuningQueries | None, report: Report | None = None) -> Manifest:
        """Chooses the search structure anew, measured with real queries, which later choices will be measured with too.

        Other changes wait until it is done.

        Args:
            queries: The queries; keys of the index when absent.
            report: Told of the search structure's progress, if anybody is.

        Raises:
            IndexCorruptError: the store is damaged.
            InvalidStructureError: the queries cannot be used. Nothing was changed.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        with self._fold_lock, self._store_lock:
            published, provenance = self._published()
            if queries is not None:
                require_queries(queries.vectors_QD, published.encoder.width)

            def changes() -> bool:
                self._store.keep_queries(queries)
                return True

            options, anew = FoldOptions.of(self._store.meta), replace(provenance, previous=None)
            return self._publish_with(changes, anew, options, report) or published

    @contextmanager
    def _deriving(self, before: FoldOptions, chosen: FoldOptions) -> Iterator[None]:
        """Keeps what a version may cover that the block makes; a block that makes none leaves all as it was.

        The options are noted first: a kill right after the version is announced must not bring back those of before.
        """
        names = self._directory.names()
        with self._store_lock, naming_damage(self._store.path):
            covered_seq, self._store.covered_seq = self._store.covered_seq, None  # it covers some moment from now on
            if chosen != before:
                self._store.note(**chosen.facts())
        try:
            yield
        except BaseException:
            with self._store_lock, naming_damage(self._store.path):
                if self._directory.names() == names:  # else one is complete, and the next writer announces it
                    self._store.covered_seq = covered_seq
                    if chosen != before:
                        self._store.note(**before.facts())
            raise

    def _published(self) -> tuple[Manifest, Provenance]:
        version = open_published(self._directory.path)
        try:
            return version.manifest, provenance_of(version.manifest, version.path)
        finally:
            version.release()

    def _publish_with(
        self, changes: Callable[[], bool], provenance: Provenance, options: FoldOptions, report: Report | None
    ) -> Manifest | None:
        try:
            manifest = publish_with_changes(
                self._directory, self._store, changes, provenance, options, report or quietly, self._gpu
            )
        except UnannouncedError:  # a version covers the changes that the next writer announces
            self._store.covered_seq = None
            raise
        if manifest is not None:
            self._covers(manifest)
        return manifest

    def _covers(self, manifest: Manifest) -> None:
        self._folded_seq = self._store.covered_seq = manifest.seq
        self._back_off.succeeded()
        self.fold_failure = None
        if self._store.meta.get(FAILURE_NAME, NO_FAILURE) != NO_FAILURE:
            self._store.note(**{FAILURE_NAME: NO_FAILURE})

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keeps other changes out of the block, which makes some; folds them in the background if it is time to."""
        with self._store_lock, naming_damage(self._store.path):
            yield
            is_time = self._compact_after and self._store.seq - self._folded_seq >= self._compact_after
        if is_time:
            self._compact_in_background()

    def close(self) -> None:
        """Ends folding, deletes what it left as it was read, closes the store, gives the lock back.

        Folding in a process of its own is stopped, for the next writer begins it anew; in a thread, it is waited for.
        """
        with self._store_lock:  # or a retry might begin between its look at this and its note of the thread
            self._is_closing = True
        if self._fold_process is not None:
            self._fold_process.stop()
        if self._folding is not None:
            self._folding.join()
        if self._next_try is not None:
            self._next_try.cancel()
        tidy_up(self._directory, self._store)
        self._resources.close()

    def _compact_in_background(self) -> None:
        with self._store_lock:
            is_under_way = self._folding is not None and self._folding.is_alive()
            if is_under_way or self._is_closing or not self._back_off.is_due:
                return
            self._folding = threading.Thread(target=self._try_to_compact, name="fold")
            self._folding.start()

    def _try_to_compact(self) -> None:
        """What fails is tried again ever less often, whether or not there are changes meanwhile."""
        try:
            self.compact()
        except Exception as error:  # whatever it is, it must not end the trying
            if self._is_closing:
                return
            pause_s = self._back_off.failed()
            logger.exception(
                "compaction failed; the published version stays, changes are safe in the store; next try in %g s",
                pause_s,
            )
            self._tell(FoldFailure.of(error, self._back_off.num_failures, pause_s))
            self._next_try = threading.Timer(pause_s, self._compact_in_background)
            self._next_try.daemon = True  # keeps no program from ending
            self._next_try.start()

    def _tell(self, failure: FoldFailure) -> None:
        """Notes a failure for every process that reads the store, if it can be noted."""
        self.fold_failure = failure
        try:
            with self._store_lock, naming_damage(self._store.path):
                self._store.note(**{FAILURE_NAME: failure.model_dump_json()})
        except (SearchIndexError, OSError) as error:
            logger.warning("that compaction failed cannot be noted in the store: %s", error)
