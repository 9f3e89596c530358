"""Builds an index: corpus to plan, plan to store, store to a published version.

New and changed keys are embedded and staged in the store, where no reader looks at them. One transaction makes them
live. Its version is complete before it ends, so that searches see all of a build or nothing of it, and never have to
search it without a structure. The first build, and one with another encoder, do the same in a store of their own, which
no version was made of before. A build can be stopped at any time, kill -9 included: the next one goes on from what was
staged.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from anykey.index.jobs.comparison import Comparison, Some
from anykey.index.jobs.corpus import nothing_left, read_into, roots_of
from anykey.index.jobs.embed import embed
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.imported import source_of
from anykey.index.jobs.outlook import Outlook, compare, require_allowed, summary
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.preconditions import check_at_once, check_vector_type
from anykey.index.jobs.published import PublishedIndex, open_published_index
from anykey.index.jobs.staging import delete_unfinished, open_new_store
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, publish_with_changes, read_bad_rows
from anykey.index.settings import BuildSettings
from anykey.index.store.image_roots import record_corpus
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.staging import Staging
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.store.versions import OpenVersion
from anykey.index.vectors.structures import GpuUse
from anykey.program.progress import open_progress, progress
from anykey.program.settings import plain_console
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.locations import without_secrets
from anykey.sources.files.roots import ImageRoots

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
    directory = WritableDirectory(settings.output)
    fingerprint, gpu = check_at_once(settings, source)
    with directory.locked_for_writing("build"):
        directory.recover()
        build = _Build(settings, source, console, directory, gpu, fingerprint)
        try:
            report = build.run_recorded()
        finally:
            build.close()
        directory.remove_old()  # not after a failure, which is when somebody may want to go back
        return report


def preview_build(
    settings: BuildSettings, source: EncoderSource | None = None, console: Console | None = None
) -> Outlook:
    """What `build_index` would do; nothing is written where the index is, and nothing embedded.

    Args:
        settings: What to build, from what, where to.
        source: The encoder; the checkpoint that the settings name when absent.
        console: Where progress is shown; stderr when absent.

    Raises:
        SourceError: as `build_index`, as far as it can be told without embedding; `strict` counts what the
            encoder refused.
        LiveKeysError: keys that were stored live would be lost; says what to do.
    """
    source = source or source_of(settings)
    console = console or plain_console(stderr=True)
    fingerprint, _ = check_at_once(settings, source)
    taken = None if settings.faiss else fingerprint
    with (
        TemporaryDirectory(prefix="anykey-build-") as scratch,
        contextlib.closing(Plan(Path(scratch) / "plan.sqlite", settings.images, taken, keeps_vectors=False)) as plan,
    ):

        def skip(row: InvalidRowError, position: int) -> None:
            if settings.strict:
                raise row
            plan.add_bad_row(row, position)

        read_into(plan, settings, source, console)
        published = open_published_index(
            WritableDirectory(settings.output), fingerprint, settings.anew, plan.left_out, Store.reading
        )
        try:
            if published is not None and published.has_encoder:
                check_vector_type(settings.vectors, published.store.meta["vector_type"], settings.output)
            return compare(Comparison(plan, settings, roots_of(settings)), plan, published, settings, skip)
        finally:
            if published is not None:
                published.close()


class _Build:
    """One run of the builder."""

    def __init__(
        self,
        settings: BuildSettings,
        source: EncoderSource,
        console: Console,
        directory: WritableDirectory,
        gpu: GpuUse,
        fingerprint: str,
    ) -> None:
        self._settings = settings
        self._source = source
        self._console = console
        self._directory = directory
        self._gpu = gpu
        taken = None if settings.faiss else fingerprint
        self._plan = Plan(directory.plan_path, settings.images, taken)
        self._fingerprint = fingerprint
        self._roots = roots_of(settings)
        self._comparison = Comparison(self._plan, settings, self._roots)
        self._published: PublishedIndex | None = None  # what is published
        self._base: PublishedIndex | None = None  # that, if the build can go on from it
        self._outlook = Outlook()
        self._num_taken = 0
        self._num_cut = 0

    def run(self) -> BuildReport:
        """Does what `build_index` promises."""
        settings = self._settings
        read_into(self._plan, settings, self._source, self._console)
        lacking = self._plan.left_out
        self._published = open_published_index(self._directory, self._fingerprint, settings.anew, lacking)
        base = self._base = self._published if self._published is not None and self._published.has_encoder else None
        if base is not None:
            check_vector_type(settings.vectors, base.store.meta["vector_type"], settings.output)
        self._outlook = compare(self._comparison, self._plan, self._published, settings, self._skip)
        require_allowed(self._outlook, settings)
        if base is not None and not self._is_anything_to_do(base):
            base.store.forget_deleted(self._comparison.deletions(named=False))
            base.store.staging.discard()
            delete_unfinished(self._directory)
            return self._keep(base)
        if self._published is not None:
            self._console.print(summary(self._outlook))
        with self._staging_store() as store:
            num_embedded = self._embed(store)
            self._require_keys()
            store.staging.drop(self._comparison.strays())
            store.staging.drop_refused(self._comparison.stray_refusals())
            gone = self._gone()
            require_allowed(self._outlook, settings, gone)
            manifest = self._publish(store)
        if manifest is None:
            assert base is not None
            return self._keep(base, num_embedded)
        return self._report(manifest, self._directory.version_dir(manifest.version), num_embedded, gone.count)

    def run_recorded(self) -> BuildReport:
        """Runs, and records where images may lie: beside what was recorded, as long as either version may be read.

        What was recorded stays, too, while keys do that the corpus cannot give now: their images lie where they lay.
        """
        roots = self._roots or ImageRoots()
        if self._directory.current() is not None:
            record_corpus(self._directory.path, roots, keep=True)
        report = self.run()
        is_any_kept = report.is_any_unread or report.num_unreachable > 0
        record_corpus(self._directory.path, roots, keep=is_any_kept, version=report.manifest.version)
        return report

    def close(self) -> None:
        """Leaves nothing behind but what was embedded, if there is something to go on with."""
        self._plan.close()
        if self._published is not None:
            self._published.close()

    def _skip(self, row: InvalidRowError, position: int | None = None) -> None:
        if self._settings.strict:
            raise row
        self._plan.add_bad_row(row, position)

    def _is_anything_to_do(self, base: PublishedIndex) -> bool:
        """Whether the index differs from what this build would make; decided without the encoder."""
        return self._plan.count(only_left=True) > 0 or self._outlook.gone.count > 0 or self._is_new(base.store)

    def _is_new(self, store: Store) -> bool:
        """Whether a version of the store as it is now would differ from the published one, or that one is damaged."""
        base = self._base
        if base is None or base.version is None or not base.is_sound or store.seq != base.version.manifest.seq:
            return True
        return self._options(store) != base.version.manifest.options or not self._has_same_bad_rows(base.version)

    def _options(self, store: Store) -> FoldOptions:
        """How the next version is to be derived from a store; a new one keeps as many versions as the one before."""
        if self._base is None and self._published is not None:
            kept = FoldOptions.of(self._published.store.meta).keep_versions
            return FoldOptions(keep_versions=kept).changed_by(self._settings)
        return FoldOptions.of(store.meta).changed_by(self._settings)

    @contextlib.contextmanager
    def _staging_store(self) -> Iterator[Store]:
        """The store that is built: the published one's, or another where that has another encoder, or there is none."""
        stamp = self._source.stamp()
        origin = json.dumps(stamp) if stamp else ""
        if self._base is not None:
            delete_unfinished(self._directory)
            store = self._base.store
            store.staging.begin(self._fingerprint, origin)
        else:
            store = open_new_store(
                self._directory, self._fingerprint, origin, self._settings.vectors, self._settings.anew
            )
        try:
            self._comparison.attach("staged", store.path)
            yield store
        finally:
            self._plan.close()  # or it would keep the store's log from being put away
            if self._base is None:
                store.close()

    def _embed(self, store: Store) -> int:
        """Embeds and stages what a stopped build has not; gives the number embedded."""
        num_embedded, staging = 0, store.staging
        for entry, reason in self._comparison.settle("staged"):
            self._skip(InvalidRowError(entry.where, reason, entry.key), entry.position)
        with progress(self._console, self._source.step, self._plan.count(only_left=True)) as advance:
            left = self._comparison.left(with_published=self._base is not None)
            for batch in embed(left, self._source, self._settings, self._roots):
                if batch.num_embedded and not num_embedded:
                    staging.note_encoder(self._source.facts())
                if batch.num_taken and not self._num_taken:
                    self._note_taken(staging)
                num_embedded += batch.num_embedded
                self._num_cut += batch.num_cut
                self._num_taken += batch.num_taken
                with naming_damage(store.path):
                    staging.add(batch.records, batch.refusals)
                for entry, row in batch.bad_rows:
                    self._skip(row, entry.position)
                advance(batch.num_entries)
        return num_embedded

    def _require_keys(self) -> None:
        """Refuses to end with an index that holds nothing of the corpus, unless all of it was deleted live."""
        if self._plan.num_usable() == 0 and (self._base is None or not self._outlook.num_deleted):
            raise SourceError(nothing_left(self._plan, self._settings))

    def _gone(self) -> Some:
        """Keys that go, those included that were tried and could not be embedded."""
        published = self._published
        if published is None:
            return Some()
        self._outlook.num_unreachable = self._comparison.num_unreachable(only_built=published.has_encoder)
        if not published.has_encoder:
            return self._comparison.not_taken_over(with_live=not self._settings.anew)
        return self._outlook.gone + self._comparison.refused()

    def _publish(self, store: Store) -> Manifest | None:
        """Makes live what was staged, and publishes a version with it; `None` if nothing has changed."""
        base = self._base
        if base is None:
            record_corpus(self._directory.path, self._roots or ImageRoots(), keep=True)  # or a kill would leave none
        previous = None if base is None or base.version is None else base.version.manifest
        provenance, options = self._provenance(previous), self._options(store)

        def changes() -> bool:
            store.move_in()
            if base is None:
                self._hand_on_deleted(store)
            else:
                store.commit([], gone=self._comparison.gone_keys())
                store.forget_refusals(self._comparison.forgettable_refusals())
                store.forget_deleted(self._comparison.deletions(named=False))  # no build would bring them back
            return self._is_new(store)

        with open_progress(self._console) as display:
            report = display.report
            return publish_with_changes(self._directory, store, changes, provenance, options, report, self._gpu)

    def _hand_on_deleted(self, store: Store) -> None:
        """Lets a new store remember what was deleted live in the one whose place it takes."""
        if self._published is not None and not self._settings.restore_deleted:
            store.note_deleted(self._comparison.deletions(named=True))

    def _provenance(self, previous: Manifest | None = None) -> Provenance:
        settings = self._settings.model_dump(mode="json", exclude={"corpus", "config", "dry_run"})
        corpus = list(map(without_secrets, self._settings.corpus))
        return Provenance(corpus, settings, self._plan.bad_rows(), previous)

    def _keep(self, base: PublishedIndex, num_embedded: int = 0) -> BuildReport:
        """Ends a build that found nothing to change."""
        assert base.version is not None
        report = self._report(base.version.manifest, base.version.path, num_embedded, 0)
        return replace(report, is_new=False)

    def _report(self, manifest: Manifest, version_dir: Path, num_embedded: int, num_removed: int) -> BuildReport:
        base, outlook = self._base, self._outlook
        num_unreachable = 0 if base is None else outlook.num_unreachable
        return BuildReport(
            *(manifest, version_dir, True, num_embedded, num_unreachable, num_removed),
            *(outlook.num_unread, outlook.num_deleted, outlook.is_any_unread, self._num_cut, self._num_taken),
        )

    def _note_taken(self, staging: Staging) -> None:
        """Notes who made the vectors that the corpus brings, before one is stored: a run may be stopped after that.

        What the encoder itself said of its name and width stays.
        """
        for encoder in self._plan.encoders():
            staging.note_encoder(encoder)

    def _has_same_bad_rows(self, version: OpenVersion) -> bool:
        return list(map(_said_of, self._plan.bad_rows())) == list(map(_said_of, read_bad_rows(version.path)))


def _said_of(row: InvalidRowError) -> tuple[str, str | None]:
    """What tells one bad row from another; a stretch may be unread for another reason each time it is tried."""
    return row.where, None if isinstance(row, UnreadableStretchError) else row.reason
