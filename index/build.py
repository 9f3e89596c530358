"""Builds an index: corpus to plan, plan to store, store to a published version.

A build can be stopped at any time, kill -9 included: finished batches are in `building/store.sqlite`, and the next
build of the same index goes on from there.
"""

import contextlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from encoder.program import plain_console
from index.corpus import find_files, read_corpus
from index.embed import embed, is_current
from index.encoding import CheckpointSource, EncoderSource
from index.errors import (
    IndexCorruptError,
    IndexFormatError,
    IndexNotFoundError,
    InvalidCorpusError,
    InvalidRowError,
)
from index.locations import without_secrets
from index.manifest import Manifest
from index.plan import Plan, PlannedEntry
from index.progress import progress
from index.publish import publish_store, read_bad_rows
from index.settings import BuildSettings
from index.store import Known, Store, open_read_only, read_known
from index.versions import STORE_NAME, IndexDirectory, OpenVersion, open_published

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
        EncoderError: the encoder cannot be loaded.
        IndexLockedError: another builder is at work there.
        OSError: the disk is full or not writable.
    """
    source = source or CheckpointSource(settings)
    console = console or plain_console(stderr=True)
    directory = IndexDirectory(settings.output)
    find_files(settings.corpus)  # this and the checkpoint before anything is read or written
    fingerprint = source.fingerprint()
    with directory.locked_for_building():
        directory.recover()
        directory.building_dir.mkdir(exist_ok=True)
        build = _Build(settings, source, console, directory)
        try:
            return build.run(fingerprint)
        finally:
            build.close()


@dataclass(frozen=True)
class _Comparison:
    """How a store differs from the plan.

    Attributes:
        num_current: Keys that are stored as the corpus has them.
        num_stale: Entries that are not, nor were refused and would be again; they are marked in the plan.
        is_in_order: Whether the stored keys' rows are 0, 1, 2, ... in the plan's order.
    """

    num_current: int
    num_stale: int
    is_in_order: bool


class _Build:
    """One run of the builder."""

    def __init__(
        self, settings: BuildSettings, source: EncoderSource, console: Console, directory: IndexDirectory
    ) -> None:
        self._settings = settings
        self._source = source
        self._console = console
        self._directory = directory
        self._plan = Plan(directory.building_dir / PLAN_NAME)
        self._published, self._is_sound = _open_base(directory)

    def run(self, fingerprint: str) -> BuildReport:
        """Does what `build_index` promises, with the encoder of this fingerprint."""
        self._read_corpus()
        base, difference = self._compare_with_published(fingerprint)
        if base is not None and difference is not None and self._is_up_to_date(base, difference):
            return self._keep(base)
        with contextlib.closing(self._open_store(fingerprint, base)) as store:
            num_embedded = self._update(store)
            if store.num_keys() == 0:
                raise InvalidCorpusError(self._nothing_left())
            is_in_order = difference is not None and difference.is_in_order
            if base is not None and is_in_order and self._is_unchanged(store, base):
                return self._keep(base, num_embedded)
            manifest = publish_store(store, self._plan, self._directory, self._settings)
        return BuildReport(manifest, self._directory.version_dir(manifest.version), True, num_embedded)

    def close(self) -> None:
        """Leaves nothing behind but the store, if there is one to go on with, and the newest versions."""
        self._plan.close()
        if self._published is not None:
            self._published.release()
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

    def _skip(self, row: InvalidRowError, position: int | None = None, is_remembered: bool = False) -> None:
        if self._settings.strict:
            raise row
        self._plan.add_bad_row(row, position, is_remembered)

    def _nothing_left(self) -> str:
        bad_rows = self._plan.bad_rows()
        paths = ", ".join(map(without_secrets, self._settings.corpus))
        first = f"; the first is {bad_rows[0]}" if bad_rows else ""
        return f"nothing to index in {paths}: no usable row, {len(bad_rows)} bad rows{first}"

    def _compare(self, known: Callable[[str], Known | None]) -> _Comparison:
        """Compares a store with the plan; marks what is stale, and skips what was refused and would be again."""
        num_current = num_stale = num_stored = 0
        is_in_order = True
        self._plan.forget_comparison()
        for entry in self._plan.entries():
            stored = known(entry.key)
            is_stale = not is_current(entry, stored, self._settings)
            if is_stale:
                self._plan.mark_stale(entry.position)
                num_stale += 1
            if stored is not None and stored.reason is None:
                is_in_order &= stored.row == num_stored
                num_stored += 1
                num_current += not is_stale
            elif stored is not None and stored.reason is not None and not is_stale:
                row = InvalidRowError(entry.where, stored.reason, entry.key)
                self._skip(row, entry.position, is_remembered=True)
        return _Comparison(num_current, num_stale, is_in_order)

    def _compare_with_published(self, fingerprint: str) -> tuple[OpenVersion | None, _Comparison | None]:
        """The published version, if this encoder made it, and how it differs from the plan."""
        base = self._published
        if base is None or base.manifest.encoder.fingerprint != fingerprint:
            return None, None
        with contextlib.closing(open_read_only(base.path / STORE_NAME)) as db:
            return base, self._compare(lambda key: read_known(db, key))

    def _is_up_to_date(self, base: OpenVersion, difference: _Comparison) -> bool:
        """Whether the published version is what this build would make; decided without the encoder."""
        is_complete = difference.num_stale == 0 and difference.num_current == base.manifest.num_keys
        return self._is_sound and is_complete and difference.is_in_order and self._has_same_bad_rows(base)

    def _open_store(self, fingerprint: str, base: OpenVersion | None) -> Store:
        """The store to go on with: of a build that was stopped, a copy of the published one, or a new one."""
        path = self._directory.building_dir / STORE_NAME
        store = _resume(path, fingerprint)
        if store is not None:
            self._compare(store.known)
            return store
        if base is not None:
            aside = path.with_suffix(".part")
            shutil.copyfile(base.path / STORE_NAME, aside)
            aside.rename(path)
            store = Store(path)
            store.note(base=base.manifest.version)
            return store
        self._compare(lambda key: None)
        store = Store(path)
        store.note(fingerprint=fingerprint)
        return store

    def _update(self, store: Store) -> int:
        """Embeds what is stale and makes the store hold what the plan says; gives the number embedded."""
        num_embedded = 0
        with progress(self._console, "embedding", self._plan.count(only_stale=True)) as advance:
            for batch in embed(self._stale(store), self._source, self._settings):
                if batch.num_embedded and not num_embedded:
                    self._note_encoder(store)
                num_embedded += batch.num_embedded
                store.commit(batch.keys, batch.refusals, batch.unreadable)
                for entry, row in batch.bad_rows:
                    self._skip(row, entry.position)
                advance(batch.num_entries)
        self._plan.commit()
        store.follow(self._plan.path)
        return num_embedded

    def _stale(self, store: Store) -> Iterator[tuple[PlannedEntry, Known | None]]:
        for entry in self._plan.entries(only_stale=True):
            yield entry, store.known(entry.key)

    def _note_encoder(self, store: Store) -> None:
        encoder = self._source.load()
        store.note(fingerprint=encoder.fingerprint, name=encoder.name, width=encoder.width, fusion=str(encoder.fusion))
        computed_in = {*json.loads(store.meta.get("computed_in", "[]")), f"{encoder.precision} on {encoder.device}"}
        store.note(computed_in=json.dumps(sorted(computed_in)))

    def _keep(self, base: OpenVersion, num_embedded: int = 0) -> BuildReport:
        """Ends a build that found nothing to change."""
        _delete_store(self._directory.building_dir / STORE_NAME)
        return BuildReport(base.manifest, base.path, False, num_embedded)

    def _is_unchanged(self, store: Store, base: OpenVersion) -> bool:
        """Whether the store, after all, holds what the published version does (files were only touched)."""
        is_copy = store.meta.get("base") == base.manifest.version
        return self._is_sound and is_copy and store.seq == base.manifest.seq and self._has_same_bad_rows(base)

    def _has_same_bad_rows(self, base: OpenVersion) -> bool:
        return list(map(str, self._plan.bad_rows())) == list(map(str, read_bad_rows(base.path)))


def _open_base(directory: IndexDirectory) -> tuple[OpenVersion | None, bool]:
    """The published version, and whether all of it is sound; of a damaged one the store may still be good."""
    try:
        return open_published(directory.path), True
    except IndexNotFoundError:
        return None, False
    except (IndexCorruptError, IndexFormatError) as error:
        logger.warning("%s; building a new version", error)
    try:
        return open_published(directory.path, [STORE_NAME]), False
    except (IndexCorruptError, IndexFormatError):
        return None, False


def _resume(path: Path, fingerprint: str) -> Store | None:
    """The store that a stopped build left, if this encoder's vectors are in it; any other is deleted."""
    if path.exists():
        try:
            store = Store(path)
            if store.meta.get("fingerprint") == fingerprint:
                return store
            store.close()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged (%s); starting over", path, error)
    _delete_store(path)
    return None


def _delete_store(path: Path) -> None:
    """Deletes a store with its journals and half copies."""
    for leftover in path.parent.glob(f"{path.stem}.*"):
        leftover.unlink()
