"""Builds an index: corpus to plan, plan to store, store to a published version.

New and changed keys are embedded into a store of their own, `building/store.sqlite`. The first build's becomes the
index's store; later ones are taken over by the index's store in one transaction, whose version is complete before it
ends, so that searches see all of a build or nothing of it, and never have to search it without a structure. A build can
be stopped at any time, kill -9 included: the next one goes on from what was embedded.
"""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from encoder.program import plain_console
from index.building.base import Base, open_base
from index.building.corpus import find_files, read_corpus
from index.building.embed import embed, is_current
from index.building.encoding import EncoderSource
from index.building.imported import ImportedSource, source_of
from index.building.plan import Plan, PlannedEntry
from index.embedded.folding import Provenance, publish_built, publish_with_changes, read_bad_rows
from index.embedded.manifest import Manifest
from index.embedded.options import AUTO, FoldOptions
from index.embedded.records import Known, Record
from index.embedded.store import Store
from index.embedded.versions import STORE_NAME, IndexDirectory, OpenVersion
from index.errors import InvalidCorpusError, InvalidRowError
from index.progress import progress, step_lines
from index.settings import BuildSettings
from index.sources.locations import without_secrets
from index.vectors.gpu import GpuUse, gpus_of
from index.vectors.structure_facts import EXACT
from index.vectors.trial import require_possible

