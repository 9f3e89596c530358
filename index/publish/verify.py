"""Looking at every byte of an index, and deriving anew what is derived.

Shape legend: B = batch, D = width.
"""

import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from anykey.index.errors import IndexCorruptError, IndexFormatError, IndexNotFoundError, KeyCorruptError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, provenance_of, publish_next, remove_unneeded
from anykey.index.queries import is_unicode
from anykey.index.search.version_files import VersionFiles
from anykey.index.store.deletions import read_deleted
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.retired import check_endings, has_retired
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage, open_read_only, reading_any_text
from anykey.index.store.store_reader import ReadTransaction, StoreReader
from anykey.index.store.store_records import Table, check_refusals, read_records
from anykey.index.store.versions import OpenVersion, check_file, open_published
from anykey.index.store.word_table import words_damage
from anykey.index.vectors.structures import ON_CPU, GpuUse

BATCH_SIZE = 4096
MOST_NAMED = 100  # damaged keys
logger = logging.getLogger(__name__)


def verify_index(index_dir: Path, advance: Callable[[int], None] = lambda count: None) -> list[IndexCorruptError]:
    """Reads every file of the published version and every record of its store, and compares the two.

    Args:
        index_dir: The index directory.
        advance: Told how many keys have been read since it was last told.

    Returns:
        What is damaged; empty for a sound index.

    Raises:
        IndexNotFoundError: nothing is published there.
        IndexFormatError: this release does not read its format.
    """
    try:
        version = open_published(index_dir, files=[])
    except IndexCorruptError as error:
        return [error]
    try:
        damage = list(_damaged_files(version))
        damage += damage_of_store(version.store_path, advance)
        damage += damage_of_retired(version.store_path, advance) if not damage else []
        damage += damage_of_words(version.store_path) if not damage else []
        if not damage:
            damage += _differences(version)
        return damage
    finally:
        version.release()


def repair_index(index_dir: Path, gpu: GpuUse = ON_CPU) -> Manifest:
    """Derives a new version from the store, whatever is damaged of the one that is published.

    Args:
        index_dir: The index directory.
        gpu: GPUs that a structure is chosen for, beside the CPU's.

    Returns:
        The new version's manifest.

    Raises:
        IndexNotFoundError: there is no store.
        IndexCorruptError: the store itself is damaged, which nothing can be derived from.
        IndexLockedError: the index has a writer.
    """
    directory = WritableDirectory(index_dir)
    if not directory.store_names():
        raise IndexNotFoundError(f"no index at {index_dir}: there is no store to derive a version from")
    with directory.locked_for_writing("verify"):
        directory.recover()
        store_path, provenance = _what_is_left(directory)
        for error in damage_of_store(store_path):
            raise error
        with contextlib.closing(Store(store_path)) as store:
            for error in damage_of_retired(store_path):
                logger.warning("%s; what earlier versions had is given up, and cannot be gone back to", error)
                store.forget_retired()
            for error in damage_of_words(store_path):
                logger.warning("%s", error)
                with store.transaction():
                    store.words.rebuild()
            options = FoldOptions.of(store.meta)
            manifest = publish_next(directory, store_path, provenance, options, gpu=gpu)
            remove_unneeded(directory, store)
    return manifest


def _what_is_left(directory: WritableDirectory) -> tuple[Path, Provenance]:
    """The store to derive from, and where its keys come from, as far as that can still be told."""
    try:
        version = open_published(directory.path, files=[])
    except (IndexCorruptError, IndexFormatError, IndexNotFoundError):
        return directory.store_path(directory.store_names()[-1]), Provenance()
    try:
        return version.store_path, provenance_of(version.manifest, version.path)
    except IndexCorruptError:
        return version.store_path, Provenance(version.manifest.corpus, version.manifest.settings)
    finally:
        version.release()


def _damaged_files(version: OpenVersion) -> Iterator[IndexCorruptError]:
    for name in sorted(version.manifest.files):
        try:
            check_file(version.path, version.manifest, name, is_whole=True)
        except IndexCorruptError as error:
            yield error


