"""The embedded engine: a SQLite store that is the truth, and FAISS structures derived from it.

Shape legend: Q = queries, D = width.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError, ReadOnlyError, SearchIndexError
from anykey.index.hits import FoundImage, Hit, StoredImage, StoredKey
from anykey.index.key_index import EVERYTHING, Held, IndexInfo, NewKey, Scope
from anykey.index.queries import check_after, check_limit, is_unicode, require_names
from anykey.index.search.generation import FLOOD, Flood, Generation, SupersededError
from anykey.index.search.kept_moments import KEEPING, Keeping, KeptMoments, check_token
from anykey.index.search.moment import FaissMoment, MomentAtHand
from anykey.index.search.view import info_of
from anykey.index.store.backoff import BackOff
from anykey.index.store.manifest import EncoderFacts, Manifest
from anykey.index.store.versions import IndexDirectory
from anykey.index.vectors.structures import DEFAULT_TEMPORARY_BYTES, EXACT_ALLOWED, GpuUse, use_cores

if TYPE_CHECKING:  # a process that only reads loads nothing that writes, and nothing that fetches images
    from anykey.index.changes import Applied, Capabilities, Change, RequestKey
    from anykey.index.publish.writer import FoldIn, Writer
    from anykey.index.store.manifest import FoldOptions
    from anykey.index.store.records import Record, TuningQueries
    from anykey.program.progress import Report

LONGEST_RETRY_S = 60.0
SWITCH_POLL_S = 0.01
MOST_DELETED_AT_ONCE = 10_000  # by their scope, in one transaction, where more may be deleted in pieces
COMPACT_AFTER = 20_000  # changes; so many recent keys take a few milliseconds a query
logger = logging.getLogger(__name__)


class FaissIndex:
    """An index directory, open for search, and for changes if asked for; safe for use from several threads.

    Every answer is of one moment, that of the call: changes that were acknowledged before it, in this process or in
    another, are in it. A newer version with the same encoder is moved to when it is published. Implements
    `index.key_index.KeyIndex`, whose methods' contracts hold here. Made by `open`.
    """

    def __init__(
        self,
        index_dir: Path,
        open_generation: Callable[[], Generation],
        open_writer: "Callable[[], Writer]",
        writer: "Writer | None",
        image_roots: Sequence[str] | None,
        switch_s: float,
        keeping: Keeping = KEEPING,
        search_cores: int | None = None,
    ) -> None:
        self._directory = IndexDirectory(index_dir)
        self._open_generation = open_generation
        self._generation = generation = open_generation()
        self._kept = KeptMoments(keeping)
        self._open_writer = open_writer
        self._writer = writer
        self._named_roots = image_roots
        self._switch_s = switch_s
        self._search_cores = search_cores
        self._seen_stamp = generation.version.stamp
        self._back_off = BackOff(LONGEST_RETRY_S)  # of a version that cannot be opened
        self._failed_stamp = generation.version.stamp
        self._switch_lock = threading.Lock()
        self._close_lock = threading.Lock()
        self._is_open = True
        self.moment_at_hand = MomentAtHand(self._published_generation, self._kept)

    @classmethod
    def open(
        cls,
        index_dir: Path,
        *,
        writable: bool = False,
        compact_after: int = COMPACT_AFTER,
        device: str = "cpu",
        gpu_memory_bytes: int = DEFAULT_TEMPORARY_BYTES,
        fold_device: str | None = None,
        image_roots: Sequence[str] | None = None,
        exact_allowed: int = EXACT_ALLOWED,
        flood: Flood = FLOOD,
        job: str = "live changes",
        fold_in: "FoldIn" = "thread",
        keeping: Keeping = KEEPING,
        search_cores: int | None = None,
    ) -> "FaissIndex":
        """Opens the published version of an index directory.

        Args:
            index_dir: The directory that `anykey-index build --output` named.
            writable: Whether keys may be changed through it; an index has one writer at a time.
            compact_after: For a writer: changes after which a new version is made in the background; 0 for never.
            device: Where to search: `cpu`, `auto` (all GPUs, if there are any), `cuda` or `cuda:0,1`.
            gpu_memory_bytes: Memory on each GPU that a search may take beyond the vectors, so that an encoder can
                share the GPU.
            fold_device: For a writer: GPUs that help to make versions, and whose own search structures are chosen and
                measured too; those of `device` when absent.
            image_roots: Folders, files and URLs below which images may be read that the index only refers to; those
                that are recorded of it when absent.
            exact_allowed: A search that so few keys of the version may answer compares with each of them, instead of
                asking the search structure for likely ones.
            flood: When many changes at once, such as a build's, are waited for in a version, and how long.
            job: For a writer: what it writes for, as others are told that find the index locked.
            fold_in: For a writer: whether new versions are made in a thread of this process, or in a process of its
                own, which searches hardly feel; a program that is frozen into one file cannot start one.
            keeping: How long moments are kept that `Moment.keep` was called of, and how many.
            search_cores: How many cores one search may use; all when absent. On all of them a lone search is a little
                faster where nothing else runs. Where something does, such as an encoder or other searches, it is many
                times slower, because its threads wait for each other.

        Raises:
            IndexNotFoundError: nothing is published there; says how to build it.
            IndexCorruptError: a file is missing or damaged; names it.
            IndexFormatError: this release does not read its format.
            IndexLockedError: another process, or another object of this one, has it open for writing.
        """
        index_dir = Path(index_dir)
        if compact_after < 0:
            raise ValueError(f"expected compact_after to be 0, for never, or a number of changes, got {compact_after}")
        named_roots = None if image_roots is None else _absolute(image_roots)
        gpu = GpuUse.of(device, gpu_memory_bytes)
        fold_gpu = gpu if fold_device is None else GpuUse.of(fold_device, gpu_memory_bytes)
        open_writer = partial(_open_writer, index_dir, compact_after, fold_gpu, job, fold_in)
        writer = open_writer() if writable else None
        try:
            open_generation = partial(Generation.open, index_dir, gpu, exact_allowed, flood)
            return cls(
                index_dir, open_generation, open_writer, writer, named_roots, flood.switch_s, keeping, search_cores
            )
        except BaseException:
            if writer is not None:
                writer.close()
            raise

    @property
    def manifest(self) -> Manifest:
        """What the version in use says about itself."""
        return self._generation.version.manifest

    @property
    def encoder(self) -> EncoderFacts:
        """The encoder that made the vectors."""
        return self.manifest.encoder

    @property
    def version(self) -> str:
        """Name of the version in use."""
        return self.manifest.version

    @property
    def capabilities(self) -> "Capabilities":
        """All that can be promised of changes."""
        from anykey.index.changes import Capabilities

        return Capabilities(numbers_changes=True, is_atomic=True, remembers_requests=True, puts_back=True)

    def check(self) -> None:
        """Makes sure that what is open can be searched; opens again what was damaged or replaced, once it is sound.

        Raises:
            IndexCorruptError: a file is missing or damaged; names it.
            OSError: the store cannot be read.
        """
        generation = self._acquire()
        with ExitStack() as stack:
            stack.callback(generation.release)
            generation.health.check()
        if generation.health.is_outdated:
            self._move_on(anew=True)
            if self._generation is generation:
                raise IndexCorruptError(generation.version.store_path, "it was replaced by one that cannot be opened")

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        with_vectors: bool = False,
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """Finds the `k` best keys of the scope for each query; equal scores of an exact search by time of change.

        Raises:
            DeadlineExceededError: the answer is no longer wanted; its thread is free again a moment after the deadline.
            KeyCorruptError: a hit's record is damaged; searches that do not find this key are answered.
            InvalidSearchError: `k` is below 1, the vectors have another width or are no unit vectors, there is no such
                pool or modality, or a calibrated index is not told the queries' modalities.
            IndexCorruptError: the store turns out to be damaged.
        """
        with self.moment(deadline=deadline) as moment:
            return moment.search(
                vectors_QD, k, scope, exact=exact, query_modalities=query_modalities, with_vectors=with_vectors
            )

    @contextmanager
    def moment(self, snapshot: str | None = None, *, deadline: Deadline = NEVER) -> Iterator[FaissMoment]:
        """The index at one moment, for the length of the block, in the thread that asks.

        Args:
            snapshot: Of an earlier moment, which was kept or is still that of now; now when absent.
            deadline: Until when the answers are wanted.

        Raises:
            SnapshotExpiredError: that moment is no longer kept, or never was.
            SnapshotRefusedError: it can be no snapshot.
            DeadlineExceededError: the answers are no longer wanted.
            IndexCorruptError: a file is damaged, or turns out to be in the block.
        """
        with ExitStack() as stack:
            yield self._enter(stack, deadline) if snapshot is None else self._enter_again(stack, snapshot, deadline)

    def make_writable(self, wanted: bool) -> bool:
        """Takes the lock that changing keys needs, with what `open` was told for a writer, or gives it back.

        To be called by one thread at a time, and to give the lock back while no thread changes keys.

        Returns:
            Whether keys may be changed from now on. The lock is kept while a version is made in the background.

        Raises:
            IndexLockedError: another process, or another object of this one, has it open for writing; says who.
            EncoderMismatchError: another encoder's version has been published, which this object does not search.
        """
        writer = self._writer
        if wanted and writer is None:
            self._writer = self._opened_writer()
        elif not wanted and writer is not None and not writer.is_folding:
            self._writer = None
            writer.close()
        return self._writer is not None

    def upsert(self, keys: Sequence[NewKey]) -> None:
        """Stores keys in place of those of the same names, all or nothing; on disk when it returns.

        Raises:
            InvalidKeyError: a key cannot be stored; says which and why. Nothing was changed.
            ReadOnlyError: the index was opened for reading.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        self._checked_writer().upsert(keys, self.manifest.encoder.width)

    def load_records(
        self, records: "Iterable[Record]", options: "FoldOptions | None" = None, report: "Report | None" = None
    ) -> Manifest:
        """Stores many keys that have been checked, and publishes a version of all: readers see all of it or nothing.

        Args:
            records: The keys; read one by one.
            options: How versions are derived from now on; as before when absent.
            report: Told of the search structure's progress, if anybody is.

        Raises:
            ReadOnlyError: the index was opened for reading.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        manifest = self._checked_writer().load(records, options, report)
        self._follow()
        return manifest

    def delete(self, keys: Collection[str]) -> int:
        """Deletes keys, all or nothing, on disk when it returns; gives the number that were there.

        Raises:
            ReadOnlyError: the index was opened for reading.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        require_names(keys, "the keys to delete")
        return self._checked_writer().commit([], [key for key in dict.fromkeys(keys) if is_unicode(key)])

    def apply(
        self, changes: "Sequence[Change]", *, atomic: bool = False, request: "RequestKey | None" = None
    ) -> "Applied":
        """Makes changes of single keys in their order, in one transaction, on disk when it returns.

        Raises:
            RequestMismatchError: another request was made under that name. Nothing was changed.
            ReadOnlyError: the index was opened for reading.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        writer = self._checked_writer()
        return writer.apply(changes, self.manifest.encoder.width, atomic=atomic, request=request)

    def delete_scope(
        self,
        scope: Scope,
        *,
        dry_run: bool = False,
        request: "RequestKey | None" = None,
        deadline: Deadline = NEVER,
        pause: "Callable[[Applied], None] | None" = None,
    ) -> "Applied":
        """Deletes the keys that are in the scope at one moment, all or nothing, on disk when it returns.

        No other change is made between the look at the scope and the deletion. With `pause`, that holds for up to
        10,000 keys; of more, a key that is stored anew between two pieces stays.

        Raises:
            ReadOnlyError: the index was opened for reading.
            OSError: the disk is full or not writable. Nothing was changed, or no more than `pause` was told.
        """
        writer = self._checked_writer()
        if not dry_run:
            stored = [] if pause is None else self._stored_in(scope, deadline)
            if pause is None or len(stored) <= MOST_DELETED_AT_ONCE:
                return writer.delete_found(lambda: [name for name, _ in self._stored_in(scope, deadline)], request)
            return writer.delete_unchanged(stored, pause, request)
        from anykey.index.changes import Applied

        with self.moment(deadline=deadline) as moment:
            transaction, view = moment.transaction, moment.view
            view.check(scope)
            return Applied(num_deleted=view.count(scope, transaction, deadline), seq=transaction.seq)

    def remembered(self, request: "RequestKey") -> "Applied | None":
        """The answer to an earlier request of the same name, if it is remembered.

        Raises:
            RequestMismatchError: that was another request.
            ReadOnlyError: the index was opened for reading.
        """
        return self._checked_writer().remembered(request)

    def compact(self, options: "FoldOptions | None" = None, report: "Report | None" = None) -> Manifest:
        """Folds all changes into a new version, unless there is nothing new, and gives the published one's manifest.

        Args:
            options: How versions are derived from now on; as before when absent.
            report: Told of the search structure's progress, if anybody is.

        Raises:
            ReadOnlyError: the index was opened for reading.
            OSError: the disk is full or not writable; the published version stays.
        """
        manifest = self._checked_writer().compact(options, report)
        self._follow()
        return manifest

    def tune(self, queries: "TuningQueries | None", report: "Report | None" = None) -> Manifest:
        """Chooses the search structure anew, measured with real queries; later versions will be measured with them too.

        Args:
            queries: The queries; keys of the index when absent.
            report: Told of the search structure's progress, if anybody is.

        Raises:
            ReadOnlyError: the index was opened for reading.
            InvalidStructureError: the queries cannot be used. Nothing was changed.
            OSError: the disk is full or not writable. Nothing was changed.
        """
        manifest = self._checked_writer().tune(queries, report)
        self._follow()
        return manifest

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """Looks a key up; raises `KeyNotFoundError`."""
        with self.moment() as moment:
            return moment.get(key, with_vector=with_vector)

    def vector(self, key: str) -> NDArray[np.float32]:
        """The stored unit vector `[D]` of a key; raises `KeyNotFoundError`."""
        with self.moment() as moment:
            return moment.transaction.vector(key)

    def image(self, key: str, position: int = 0) -> StoredImage:
        """Gives one image of a key, as it came.

        Args:
            key: The key.
            position: Which of its images, from 0.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
            ImageUnavailableError: the index only refers to the image, which cannot be read, or may not be; the class
                says why.
        """
        return self.find_image(key, position).read()

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """Looks one image of a key up; one that the index only refers to is read later, outside of any transaction.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
        """
        from anykey.index.store.image_roots import found_image

        with self.moment() as moment:
            image = moment.transaction.image(key, position)
        return found_image(image, key, self._directory.path, self._named_roots)

    def scan(self, after: str | None = None) -> Iterator[StoredKey]:
        """All keys in the order of their names (by code point), those after `after` only."""
        check_after(after)
        while True:
            with self.moment() as moment:
                page = moment.transaction.page(after)
            if not page:
                return
            yield from page
            after = page[-1].key

    def page(
        self, after: str | None = None, limit: int = 100, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER
    ) -> list[StoredKey]:
        """The first keys of a scope by name (by code point), at most `limit` and those after `after` only."""
        check_after(after)
        limit = check_limit(limit)
        with self.moment(deadline=deadline) as moment:
            transaction, view = moment.transaction, moment.view
            if after is not None and scope.pool is not None and scope.pool not in view.pools:
                return []  # its last keys left it since the page before
            view.check(scope)
            if scope == EVERYTHING:
                return transaction.page(after, limit)
            return transaction.page_within(after, limit, view.seqs_in(scope, transaction, deadline))

    def count(self, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER) -> int:
        """Number of keys in the scope; raises `InvalidSearchError` for a pool or modality that does not exist."""
        with self.moment(deadline=deadline) as moment:
            return moment.count(scope)

    def info(self) -> IndexInfo:
        """What the index is at this moment."""
        from anykey.index.store.image_roots import roots_in_force

        with self.moment() as moment:
            roots = roots_in_force(self._directory.path, self._named_roots).roots
            failure = None if self._writer is None else self._writer.fold_failure
            return info_of(moment.view, moment.transaction, failure, roots, is_writable=self._writer is not None)

    def held(self) -> list[Held]:
        """What is held of the version that answered last, of its store, and of the keys that came since."""
        while self._is_open:
            generation = self._generation
            if generation.acquire():
                try:
                    return generation.held()
                finally:
                    generation.release()
        return []

    def close(self) -> None:
        """Releases files and lets writers delete the version; no thread may be in a call. Repeating it is fine."""
        with self._close_lock:
            if self._is_open:
                self._is_open = False
                self._kept.close()
                self._generation.release()  # first, for a store that is read cannot be closed as one file
                if self._writer is not None:
                    self._writer.close()

    def _stored_in(self, scope: Scope, deadline: Deadline) -> list[tuple[str, int]]:
        """Names of the keys in a scope, each with the number of the change that stored it."""
        with self.moment(deadline=deadline) as moment:
            transaction, view = moment.transaction, moment.view
            view.check(scope)
            return transaction.named(view.seqs_in(scope, transaction, deadline))

    def __enter__(self) -> "FaissIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _enter(self, stack: ExitStack, deadline: Deadline) -> FaissMoment:
        """The index as it is now, until the stack is left."""
        give_up_s = time.monotonic() + self._switch_s
        while True:
            deadline.check()
            generation = self._acquire()
            with ExitStack() as entered:
                entered.callback(generation.release)
                try:
                    moment = entered.enter_context(generation.moment(time.monotonic() < give_up_s, deadline))
                except SupersededError:
                    time.sleep(SWITCH_POLL_S)  # another thread may be opening the newer version
                    continue
                stack.push(entered.pop_all())
                transaction, view = moment
                return FaissMoment(generation, view, transaction, self._kept, deadline)

    def _enter_again(self, stack: ExitStack, snapshot: str, deadline: Deadline) -> FaissMoment:
        """The index as it was at a moment that was kept, or that is still now, until the stack is left.

        What is kept is read by one thread at a time, so that it is asked only where there were changes since.
        """
        check_token(snapshot)
        generation = self._acquire()
        with ExitStack() as held:
            held.callback(generation.release)
            is_now = self._kept.is_of(snapshot, generation, generation.view)
        if is_now or snapshot not in self._kept:
            with ExitStack() as entered:
                moment = self._enter(entered, deadline)
                if self._kept.is_of(snapshot, moment.generation, moment.view):
                    stack.push(entered.pop_all())
                    return moment
        kept = stack.enter_context(self._kept.moment(snapshot, deadline))
        if kept is None:
            raise self._kept.expired(snapshot)
        return FaissMoment(*kept, self._kept, deadline)

    def _acquire(self) -> Generation:
        """The published generation, kept open until it is released; the thread uses the cores that it may."""
        if self._search_cores is not None:
            use_cores(self._search_cores)
        self._follow()
        while True:
            generation = self._generation
            if generation.acquire():
                return generation

    def _published_generation(self) -> Generation | None:
        """The generation that is open, if no other version has been published since."""
        is_latest = self._is_open and self._directory.current_stamp() == self._seen_stamp
        return self._generation if is_latest else None

    def _follow(self) -> None:
        if not self._is_open:
            raise ValueError(f"index {self._directory.path} is closed")
        if self._directory.current_stamp() != self._seen_stamp:
            self._move_on()

    def _move_on(self, *, anew: bool = False) -> None:
        """Opens the version that is published, if it is another or `anew`; what cannot be used changes nothing."""
        if not self._switch_lock.acquire(blocking=False):
            return  # another thread is at it; this call is answered from what is open
        try:
            stamp = self._directory.current_stamp()
            is_tried_later = stamp == self._failed_stamp and not self._back_off.is_due
            if not anew and (stamp == self._seen_stamp or is_tried_later):
                return
            newer = self._open_generation()
            if newer.version.manifest.encoder.fingerprint != self.manifest.encoder.fingerprint:
                self._seen_stamp = newer.version.stamp
                newer.release()
                logger.warning("version %s is of another encoder; open the index again", newer.version.manifest.version)
                return
            older, self._generation, self._seen_stamp = self._generation, newer, newer.version.stamp
            self._back_off.succeeded()
            older.release()
        except (SearchIndexError, OSError):
            self._failed_stamp = stamp
            self._back_off.failed()
            logger.exception(
                "cannot open the version published at %s; staying with the one in use", self._directory.path
            )
        finally:
            self._switch_lock.release()

    def _opened_writer(self) -> "Writer":
        writer = self._open_writer()
        try:
            self._follow()
            self.encoder.check(writer.encoder.fingerprint, writer.encoder.width, writer.encoder.fusion)
        except BaseException:
            writer.close()
            raise
        return writer

    def _checked_writer(self) -> "Writer":
        if self._writer is None:
            holder = self._directory.writer()
            raise ReadOnlyError(
                f"index {self._directory.path} was opened for reading; open it with writable=True", holder
            )
        self._follow()  # or old versions could not be deleted while nothing is searched for
        return self._writer


def _absolute(image_roots: Sequence[str]) -> list[str]:
    from anykey.index.referred import root_of

    return list(map(root_of, image_roots))


def _open_writer(index_dir: Path, compact_after: int, gpu: GpuUse, job: str, fold_in: "FoldIn") -> "Writer":
    from anykey.index.publish.directory import WritableDirectory
    from anykey.index.publish.writer import Writer

    return Writer(WritableDirectory(index_dir), compact_after, gpu, job, fold_in)
