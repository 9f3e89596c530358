"""Folding: the files of the next version from the store. A build ends with it; compaction is nothing else.

Shape legend: B = batch, D = width, N = keys, Q = queries.
"""

import itertools
import json
import logging
import platform
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.errors import IndexCorruptError, UnannouncedError
from anykey.index.filtering.postings import write_postings
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.structure_choice import structure_of
from anykey.index.search.version_files import CALIBRATION_NAME, FIELDS_NAME, ROWS_NAME, VECTORS_NAME
from anykey.index.store.deletions import list_deleted
from anykey.index.store.manifest import AUTO, FORMAT_VERSION, EncoderFacts, FoldOptions, Manifest, file_facts
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage, unusable
from anykey.index.store.store_reader import ReadTransaction, StoreReader
from anykey.index.vectors.calibration import Calibration
from anykey.index.vectors.exact import write_exact
from anykey.index.vectors.structure_kinds import require_possible
from anykey.index.vectors.structures import ON_CPU, GpuUse
from anykey.program.files import naming_target
from anykey.program.progress import Report, quietly
from anykey.sources.errors import InvalidRowError, UnreadableStretchError

BAD_ROWS_NAME = "bad_rows.jsonl"
BATCH_SIZE = 4096
logger = logging.getLogger(__name__)

Attributes = tuple[str, Sequence[str], dict[str, Any]]  # of a key: what filters look at


@dataclass(frozen=True)
class Provenance:
    """What a version's manifest says that its store does not; compaction hands it on.

    Attributes:
        corpus: Corpus paths, as they were given to the last build.
        settings: That build's settings.
        bad_rows: The rows it skipped.
        previous: The version before, whose choice of a search structure may still be good.
    """

    corpus: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    bad_rows: Sequence[InvalidRowError] = ()
    previous: Manifest | None = None


