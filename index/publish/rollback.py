"""Going back to an earlier version: its keys, texts, images, vectors and pools, as a new version.

What was live when the version was made, and was replaced or deleted since, is stored again; what came since is deleted.
These are changes like any others: they take the next numbers of the sequence, one transaction holds them all together
with a new version, readers move on to it, and a kill leaves the index as it was or as it is to be. Nothing is lost by
going back either: what was there before is a version that is kept, where two are, to which the same command leads.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anykey.index.errors import IndexCorruptError, LiveKeysError, UnusableOptionError, VersionLostError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import provenance_of, publish_next, publish_with_changes
from anykey.index.search.version_files import ROWS_NAME, read_seqs
from anykey.index.store.deletions import deleted_at
from anykey.index.store.image_roots import record_corpus, roots_of_version
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.records import Record
from anykey.index.store.retired import LIVE_AT, check_endings, know_retired, seqs_at
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage, open_read_only, read_meta
from anykey.index.store.store_reader import check_store
from anykey.index.store.store_records import PATCHED_NAME, read_records
from anykey.index.store.versions import check_file, open_published
from anykey.index.vectors.structures import ON_CPU, GpuUse
from anykey.program.progress import Report, quietly

PUT_BACK_NAME = "put_back"  # in the store
PAGE_RECORDS = 64  # whole records in memory at once
PAGE_KEYS = 1000


@dataclass(frozen=True)
class RollbackReport:
    """What going back to a version does.

    Attributes:
        target: The version that is gone back to.
        num_back: Keys that come back.
        num_changed: Keys that are there and get back what they had.
        num_gone: Keys that go, as they came later.
        num_live: How many keys were stored or deleted live since then, which is undone.
        published: The version that was published before.
        manifest: The new version; `None` if nothing was to be done, or only to be told.
    """

    target: Manifest
    num_back: int
    num_changed: int
    num_gone: int
    num_live: int
    published: Manifest
    manifest: Manifest | None = None

    @property
    def num_changes(self) -> int:
        """How many keys are changed."""
        return self.num_back + self.num_changed + self.num_gone


def roll_back(
    index_dir: Path,
    to: str | None = None,
    *,
    undo_live: bool = False,
    dry_run: bool = False,
    report: Report = quietly,
    gpu: GpuUse = ON_CPU,
) -> RollbackReport:
    """Publishes a version with the keys of an earlier one.

    Args:
        index_dir: The index directory.
        to: The version; the one before the published one when absent.
        undo_live: Whether what was stored or deleted live since then may be undone.
        dry_run: Only tells what would be done; needs no writer to stop.
        report: Told of the search structure's progress.
        gpu: GPUs that the new version is made with.

    Raises:
        UnusableOptionError: it is not told which version is meant.
        VersionLostError: there is no such version, or the store no longer has all of its keys.
        LiveKeysError: what was stored live since would be undone, and may not be.
        IndexNotFoundError: nothing is published there.
        IndexCorruptError: the store is damaged.
        IndexLockedError: the index has a writer.
        OSError: the disk is full or not writable. Nothing was changed.
    """
    directory = WritableDirectory(Path(index_dir))
    if dry_run:
        return _Way.find(directory, to).report
    open_published(directory.path, files=[]).release()  # or else a lock file would be left where no index is
    with directory.locked_for_writing("rollback"):
        directory.recover()
        way = _Way.find(directory, to)
        if way.report.num_live and not undo_live:
            raise LiveKeysError(
                f"{way.report.num_live:,} keys of {index_dir} were stored or deleted live after version "
                f"{way.report.target.version} was made, which would be undone; --undo-live undoes it"
            )
        return way.go(directory, report, gpu)


@dataclass(frozen=True)
class _Way:
    """From what is there to a version.

    Attributes:
        is_unfolded: Whether the published version's store has changes that it does not cover.
        report: What is to be done.
    """

    is_unfolded: bool
    report: RollbackReport

    @classmethod
    def find(cls, directory: WritableDirectory, to: str | None) -> "_Way":
        """Looks up the version, and whether all of it is there."""
        version = open_published(directory.path, files=[])
        version.release()
        published = version.manifest
        with _reading(directory, published) as db:
            seq = int(db.execute("SELECT value FROM meta WHERE name = 'seq'").fetchone()[0])
            target = _target(directory, published, seq, to)
            since = _first_seq(directory, published) if target.store != published.store else target.seq
            live = _live_keys(db, since)
        with _reading(directory, target) as db:
            check_endings(db)
            live |= _live_keys(db, target.seq)  # in a store that was left, they were changed before it was
            _require_records(directory, target, db)
            num_back, num_changed, num_gone = _count(db, target.seq)
        report = RollbackReport(target, num_back, num_changed, num_gone, len(live), published)
        return cls(seq != published.seq, report)

    def go(self, directory: WritableDirectory, report: Report, gpu: GpuUse) -> RollbackReport:
        """Does it, if there is anything to do."""
        target = self.report.target
        if not self.report.num_changes and target.version == self.report.published.version:
            return self.report
        if self.is_unfolded:  # so that there is a way back to what is there now
            self._publish_present(directory, report, gpu)
        roots = roots_of_version(directory.path, target.version)
        record_corpus(directory.path, roots, keep=True)
        path = directory.store_path(target.store)
        provenance = provenance_of(target, directory.version_dir(target.version))
        deleted = deleted_at(directory.version_dir(target.version), target)
        options = target.options.model_copy(update={"keep_versions": self.report.published.options.keep_versions})
        with naming_damage(path), contextlib.closing(Store(path)) as store:

            def changes() -> bool:
                after = store.seq
                _put_back(store, target.seq)
                _note_put_back(store, after, target.seq, directory.covered_seqs(target.store))
                store.note_deleted(deleted)  # or the next build would store them again
                return True

            manifest = publish_with_changes(directory, store, changes, provenance, options, report, gpu)
        if manifest is not None:
            record_corpus(directory.path, roots, keep=False, version=manifest.version)
        return replace(self.report, manifest=manifest)

    def _publish_present(self, directory: WritableDirectory, report: Report, gpu: GpuUse) -> None:
        path = directory.store_path(self.report.published.store)
        provenance = provenance_of(self.report.published, directory.version_dir(self.report.published.version))
        with naming_damage(path), contextlib.closing(Store(path)) as store:
            options = FoldOptions.of(store.meta)
        publish_next(directory, path, provenance, options, report, gpu)


def _target(directory: WritableDirectory, published: Manifest, seq: int, to: str | None) -> Manifest:
    """The version that is meant."""
    manifests = {manifest.version: manifest for manifest in directory.manifests()}
    kept = ", ".join(f"{name} ({facts.created_at}, {facts.num_keys:,} keys)" for name, facts in manifests.items())
    if to is not None:
        if to not in manifests:
            raise VersionLostError(f"{directory.path} has no version {to} that can be read; it has {kept}")
        return manifests[to]
    if seq != published.seq:
        raise UnusableOptionError(
            f"{directory.path} was changed after its version {published.version} was published: say with --to to which "
            f"version to go back; it has {kept}"
        )
    earlier = [facts for name, facts in manifests.items() if int(name) < int(published.version)]
    if not earlier:
        raise VersionLostError(f"{directory.path} has no version before {published.version} to go back to")
    return earlier[-1]


def _first_seq(directory: WritableDirectory, published: Manifest) -> int:
    """What the first version of a store covers that is still kept."""
    return directory.covered_seqs(published.store)[0]


@contextlib.contextmanager
def _reading(directory: WritableDirectory, manifest: Manifest) -> Iterator[sqlite3.Connection]:
    """The store of a version, as it is at one moment."""
    path = directory.store_path(manifest.store)
    check_store(path, manifest)
    with naming_damage(path), contextlib.closing(open_read_only(path)) as db:
        know_retired(db)
        db.execute("BEGIN")
        yield db


def _require_records(directory: WritableDirectory, target: Manifest, db: sqlite3.Connection) -> None:
    """Makes sure that a store has every record that a version covers, and no other of that time."""
    version_dir = directory.version_dir(target.version)
    check_file(version_dir, target, ROWS_NAME, is_whole=True)
    wanted = read_seqs(version_dir / ROWS_NAME, target.num_keys)
    found = seqs_at(db, target.seq)
    if np.array_equal(wanted, found):
        return
    if num_missing := len(np.setdiff1d(wanted, found, assume_unique=True)):
        raise VersionLostError(
            f"cannot go back to version {target.version} of {directory.path}: of its {target.num_keys:,} keys the "
            f"store no longer has {num_missing:,} as they were, since a release that keeps no earlier records changed "
            "them, `repair` gave them up, or it is a restored snapshot, which has none"
        )
    raise IndexCorruptError(version_dir, "its store has other keys of that time than it names")


def _count(db: sqlite3.Connection, seq: int) -> tuple[int, int, int]:
    """How many keys come back, are changed, and go."""
    is_there = "EXISTS (SELECT 1 FROM keys WHERE keys.key = retired.key)"
    ended = _number(db, f"SELECT count(*) FROM retired WHERE {LIVE_AT}", seq, seq)
    num_changed = _number(db, f"SELECT count(*) FROM retired WHERE {LIVE_AT} AND {is_there}", seq, seq)
    num_newer = _number(db, "SELECT count(*) FROM keys WHERE row > ?", seq)
    return ended - num_changed, num_changed, num_newer - num_changed


def _live_keys(db: sqlite3.Connection, seq: int) -> set[str]:
    """Keys that are as somebody made them live after change number `seq`, stored or deleted."""
    is_away = "NOT EXISTS (SELECT 1 FROM keys WHERE keys.key = retired.key)"
    is_live = f"(origin = 'live' OR json_extract(stamps, '$.{PATCHED_NAME}') IS NOT NULL)"
    stored = db.execute(f"SELECT key, row FROM keys WHERE row > ? AND {is_live}", (seq,))
    deleted = f"SELECT key FROM retired WHERE {LIVE_AT} AND ended_by = 'live' AND {is_away}"
    put_back = [(after, last) for after, last, then in _put_back_before(read_meta(db)) if then <= seq]
    live = {key for key, number in stored if not any(after < number <= last for after, last in put_back)}
    return live | {key for (key,) in db.execute(deleted, (seq, seq))}


def _number(db: sqlite3.Connection, query: str, *parameters: int) -> int:
    return int(db.execute(query, parameters).fetchone()[0])


def _put_back(store: Store, seq: int) -> None:
    """Makes a store hold what it held after change number `seq`, in the transaction of the caller."""
    with store.transaction() as db:
        last = store.seq
        store.commit(_retired_records(db, seq))
        store.commit([], gone=_keys_between(db, seq, last), by="rollback")


def _note_put_back(store: Store, after: int, then: int, covered_seqs: list[int]) -> None:
    """Notes that the changes since `after` stored again what was live after change `then`: nobody did that live."""
    oldest = min(covered_seqs, default=0)
    known = [entry for entry in _put_back_before(store.meta) if entry[1] > oldest]
    store.note(**{PUT_BACK_NAME: json.dumps([*known, [after, store.seq, then]])})


def _put_back_before(meta: dict[str, Any]) -> list[list[int]]:
    """What earlier rollbacks noted of a store: the change before their first, their last, and which they led to."""
    found: list[list[int]] = json.loads(meta.get(PUT_BACK_NAME, "[]"))
    return found


def _retired_records(db: sqlite3.Connection, seq: int) -> Iterator[Record]:
    """Records that were live then and no longer are; the table may grow meanwhile."""
    after = -1
    query = f"SELECT row FROM retired WHERE {LIVE_AT} AND row > ? ORDER BY row LIMIT {PAGE_RECORDS}"
    while page := [number for (number,) in db.execute(query, (seq, seq, after))]:
        after = page[-1]
        where = f"{LIVE_AT} AND row BETWEEN ? AND ?"
        yield from list(read_records(db, where, (seq, seq, page[0], after), "retired"))


def _keys_between(db: sqlite3.Connection, seq: int, last: int) -> Iterator[str]:
    """Keys that were stored after one change, up to another; they may be deleted meanwhile."""
    query = f"SELECT row, key FROM keys WHERE row > ? AND row <= ? ORDER BY row LIMIT {PAGE_KEYS}"
    while page := db.execute(query, (seq, last)).fetchall():
        seq = page[-1][0]
        yield from (key for _, key in page)
