"""Builds an index: corpus to plan, plan to store, store to a published version.

New and changed keys are embedded into a store of their own, `building/store.sqlite`. The first build's becomes the
index's store; later ones are taken over by the index's store in one transaction, whose version is complete before it
ends, so that searches see all of a build or nothing of it, and never have to search it without a structure. A build can
be stopped at any time, kill -9 included: the next one goes on from what was embedded.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from anykey.index.jobs.corpus import roots_of
from anykey.index.jobs.embed import embed, is_current
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.imported import source_of
from anykey.index.jobs.outlook import Outlook, compare, require_allowed, summary
from anykey.index.jobs.plan import Plan, PlannedEntry
from anykey.index.jobs.preconditions import check_vector_type, check_wishes
from anykey.index.jobs.published import PublishedIndex, open_published_index
from anykey.index.jobs.reading import nothing_left, read_into
from anykey.index.jobs.staging import delete_store, records_of, remove_empty, resume
from anykey.index.publish.folding import Provenance, publish_built, publish_with_changes, read_bad_rows
from anykey.index.settings import BuildSettings
from anykey.index.store.build_facts import Known
from anykey.index.store.image_roots import record_corpus
from anykey.index.store.manifest import Manifest
from anykey.index.store.options import FoldOptions
from anykey.index.store.records import Record
from anykey.index.store.retired import Origin
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.store.versions import STORE_NAME, IndexDirectory, OpenVersion
from anykey.index.vectors.gpu import GpuUse
from anykey.program.progress import open_progress, progress
from anykey.program.settings import plain_console
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.locations import without_secrets
from anykey.sources.files.roots import ImageRoots

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
        num_unreachable: Keys that stay as an earlier build stored them, since their images cannot be read now.
        num_removed: Keys that earlier builds stored and this one removed.
        num_unread: Keys that stay as an earlier build stored them, as the corpus may name them where it cannot be read.
        num_deleted: Keys that were deleted live and stay so, though the corpus names them.
        is_any_unread: Whether a stretch of the corpus could not be read.
        num_cut: Keys embedded in this run whose text is longer than the encoder's context; the vector lacks its end.
        num_taken: Keys whose vectors the corpus had, as files that `export` wrote have; of this encoder.
    """

    manifest: Manifest
    version_dir: Path
    is_new: bool
    num_embedded: int
    num_unreachable: int = 0
    num_removed: int = 0
    num_unread: int = 0
    num_deleted: int = 0
    is_any_unread: bool = False
    num_cut: int = 0
    num_taken: int = 0

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
        SourceError: there is no corpus, nothing in it can be indexed, or `strict` met a bad row.
        InvalidStructureError: FAISS cannot build the search structure, or has no such GPUs.
        EncoderError: the encoder cannot be loaded.
        IndexLockedError: the index has another writer.
        LiveKeysError: keys that were stored live would be lost; says what to do.
        RemovalRefusedError: more published keys would go than may go unasked.
        OSError: the disk is full or not writable.
    """
    source = source or source_of(settings)
    console = console or plain_console(stderr=True)
    directory = IndexDirectory(settings.output)
    fingerprint, gpu = check_wishes(settings, source)
    with directory.locked_for_writing():
        directory.recover()
        directory.take_back_store()
        directory.building_dir.mkdir(exist_ok=True)
        try:
            build = _Build(settings, source, console, directory, gpu, fingerprint)
        except OSError:
            remove_empty(directory.building_dir)
            raise
        try:
            report = build.run_recorded(fingerprint)
        finally:
            build.close()
        directory.remove_old()  # not after a failure, which is when somebody may want to go back
        return report


class _Build:
    """One run of the builder."""

    def __init__(
        self,
        settings: BuildSettings,
        source: EncoderSource,
        console: Console,
        directory: IndexDirectory,
        gpu: GpuUse,
        fingerprint: str,
    ) -> None:
        self._settings = settings
        self._source = source
        self._console = console
        self._directory = directory
        self._gpu = gpu
        self._plan = Plan(directory.building_dir / PLAN_NAME, None if settings.faiss else fingerprint)
        self._num_taken = 0
        self._published: PublishedIndex | None = None  # what is published
        self._base: PublishedIndex | None = None  # that, if the build can go on from it
        self._outlook = Outlook()
        self._roots: ImageRoots | None = None
        self._num_cut = 0

    def run(self, fingerprint: str) -> BuildReport:
        """Does what `build_index` promises, with the encoder of this fingerprint."""
        read_into(self._plan, self._settings, self._source, self._console)
        self._published = open_published_index(self._directory, fingerprint, self._settings.anew, self._plan.left_out)
        base = self._base = self._published if self._published is not None and self._published.has_encoder else None
        if base is not None:
            check_vector_type(self._settings.vectors, base.store.meta["vector_type"], self._settings.output)
        self._outlook = compare(self._plan, self._published, self._settings, self._skip, self._roots)
        require_allowed(self._outlook, self._settings)
        if base is not None and not self._is_anything_to_do(base):
            return self._keep(base)
        if self._published is not None:
            self._console.print(summary(self._outlook))
        with contextlib.closing(self._open_staged(fingerprint)) as staged:
            num_embedded = self._embed(staged)
            self._require_keys()
            if base is None:  # what a stopped build left may be of another corpus
                staged.commit([], gone=self._plan.left_out(staged.keys("corpus")))
            gone = self._gone(staged)
            require_allowed(self._outlook, self._settings, gone)
            if base is None:
                self._hand_on_deleted(staged)
            manifest = None if base is None else self._publish_next(base, staged)
        if base is None:
            manifest = self._publish_first()
        elif manifest is None:
            return self._keep(base, num_embedded)
        else:
            delete_store(self._directory.building_dir / STORE_NAME)
        return self._report(manifest, self._directory.version_dir(manifest.version), num_embedded, len(gone))

    def run_recorded(self, fingerprint: str) -> BuildReport:
        """Runs, and records where images may lie: beside what was recorded, as long as either version may be read.

        What was recorded stays, too, while keys do that the corpus cannot give now: their images lie where they lay.
        """
        self._roots = roots_of(self._settings)
        roots = self._roots or ImageRoots()
        if self._directory.current() is not None:
            record_corpus(self._directory.path, roots, keep=True)
        report = self.run(fingerprint)
        is_any_kept = report.is_any_unread or report.num_unreachable > 0
        record_corpus(self._directory.path, roots, keep=is_any_kept, version=report.manifest.version)
        return report

    def close(self) -> None:
        """Leaves nothing behind but what was embedded, if there is something to go on with."""
        self._plan.close()
        if self._published is not None:
            self._published.close()
        remove_empty(self._directory.building_dir)

    def _skip(self, row: InvalidRowError, position: int | None = None) -> None:
        if self._settings.strict:
            raise row
        self._plan.add_bad_row(row, position)

    def _is_anything_to_do(self, base: PublishedIndex) -> bool:
        """Whether the index differs from what this build would make; decided without the encoder."""
        return self._plan.count(only_stale=True) > 0 or bool(self._outlook.gone) or self._is_new(base)

    def _is_new(self, base: PublishedIndex) -> bool:
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
        stamp = self._source.stamp()
        imported = json.dumps(stamp) if stamp else ""
        vectors = self._settings.vectors if self._base is None else self._base.store.meta["vector_type"]
        store = resume(path, fingerprint, imported, vectors)
        if store is None:
            store = Store(path, vectors or "float32")
            store.note(fingerprint=fingerprint, imported=imported)
        store.covered_seq = 0  # no version will cover what is replaced in it
        return store

    def _embed(self, staged: Store) -> int:
        """Embeds what is stale and has not been embedded by a stopped build; gives the number embedded."""
        num_embedded = 0
        self._settle_staged(staged)
        with progress(self._console, self._source.step, self._plan.count(only_left=True)) as advance:
            for batch in embed(self._tasks(staged), self._source, self._settings, self._roots):
                if batch.num_embedded and not num_embedded:
                    self._note_encoder(staged)
                if batch.num_taken and not self._num_taken:
                    self._note_taken(staged)
                num_embedded += batch.num_embedded
                self._num_cut += batch.num_cut
                self._num_taken += batch.num_taken
                with naming_damage(staged.path):
                    staged.commit([self._with_vector(record, staged) for record in batch.records], batch.refusals)
                for entry, row in batch.bad_rows:
                    self._skip(row, entry.position)
                advance(batch.num_entries)
        if "name" not in staged.meta and staged.num_keys():  # earlier releases noted last whose vectors they took
            self._note_taken(staged) if self._plan.encoders() else self._note_encoder(staged)
        return num_embedded

    def _settle_staged(self, staged: Store) -> None:
        """Marks what a stopped build embedded, or saw refused, which is skipped."""
        for entry in self._plan.entries(only_stale=True):
            known = staged.known(entry.key)
            if not is_current(entry, known, self._settings, self._roots):
                continue
            self._plan.mark_staged(entry.position)
            if known is not None and known.reason is not None:
                self._skip(InvalidRowError(entry.where, known.reason, entry.key), entry.position)

    def _tasks(self, staged: Store) -> Iterator[tuple[PlannedEntry, Known | None]]:
        """The entries left, each with what is known of its key."""
        for entry in self._plan.entries(only_left=True):
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
        """Refuses to end with an index that holds nothing of the corpus, unless all of it was deleted live."""
        if self._plan.num_usable() == 0 and (self._base is None or not self._outlook.num_deleted):
            raise SourceError(nothing_left(self._plan, self._settings))

    def _gone(self, staged: Store) -> list[str]:
        """Keys that go, those included that were tried and could not be embedded."""
        published = self._published
        if published is None:
            return []
        self._outlook.num_unreachable = sum(map(published.store.has, self._plan.unreachable()))
        if not published.has_encoder:
            origins: tuple[Origin, ...] = ("corpus",) if self._settings.anew else ("corpus", "live")
            return [key for origin in origins for key in published.store.keys(origin) if not staged.has(key)]
        if self._outlook.is_any_unread:
            return []
        refused = (key for key in staged.refused() if self._plan.is_stale(key) and published.store.is_built(key))
        return [*self._outlook.gone, *refused]

    def _hand_on_deleted(self, staged: Store) -> None:
        """Lets a new index remember what was deleted live in the one whose place it takes."""
        if self._published is not None and not self._settings.restore_deleted:
            deleted = self._published.store.deleted()
            gone = set(self._plan.never_named(deleted))
            staged.note_deleted(key for key in deleted if key not in gone)

    def _takeover(self, store: Store, staged: Store) -> Callable[[], None]:
        """What brings the index's store up to the corpus; all but the records is read beforehand."""
        with naming_damage(staged.path):
            refusals = [
                refusal
                for key in self._plan.stale_keys()
                if (refusal := staged.refusal(key)) is not None
                and not (self._outlook.is_any_unread and store.is_built(key))
            ]
            computed_in = json.loads(staged.meta.get("computed_in", "[]"))
        forgotten, unnamed = list(self._plan.lacking(store.refused())), list(self._plan.never_named(store.deleted()))

        def take_over() -> None:
            store.commit(records_of(staged, self._plan.stale_keys()), refusals, self._outlook.gone)
            store.forget_refusals(forgotten)
            store.forget_deleted(unnamed)  # no build would bring them back
            if computed_in:
                store.note_computed_in(computed_in)

        return take_over

    def _publish_first(self) -> Manifest:
        """Makes what was embedded the index's store, and publishes a version of it."""
        provenance = self._provenance()
        self._plan.close()
        kept = FoldOptions() if self._published is None else FoldOptions.of(self._published.store.meta)
        options = FoldOptions(keep_versions=kept.keep_versions).changed_by(self._settings)
        record_corpus(self._directory.path, self._roots or ImageRoots(), keep=True)  # or a kill would leave none
        with open_progress(self._console) as display:
            return publish_built(self._directory, provenance, options, display.report, self._gpu)

    def _publish_next(self, base: PublishedIndex, staged: Store) -> Manifest | None:
        """Takes over what was embedded, and publishes a version with it; `None` if nothing has changed."""
        take_over = self._takeover(base.store, staged)

        def changes() -> bool:
            take_over()
            return self._is_new(base)

        previous = None if base.version is None else base.version.manifest
        provenance, options = self._provenance(previous), self._options(base.store)
        with open_progress(self._console) as display:
            report = display.report
            return publish_with_changes(self._directory, base.store, changes, provenance, options, report, self._gpu)

    def _provenance(self, previous: Manifest | None = None) -> Provenance:
        settings = self._settings.model_dump(mode="json", exclude={"corpus", "config", "dry_run"})
        corpus = list(map(without_secrets, self._settings.corpus))
        return Provenance(corpus, settings, self._plan.bad_rows(), previous)

    def _keep(self, base: PublishedIndex, num_embedded: int = 0) -> BuildReport:
        """Ends a build that found nothing to change."""
        assert base.version is not None
        if unnamed := list(self._plan.never_named(base.store.deleted())):
            base.store.forget_deleted(unnamed)
        delete_store(self._directory.building_dir / STORE_NAME)
        report = self._report(base.version.manifest, base.version.path, num_embedded, 0)
        return replace(report, is_new=False)

    def _report(self, manifest: Manifest, version_dir: Path, num_embedded: int, num_removed: int) -> BuildReport:
        base, outlook = self._base, self._outlook
        num_unreachable = 0 if base is None else sum(map(base.store.is_built, self._plan.unreachable()))
        return BuildReport(
            *(manifest, version_dir, True, num_embedded, num_unreachable, num_removed),
            *(outlook.num_unread, outlook.num_deleted, outlook.is_any_unread, self._num_cut, self._num_taken),
        )

    def _note_encoder(self, staged: Store) -> None:
        staged.note_encoder(self._source.facts())

    def _note_taken(self, staged: Store) -> None:
        """Notes who made the vectors that the corpus brings, before one is stored: a run may be stopped after that.

        What the encoder itself said of its name and width stays.
        """
        for encoder in self._plan.encoders():
            if "name" in staged.meta:
                staged.note_computed_in(encoder.computed_in)
            else:
                staged.note_encoder(encoder)

    def _has_same_bad_rows(self, version: OpenVersion) -> bool:
        return list(map(_said_of, self._plan.bad_rows())) == list(map(_said_of, read_bad_rows(version.path)))


def _said_of(row: InvalidRowError) -> tuple[str, str | None]:
    """What tells one bad row from another; a stretch may be unread for another reason each time it is tried."""
    return row.where, None if isinstance(row, UnreadableStretchError) else row.reason