def fold(
    directory: WritableDirectory,
    moment: AbstractContextManager[ReadTransaction],
    store_name: str,
    provenance: Provenance,
    options: FoldOptions,
    report: Report = quietly,
    gpu: GpuUse = ON_CPU,
) -> Manifest:
    """Writes the files of the next version from a store as it is at one moment, into `folding/`.

    Args:
        directory: Where the index is.
        moment: The store at that moment; left as soon as all is read.
        store_name: What it is called when the version is published.
        provenance: What else its manifest says.
        options: How it is derived.
        report: Told what is being done for the search structure, how much of it is done, and of how much.
        gpu: GPUs that help, and whose own search structures are chosen and measured too.

    Returns:
        The manifest, to be published.

    Raises:
        IndexCorruptError: the store is damaged.
        InvalidStructureError: the search structure that the options name is impossible.
        OSError: the disk is full or not writable.
    """
    folder = directory.folding_dir
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts = _Counts()
    with moment as transaction:
        seq, meta = transaction.seq, transaction.meta()
        encoder = encoder_facts(meta)
        if options.structure != AUTO:
            require_possible(options.structure, encoder.width)  # also without keys, for which nothing is built yet
        _write_seqs(folder / ROWS_NAME, transaction)
        list_deleted(folder, transaction.deleted())
        vectors, queries_QD = _as_searched(transaction, options, folder)
        write_exact(folder / VECTORS_NAME, vectors, encoder.width, meta["vector_type"])
        _write_fields(folder / FIELDS_NAME, counts.counted(transaction.attributes()))
    structure = None
    if counts.num_keys:
        structure = structure_of(folder, counts.num_keys, provenance.previous, options, queries_QD, report, gpu)
    (folder / BAD_ROWS_NAME).write_text("".join(bad_row_lines(provenance.bad_rows)), encoding="utf-8")
    return Manifest(
        format_version=FORMAT_VERSION,
        version=directory.next_name(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=encoder,
        num_keys=counts.num_keys,
        modalities={modality: counts.of_modality[modality] for modality in Modality},
        pools=dict(sorted(counts.of_pool.items())),
        num_bad_rows=len(provenance.bad_rows),
        store=store_name,
        store_id=meta["store_id"],
        options=options,
        structure=structure,
        seq=seq,
        files={path.name: file_facts(path) for path in sorted(folder.iterdir())},
        corpus=list(provenance.corpus),
        settings=dict(provenance.settings),
        libraries={
            "faiss": faiss.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
    )


def remove_unneeded(
    directory: WritableDirectory, store: Store, lock: AbstractContextManager[Any] | None = None
) -> None:
    """Deletes old versions, and what the store keeps for none but them.

    Args:
        directory: Where the index is.
        store: Its store.
        lock: Taken for each of several short changes of the store, so that others come between.

    Raises:
        IndexCorruptError: the store is damaged.
        OSError: something cannot be deleted; it is tried again after the next version.
    """
    lock = lock or nullcontext()
    directory.remove_old()
    seqs = directory.covered_seqs(store.path.parent.name)
    with lock, naming_damage(store.path):
        store.prune_removals(min(seqs, default=0))
    after: int | None = -1 if seqs else None
    while after is not None:
        with lock, naming_damage(store.path):
            after = store.prune_retired(seqs, after)


def publish_with_changes(
    directory: WritableDirectory,
    store: Store,
    changes: Callable[[], bool],
    provenance: Provenance,
    options: FoldOptions,
    report: Report = quietly,
    gpu: GpuUse = ON_CPU,
) -> Manifest | None:
    """Changes a store and publishes a version that covers the changes, both at once for every reader, or neither.

    This is how builds, loads, new embeddings, rollbacks and tunings publish, the first version of an index included.
    The version is complete before the changes are committed, and announced right after, so that no reader ever has
    to search many new keys that no version covers. After a kill between the two, `WritableDirectory.recover` announces
    it; before the first, it clears the version away.

    Args:
        directory: Where the index is.
        store: Its store.
        changes: Makes the changes; tells whether there is anything to publish.
        provenance: What else the version's manifest says.
        options: How it is derived.
        report: Told of the search structure's progress.
        gpu: As for `fold`.

    Returns:
        The version's manifest; `None` if there was nothing to publish.

    Raises:
        IndexCorruptError: the store is damaged.
        InvalidStructureError: the search structure that the options name is impossible. Nothing was changed.
        UnannouncedError: all was done but the last step.
        OSError: the disk is full or not writable. Nothing was changed.
    """
    with _clearing_up(directory), naming_damage(store.path), store.transaction() as db:
        seq = store.seq
        if not changes():
            return None
        if store.seq == seq:  # what is changed is not a key: by its number alone a store tells whether it was committed
            store.note(seq=seq + 1)
        moment = nullcontext(ReadTransaction(db, store.path))
        manifest = fold(directory, moment, store.path.parent.name, provenance, options, report, gpu)
        store.note(**options.facts())
        directory.complete(manifest)
    try:
        directory.announce(manifest.version)
    except OSError as error:
        raise UnannouncedError(
            f"the changes are stored, but version {manifest.version} of {directory.path}, which covers them, cannot be "
            f"announced ({error}); the next command that writes to the index does it"
        ) from error
    tidy_up(directory, store)
    return manifest


def publish_next(
    directory: WritableDirectory,
    store_path: Path,
    provenance: Provenance,
    options: FoldOptions,
    report: Report = quietly,
    gpu: GpuUse = ON_CPU,
    deriving: Callable[[], Manifest] | None = None,
) -> Manifest:
    """Publishes a version of a store of the index as it is now, while changes of it go on.

    Changes that came later are found in the store, as they would be without the version. After a kill,
    `WritableDirectory.recover` announces the version if it is complete. What earlier versions needed stays until
    `remove_unneeded`.

    Args:
        directory: Where the index is.
        store_path: The store.
        provenance: What else the version's manifest says.
        options: How it is derived.
        report: Told of the search structure's progress.
        gpu: As for `fold`.
        deriving: Does what `derive` does with all of these, elsewhere.

    Raises:
        IndexCorruptError: the store is damaged.
        InvalidStructureError: the search structure that the options name is impossible; what was published stays.
        OSError: the disk is full or not writable; what was published stays.
    """
    with _clearing_up(directory):
        manifest = deriving() if deriving else derive(directory, store_path, provenance, options, report, gpu)
        directory.publish(manifest)
    return manifest


def derive(
    directory: WritableDirectory,
    store_path: Path,
    provenance: Provenance,
    options: FoldOptions,
    report: Report = quietly,
    gpu: GpuUse = ON_CPU,
) -> Manifest:
    """Writes the files of the next version into `folding/` from a store as it is now; see `fold`."""
    with closing(StoreReader(store_path)) as reader:
        return fold(directory, reader.transaction(), store_path.parent.name, provenance, options, report, gpu)


def provenance_of(manifest: Manifest, version_dir: Path) -> Provenance:
    """Where the keys of a version come from.

    Raises:
        IndexCorruptError: its list of bad rows is missing or damaged.
    """
    return Provenance(manifest.corpus, manifest.settings, read_bad_rows(version_dir), manifest)


def encoder_facts(meta: Mapping[str, Any]) -> EncoderFacts:
    """The encoder that made a store's vectors, from what was noted in it."""
    return EncoderFacts(
        name=meta["name"],
        fingerprint=meta["fingerprint"],
        width=meta["width"],
        fusion=meta["fusion"],
        computed_in=json.loads(meta.get("computed_in", "[]")),
    )


def bad_row_lines(rows: Iterable[InvalidRowError]) -> Iterator[str]:
    """Bad rows as lines of JSON, as `bad_rows.jsonl` holds them."""
    for row in rows:
        is_unread = isinstance(row, UnreadableStretchError)
        yield json.dumps({"where": row.where, "key": row.key, "reason": row.reason, "unread": is_unread}) + "\n"


def read_bad_rows(version_dir: Path) -> list[InvalidRowError]:
    """The bad rows that a version's `bad_rows.jsonl` lists.

    Raises:
        IndexCorruptError: the file is missing or damaged.
        PermissionError: it may not be read.
    """
    path = version_dir / BAD_ROWS_NAME
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [_bad_row(**{"unread": False, **row}) for row in rows]  # earlier releases did not tell
    except PermissionError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise IndexCorruptError(path, str(error)) from error


def _bad_row(where: str, key: str | None, reason: str, unread: bool) -> InvalidRowError:
    return UnreadableStretchError(where, reason) if unread else InvalidRowError(where, reason, key)


def _as_searched(
    transaction: ReadTransaction, options: FoldOptions, folder: Path
) -> tuple[Iterator[NDArray[np.float32]], NDArray[np.float32] | None]:
    """All vectors, batch by batch, and the real queries `[Q, D]`, if there are any; centred, if that is asked for."""
    queries = transaction.tuning_queries()
    queries_QD = None if queries is None else queries.vectors_QD
    if options.calibrate == "none":
        return transaction.vectors(BATCH_SIZE), queries_QD
    calibration = Calibration.of(transaction.vectors_by_modality(BATCH_SIZE), transaction.meta()["width"])
    calibration.write(folder / CALIBRATION_NAME)
    vectors = itertools.starmap(calibration.apply, transaction.vectors_by_modality(BATCH_SIZE))
    if queries is not None:
        centred_QD = calibration.apply(queries.vectors_QD, queries.codes_Q)
        usable_QD = centred_QD[centred_QD.any(axis=1)]  # one that equals its modality's mean points nowhere
        queries_QD = usable_QD if len(usable_QD) else None
    return vectors, queries_QD


def _write_seqs(path: Path, transaction: ReadTransaction) -> None:
    """Writes the change numbers of all keys as a NumPy file, holding some of them in memory at a time."""
    facts = {"descr": "<i8", "fortran_order": False, "shape": (transaction.num_keys(),)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, facts)
        for seqs_B in transaction.seq_batches(BATCH_SIZE):
            file.write(seqs_B.astype("<i8").tobytes())


def _write_fields(path: Path, keys: Iterable[Attributes]) -> None:
    try:
        write_postings(path, keys)
    except sqlite3.Error as error:  # not of the store, which names its own
        raise unusable(path, error) from error


@contextmanager
def _clearing_up(directory: WritableDirectory) -> Iterator[None]:
    """Leaves no half of a version behind when the block fails, nor one of changes that were taken back.

    The disk may be full of it, which is said of its folder.
    """
    try:
        with naming_target(directory.folding_dir):
            yield
    except BaseException:
        with suppress(OSError):
            directory.clear_up()
        raise


def tidy_up(directory: WritableDirectory, store: Store) -> None:
    """Deletes what no version needs any more; all is done without it, and it is tried again with the next version."""
    try:
        remove_unneeded(directory, store)
    except (OSError, IndexCorruptError) as error:
        logger.warning("what earlier versions of %s needed is not all deleted: %s", directory.path, error)


class _Counts:
    """Keys per modality and pool, counted while they go by."""

    def __init__(self) -> None:
        self.num_keys = 0
        self.of_modality: Counter[str] = Counter()
        self.of_pool: Counter[str] = Counter()

    def counted(self, pages: Iterable[Sequence[Attributes]]) -> Iterator[Attributes]:
        return itertools.chain.from_iterable(map(self._count, pages))

    def _count(self, page: Sequence[Attributes]) -> Sequence[Attributes]:
        self.num_keys += len(page)
        self.of_modality.update([modality for modality, _, _ in page])
        self.of_pool.update([pool for _, pools, _ in page for pool in pools])
        return page
