"""An index embedded anew by another encoder, from what its own store holds: nothing else of its corpus is needed.

Keys keep their names, texts, metadata, pools and images, and whether a build stored them or somebody did live. They are
embedded and staged in a store of their own, and become live with its first version when all are there. A run can be
stopped at any time; the next one goes on from what was staged.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.item import Item
from anykey.index.errors import ImageUnavailableError, IndexExistsError, KeysNotEmbeddedError, UnusableOptionError
from anykey.index.jobs.embed import batches_ahead
from anykey.index.jobs.encoding import CheckpointSource, EncoderSource
from anykey.index.jobs.preconditions import check_structure
from anykey.index.jobs.staging import open_new_store
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, provenance_of, publish_with_changes
from anykey.index.referred import read_referred
from anykey.index.settings import ReembedSettings
from anykey.index.store.deletions import read_deleted
from anykey.index.store.image_roots import read_roots, record_corpus, record_named
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.records import Record
from anykey.index.store.staging import Staging
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage, open_read_only, read_meta
from anykey.index.store.store_reader import ReadTransaction, check_store
from anykey.index.store.store_records import read_records
from anykey.index.store.versions import OpenVersion, open_published
from anykey.index.vectors.structures import GpuUse
from anykey.program.progress import open_progress, progress
from anykey.program.settings import plain_console
from anykey.sources.errors import InvalidRowError
from anykey.sources.files.roots import ImageRoots

PAGE_RECORDS = 64
NAMES_SHOWN = 10


@dataclass(frozen=True)
class ReembedReport:
    """What was done.

    Attributes:
        manifest: The new version.
        num_embedded: Keys of the version that went through the encoder in this run.
        left_out: Keys that could not be embedded, with the reasons.
        num_queries: Real queries for tuning that the earlier encoder embedded, which are not kept.
    """

    manifest: Manifest
    num_embedded: int
    left_out: list[InvalidRowError] = field(default_factory=list)
    num_queries: int = 0


def reembed_index(
    settings: ReembedSettings, source: EncoderSource | None = None, console: Console | None = None
) -> ReembedReport:
    """Publishes an index with the same keys and the vectors of another encoder.

    Args:
        settings: Which index, which encoder, where to.
        source: The encoder; the checkpoint that the settings name when absent.
        console: Where progress is shown; stderr when absent.

    Raises:
        UnusableOptionError: the index has the vectors of this encoder already.
        KeysNotEmbeddedError: some keys cannot be embedded, and may not be left out. Nothing was published.
        IndexExistsError: there is an index at `output` already.
        IndexNotFoundError: there is no index.
        IndexCorruptError: its store is damaged.
        IndexLockedError: an index has another writer.
        EncoderError: the encoder cannot be loaded.
        OSError: the disk is full or not writable.
    """
    source = source or CheckpointSource(settings)
    console = console or plain_console(stderr=True)
    source.require_device()
    gpu = GpuUse.of(settings.search_device, settings.search_gpu_memory_mib * 2**20)
    fingerprint = source.fingerprint()
    check_structure(settings, source.width())
    in_place = settings.output is None or settings.output.resolve() == settings.index.resolve()
    open_published(settings.index, files=[]).release()  # or else a lock file would be left where no index is
    directory = WritableDirectory(settings.index if in_place or settings.output is None else settings.output)
    with directory.locked_for_writing("reembed"):
        directory.recover()
        if not in_place and (directory.current() is not None or directory.store_names()):
            raise IndexExistsError(f"there is an index at {directory.path} already")
        version = open_published(settings.index, files=[])
        try:
            _require_another(version.manifest, fingerprint, settings)
            report = _Reembedding(settings, source, console, directory, version, gpu).run(fingerprint)
        finally:
            version.release()
        directory.remove_old()
        return report


class _Reembedding:
    """One run."""

    def __init__(
        self,
        settings: ReembedSettings,
        source: EncoderSource,
        console: Console,
        directory: WritableDirectory,
        version: OpenVersion,
        gpu: GpuUse,
    ) -> None:
        self._settings = settings
        self._source = source
        self._console = console
        self._directory = directory
        self._version = version
        self._gpu = gpu
        recorded = read_roots(settings.index).roots()
        self._roots = ImageRoots([*recorded.roots, *settings.image_root], recorded.max_bytes)
        self._is_encoder_noted = False
        self._failures: list[InvalidRowError] = []

    def run(self, fingerprint: str) -> ReembedReport:
        """Does what `reembed_index` promises, with the encoder of this fingerprint."""
        path = self._version.store_path
        check_store(path, self._version.manifest)
        with naming_damage(path), contextlib.closing(open_read_only(path)) as db:
            meta = read_meta(db)
            with contextlib.closing(self._open_store(fingerprint, meta)) as store:
                first = store.staging.last_id()
                self._embed_all(db, store.staging)
                num_embedded = store.staging.num_keys(after=first)
                self._require_all()
                manifest = self._publish(db, store, FoldOptions.of(meta).changed_by(self._settings))
            queries = ReadTransaction(db, path).tuning_queries()
        num_queries = 0 if queries is None else len(queries.vectors_QD)
        return ReembedReport(manifest, num_embedded, self._failures, num_queries)

    def _open_store(self, fingerprint: str, meta: dict[str, Any]) -> Store:
        """What a stopped run over the same store left, or a new store."""
        origin = json.dumps(["reembed", meta["store_id"]])
        return open_new_store(self._directory, fingerprint, origin, self._settings.vectors or meta["vector_type"])

    def _embed_all(self, db: sqlite3.Connection, staging: Staging) -> None:
        """Embeds what is there, and in the end what somebody changed meanwhile, at one moment of the store."""
        num_keys = int(db.execute("SELECT count(*) FROM keys").fetchone()[0])
        with progress(self._console, self._source.step, num_keys) as advance:
            last = self._embed(db, staging, -1, advance)
            db.execute("BEGIN")
            self._failures = [failure for failure in self._failures if _is_unchanged(db, failure.key, last)]
            self._embed(db, staging, last, advance)
        failed = {failure.key for failure in self._failures}
        staging.drop(identity for identity, key in staging.ids_and_keys() if key in failed or not _has(db, key))
        if not staging.num_keys():
            staging.note_encoder(self._source.facts())

    def _publish(self, db: sqlite3.Connection, store: Store, options: FoldOptions) -> Manifest:
        """Makes live what was staged, with what was deleted live, and publishes the first version of its store."""
        if self._directory.path.resolve() != self._settings.index.resolve():
            record_corpus(self._directory.path, self._roots, keep=False)
        elif self._settings.image_root:
            record_named(self._directory.path, ImageRoots(self._settings.image_root).roots)

        def changes() -> bool:
            store.move_in()
            store.note_deleted(read_deleted(db))
            return True

        with open_progress(self._console) as display:
            report = display.report
            manifest = publish_with_changes(
                self._directory, store, changes, self._provenance(), options, report, self._gpu
            )
        assert manifest is not None
        return manifest

    def _embed(self, db: sqlite3.Connection, staging: Staging, after: int, advance: Any) -> int:
        """Embeds the keys that were stored after one change, batch by batch; gives the last change there was."""
        last = int(db.execute("SELECT coalesce(max(row), -1) FROM keys").fetchone()[0])
        left = (record for record in self._records(db, after, last, advance) if not _is_done(record, staging))
        settings = self._settings
        ahead = batches_ahead(self._prepare, left, _cost, settings.decode_threads, settings.batch_size)
        with contextlib.closing(ahead):
            for batch in ahead:
                self._stage(batch, staging)
        return last

    def _records(self, db: sqlite3.Connection, after: int, last: int, advance: Any) -> Iterator[Record]:
        query = f"SELECT row FROM keys WHERE row > ? AND row <= ? ORDER BY row LIMIT {PAGE_RECORDS}"
        while page := [number for (number,) in db.execute(query, (after, last)).fetchall()]:
            after = page[-1]
            yield from list(read_records(db, "row BETWEEN ? AND ?", (page[0], after)))
            advance(len(page))

    def _prepare(self, record: Record) -> "tuple[Record, Any] | InvalidRowError":
        """A record, and what the encoder makes of it before its batch; runs in a thread."""
        where = str(self._settings.index)
        try:
            contents = tuple(
                read_referred(image.path or "", image.media_type, record.key, self._roots).data
                if image.data is None
                else image.data
                for image in record.images
            )
            return record, self._source.prepare(Item(record.text, contents))
        except ImageUnavailableError as error:
            return InvalidRowError(where, str(error), record.key)
        except InvalidItemError as error:
            return InvalidRowError(where, error.reason, record.key)

    def _stage(self, batch: "list[tuple[Record, Any] | InvalidRowError]", staging: Staging) -> None:
        ready = [item for item in batch if not isinstance(item, InvalidRowError)]
        self._failures += [item for item in batch if isinstance(item, InvalidRowError)]
        if not ready:
            return
        if not self._is_encoder_noted:
            staging.note_encoder(self._source.facts())
            self._is_encoder_noted = True
        vectors = self._source.encode([prepared for _, prepared in ready])
        staging.add(replace(record, vector_D=vector_D) for (record, _), vector_D in zip(ready, vectors, strict=True))

    def _require_all(self) -> None:
        """Loses no key unasked."""
        if not self._failures or self._settings.leave_out:
            return
        shown = "; ".join(f"'{failure.key}': {failure.reason}" for failure in self._failures[:NAMES_SHOWN])
        rest = "; ..." if len(self._failures) > NAMES_SHOWN else ""
        raise KeysNotEmbeddedError(
            f"{len(self._failures):,} keys of {self._settings.index} cannot be embedded, and nothing was published: "
            f"{shown}{rest}; mend that and run again, which goes on from what was embedded, or use --leave-out"
        )

    def _provenance(self) -> Provenance:
        known = provenance_of(self._version.manifest, self._version.path)
        settings = {**known.settings, **self._settings.model_dump(mode="json", include={"checkpoint", "fusion"})}
        return Provenance(known.corpus, settings, [*known.bad_rows, *self._failures])


def _require_another(manifest: Manifest, fingerprint: str, settings: ReembedSettings) -> None:
    if manifest.encoder.fingerprint == fingerprint:
        raise UnusableOptionError(
            f"{settings.index} has the vectors of {settings.checkpoint} already; `anykey-index snapshot` copies it"
        )


def _is_done(record: Record, staging: Staging) -> bool:
    """Whether a stopped run embedded a key as it is."""
    return staging.has(record.key) and replace(staging.record(record.key), vector_D=None) == replace(
        record, vector_D=None
    )


def _is_unchanged(db: sqlite3.Connection, key: str | None, last: int) -> bool:
    """Whether a key is still there, and as it was after change number `last`."""
    return db.execute("SELECT 1 FROM keys WHERE key = ? AND row <= ?", (key, last)).fetchone() is not None


def _has(db: sqlite3.Connection, key: str) -> bool:
    return db.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone() is not None


def _cost(record: Record) -> int:
    """What a key takes of a batch's memory: its images, or one for a text."""
    return max(1, len(record.images))