PLAN_NAME = "plan.sqlite"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        manifest: The published version.
        version_dir: Where it is.
        is_new: Whether this build published it; if not, it was up to date.
        num_embedded: Keys that went through the encoder in this run.
    """

    manifest: Manifest
    version_dir: Path
    is_new: bool
    num_embedded: int

    @property
    def bad_rows(self) -> list[InvalidRowError]:
        """The rows of the corpus that were skipped."""
        return read_bad_rows(self.version_dir)


def build_index(
    settings: BuildSettings, source: EncoderSource | None = None, console: Console | None = None
) -> BuildReport:
    """Brings an index up to date with a corpus, embedding only what is new or changed.

    Args:
        settings: What to build, from what, where to.
        source: The encoder; the checkpoint that the settings name when absent.
        console: Where progress is shown; stderr when absent.

    Returns:
        What was done.

    Raises:
        InvalidCorpusError: there is no corpus, nothing in it can be indexed, or `strict` met a bad row.
        InvalidStructureError: FAISS cannot build the search structure, or has no such GPUs.
        EncoderError: the encoder cannot be loaded.
        IndexLockedError: the index has another writer.
        LiveKeysError: keys that were stored live would be lost; says what to do.
        OSError: the disk is full or not writable.
    """
    source = source or source_of(settings)
    console = console or plain_console(stderr=True)
    directory = IndexDirectory(settings.output)
    find_files(settings.corpus)  # this, the GPUs, the checkpoint and the structure before anything is read or written
    gpu = GpuUse(tuple(gpus_of(settings.search_device)), settings.search_gpu_memory_mib * 2**20)
    fingerprint = source.fingerprint()
    if settings.structure not in (None, AUTO, EXACT):
        require_possible(settings.structure or "", source.width())
    with directory.locked_for_writing():
        directory.recover()
        directory.take_back_store()
        directory.building_dir.mkdir(exist_ok=True)
        build = _Build(settings, source, console, directory, gpu)
        try:
            return build.run(fingerprint)
        finally:
            build.close()


class _Build:
    """One run of the builder."""

    def __init__(
        self,
        settings: BuildSettings,
        source: EncoderSource,
        console: Console,
        directory: IndexDirectory,
        gpu: GpuUse,
    ) -> None:
        self._settings = settings
        self._source = source
        self._console = console
        self._directory = directory
        self._gpu = gpu
        self._plan = Plan(directory.building_dir / PLAN_NAME)
        self._base: Base | None = None
        self._unreadable: list[str] = []

    def run(self, fingerprint: str) -> BuildReport:
        """Does what `build_index` promises, with the encoder of this fingerprint."""
        self._read_corpus()
        self._base = open_base(self._directory, fingerprint, self._settings.anew)
        base = self._base
        self._compare()
        if base is not None and not self._is_anything_to_do(base):
            return self._keep(base)
        with contextlib.closing(self._open_staged(fingerprint)) as staged:
            num_embedded = self._embed(staged)
            self._require_keys()
            if base is None:
                staged.commit([], gone=self._plan.lacking(staged.keys("corpus")))
            manifest = None if base is None else self._publish_next(base, staged)
        if base is None:
            manifest = self._publish_first()
        elif manifest is None:
            return self._keep(base, num_embedded)
        else:
            _delete_store(self._directory.building_dir / STORE_NAME)
        return BuildReport(manifest, self._directory.version_dir(manifest.version), True, num_embedded)

    def close(self) -> None:
        """Leaves nothing behind but what was embedded, if there is something to go on with, and the newest versions."""
        self._plan.close()
        if self._base is not None:
            self._base.close()
        with contextlib.suppress(OSError):
            self._directory.building_dir.rmdir()  # only if it is empty
        self._directory.remove_old()

    def _read_corpus(self) -> None:
        with progress(self._console, "reading the corpus", None) as advance:
            for row in read_corpus(self._settings):
                self._plan.next_row()
                try:
                    if isinstance(row, InvalidRowError):
                        raise row
                    self._plan.add(row.entry, row.images)
                except InvalidRowError as error:
                    self._skip(error)
                advance()
        if self._plan.count() == 0:
            raise InvalidCorpusError(self._nothing_left())
        if isinstance(self._source, ImportedSource):
            self._source.require_rows(self._plan.num_rows)

    def _skip(self, row: InvalidRowError, position: int | None = None) -> None:
        if self._settings.strict:
            raise row
        self._plan.add_bad_row(row, position)

    def _nothing_left(self) -> str:
        bad_rows = self._plan.bad_rows()
        paths = ", ".join(map(without_secrets, self._settings.corpus))
        first = f"; the first is {bad_rows[0]}" if bad_rows else ""
        return f"nothing to index in {paths}: no usable row, {len(bad_rows)} bad rows{first}"

    def _compare(self) -> None:
        """Marks in the plan what the index does not hold as the corpus has it; skips what it would refuse again."""
        for entry in self._plan.entries():
            known = None if self._base is None else self._base.store.known(entry.key)
            if not is_current(entry, known, self._settings):
                self._plan.mark_stale(entry.position)
            elif known is not None and known.reason is not None:
                self._skip(InvalidRowError(entry.where, known.reason, entry.key), entry.position)

    def _is_anything_to_do(self, base: Base) -> bool:
        """Whether the index differs from what this build would make; decided without the encoder."""
        is_any_stale = self._plan.count(only_stale=True) > 0
        is_any_gone = any(True for _ in self._plan.lacking(base.store.keys("corpus")))
        return is_any_stale or is_any_gone or self._is_new(base)

    def _is_new(self, base: Base) -> bool:
        """Whether a version of the store as it is now would differ from the published one, or that one is damaged."""
        if base.version is None or not base.is_sound or base.store.seq != base.version.manifest.seq:
            return True
        are_options_new = self._options(base.store) != base.version.manifest.options
        return are_options_new or not self._has_same_bad_rows(base.version)

    def _options(self, store: Store) -> FoldOptions:
        """How the next version is to be derived from a store."""
        return FoldOptions.of(store.meta).changed_by(self._settings)

    def _open_staged(self, fingerprint: str) -> Store:
        """The store to embed into: what a stopped build left, or a new one."""
        path = self._directory.building_dir / STORE_NAME
        imported = json.dumps(self._source.stamp()) if isinstance(self._source, ImportedSource) else ""
        store = _resume(path, fingerprint, imported)
        if store is None:
            store = Store(path, self._settings.vectors)
            store.note(fingerprint=fingerprint, imported=imported)
        return store

    def _embed(self, staged: Store) -> int:
        """Embeds what is stale and has not been embedded by a stopped build; gives the number embedded."""
        num_embedded = 0
        left = [entry.position for entry in self._plan.entries(only_stale=True) if self._is_left(entry, staged)]
        with progress(self._console, "embedding", len(left)) as advance:
            for batch in embed(self._tasks(staged, set(left)), self._source, self._settings):
                if batch.num_embedded and not num_embedded:
                    self._note_encoder(staged)
                num_embedded += batch.num_embedded
                staged.commit([self._with_vector(record, staged) for record in batch.records], batch.refusals)
                self._unreadable += batch.unreadable
                for entry, row in batch.bad_rows:
                    self._skip(row, entry.position)
                advance(batch.num_entries)
        return num_embedded

    def _is_left(self, entry: PlannedEntry, staged: Store) -> bool:
        """Whether a stale entry is yet to be embedded; one that a stopped build saw refused is skipped."""
        known = staged.known(entry.key)
        if not is_current(entry, known, self._settings):
            return True
        if known is not None and known.reason is not None:
            self._skip(InvalidRowError(entry.where, known.reason, entry.key), entry.position)
        return False

    def _tasks(self, staged: Store, left: set[int]) -> Iterator[tuple[PlannedEntry, Known | None]]:
        """The entries left, each with what is known of its key."""
        for entry in self._plan.entries(only_stale=True):
            if entry.position in left:
                known = staged.known(entry.key)
                if known is None and self._base is not None:
                    known = self._base.store.known(entry.key)
                yield entry, known

    def _with_vector(self, record: Record, staged: Store) -> Record:
        """A record with its vector, where that is the one the index has."""
        if record.vector_D is not None or self._base is None or staged.has(record.key):
            return record
        return replace(record, vector_D=self._base.store.record(record.key).vector_D)

    def _require_keys(self) -> None:
        """Refuses to end with an index that holds nothing of the corpus."""
        if self._plan.num_usable() == 0:
            raise InvalidCorpusError(self._nothing_left())

    def _take_over(self, store: Store, staged: Store) -> None:
        """Brings the index's store up to the corpus."""
        entries = [entry.key for entry in self._plan.entries(only_stale=True)]
        refusals = [refusal for key in entries if (refusal := staged.refusal(key)) is not None]
        records = (staged.record(key) for key in entries if staged.has(key))
        unreadable = filter(store.is_built, self._unreadable)
        store.commit(records, refusals, gone=[*unreadable, *self._plan.lacking(store.keys("corpus"))])
        store.forget_refusals(self._plan.lacking(store.refused()))
        if staged.meta.get("computed_in"):
            store.note_computed_in(json.loads(staged.meta["computed_in"]))

    def _publish_first(self) -> Manifest:
        """Makes what was embedded the index's store, and publishes a version of it."""
        provenance = self._provenance()
        self._plan.close()
        options = FoldOptions().changed_by(self._settings)
        return publish_built(self._directory, provenance, options, step_lines(self._console), self._gpu)

    def _publish_next(self, base: Base, staged: Store) -> Manifest | None:
        """Takes over what was embedded, and publishes a version with it; `None` if nothing has changed."""

        def changes() -> bool:
            self._take_over(base.store, staged)
            return self._is_new(base)

        previous = None if base.version is None else base.version.manifest
        provenance, options = self._provenance(previous), self._options(base.store)
        report = step_lines(self._console)
        return publish_with_changes(self._directory, base.store, changes, provenance, options, report, self._gpu)

    def _provenance(self, previous: Manifest | None = None) -> Provenance:
        settings = self._settings.model_dump(mode="json", exclude={"corpus", "config"})
        corpus = list(map(without_secrets, self._settings.corpus))
        return Provenance(corpus, settings, self._plan.bad_rows(), previous)

    def _keep(self, base: Base, num_embedded: int = 0) -> BuildReport:
        """Ends a build that found nothing to change."""
        assert base.version is not None
        _delete_store(self._directory.building_dir / STORE_NAME)
        return BuildReport(base.version.manifest, base.version.path, False, num_embedded)

    def _note_encoder(self, staged: Store) -> None:
        encoder = self._source.load()
        staged.note(name=encoder.name, fingerprint=encoder.fingerprint, width=encoder.width)
        staged.note(fusion=str(encoder.fusion))
        staged.note_computed_in([f"{encoder.precision} on {encoder.device}"])

    def _has_same_bad_rows(self, version: OpenVersion) -> bool:
        return list(map(str, self._plan.bad_rows())) == list(map(str, read_bad_rows(version.path)))


def _resume(path: Path, fingerprint: str, imported: str) -> Store | None:
    """The store that a stopped build left, if its vectors are of this encoder and origin; any other is deleted."""
    if path.exists():
        try:
            store = Store(path)
            meta = store.meta
            if (meta.get("fingerprint"), meta.get("imported", "")) == (fingerprint, imported):
                return store
            store.close()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged (%s); starting over", path, error)
    _delete_store(path)
    return None


def _delete_store(path: Path) -> None:
    """Deletes a store with its journals."""
    for leftover in path.parent.glob(f"{path.stem}.*"):
        leftover.unlink()