def damage_of_store(path: Path, advance: Callable[[int], None] = lambda count: None) -> list[IndexCorruptError]:
    """The first damage that SQLite finds in the store, and the keys whose record its checksum shows to be damaged.

    After `MOST_NAMED` of them nobody looks further.
    """
    damage: list[IndexCorruptError] = []
    try:
        with naming_damage(path), contextlib.closing(open_read_only(path)) as db, reading_any_text(db):
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise IndexCorruptError(path, verdict)
            ReadTransaction(db, path).tuning_queries()
            check_refusals(db)
            deque(read_deleted(db), maxlen=0)
            damage.extend(_damaged_records(db, advance))
    except IndexCorruptError as error:
        damage.append(error)
    return damage


def damage_of_retired(path: Path, advance: Callable[[int], None] = lambda count: None) -> list[IndexCorruptError]:
    """The first damage of the records that are kept for earlier versions, which nothing else is derived from."""
    try:
        with naming_damage(path), contextlib.closing(open_read_only(path)) as db:
            if has_retired(db):
                check_endings(db)
                _read_all(db, advance, "retired")
    except IndexCorruptError as error:
        return [error]
    return []


def damage_of_words(path: Path) -> list[IndexCorruptError]:
    """Whether keys would be found by other words than theirs; what they are found by is derived from them."""
    with naming_damage(path), contextlib.closing(open_read_only(path)) as db:
        db.execute("BEGIN")
        error = words_damage(db)
    return [] if error is None else [error]


def _read_all(db: sqlite3.Connection, advance: Callable[[int], None], table: Table) -> None:
    num_read = 0
    for num_read, _ in enumerate(read_records(db, "true", table=table), start=1):
        if num_read % BATCH_SIZE == 0:
            advance(BATCH_SIZE)
    advance(num_read % BATCH_SIZE)


def _damaged_records(db: sqlite3.Connection, advance: Callable[[int], None]) -> Iterator[KeyCorruptError]:
    num_read, num_named, seq = 0, 0, -1
    while num_named < MOST_NAMED:
        try:
            for _ in read_records(db, "row > ?", (seq,)):
                num_read += 1
                if num_read % BATCH_SIZE == 0:
                    advance(BATCH_SIZE)
            break
        except KeyCorruptError as error:
            yield error
            num_named += 1
            if not is_unicode(error.key):  # its name is damaged: there is no telling where to go on
                break
            (seq,) = db.execute("SELECT min(row) FROM keys WHERE row > ? AND key = ?", (seq, error.key)).fetchone()
            if seq is None:
                break
    advance(num_read % BATCH_SIZE)


def _differences(version: OpenVersion) -> list[IndexCorruptError]:
    """Whether the version's keys and vectors are those of the store, less what went since."""
    reader = StoreReader(version.store_path)
    files = VersionFiles.open(version)
    try:
        reader.check(version.manifest)
        with reader.transaction() as transaction:
            return list(_compare(version, files, transaction))
    except IndexCorruptError as error:
        return [error]
    finally:
        files.close()
        reader.close()


def _compare(version: OpenVersion, files: VersionFiles, transaction: ReadTransaction) -> Iterator[IndexCorruptError]:
    covered = transaction.seqs()
    covered = covered[covered <= version.manifest.seq]
    removed = transaction.removed_since(version.manifest.seq)
    expected = np.setdiff1d(files.seqs, removed)
    if not np.array_equal(covered, expected):
        yield IndexCorruptError(version.path, f"it has other rows than its store: {len(expected)} for {len(covered)}")
        return
    positions = files.positions_of_seqs(covered)
    for vectors_BD, codes_B in transaction.vectors_by_modality(BATCH_SIZE):
        here, positions = positions[: len(vectors_BD)], positions[len(vectors_BD) :]
        expected_BD = files.as_stored(vectors_BD[: len(here)], codes_B[: len(here)])
        if not np.array_equal(files.vectors(here), expected_BD):
            yield IndexCorruptError(version.path, f"its vectors differ from the store's {version.store_path}")
            return
