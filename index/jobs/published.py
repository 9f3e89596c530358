"""What a build starts from: the index that is published, as far as it is sound."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from anykey.index.errors import IndexCorruptError, IndexFormatError, IndexNotFoundError, LiveKeysError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.verify import damage_of_store
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.store.store_reader import check_store
from anykey.index.store.versions import OpenVersion, open_published

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedIndex:
    """A published version and its store.

    Attributes:
        store: The store.
        version: The version; `None` if its manifest is damaged.
        is_sound: Whether all of the version's files are.
        has_encoder: Whether its vectors are of the build's encoder, so that the build can go on from it.
    """

    store: Store
    version: OpenVersion | None
    is_sound: bool
    has_encoder: bool

    def close(self) -> None:
        """Closes the store and lets go of the version."""
        self.store.close()
        if self.version is not None:
            self.version.release()


def open_published_index(
    directory: WritableDirectory,
    fingerprint: str,
    anew: bool,
    lacking: Callable[[Iterable[str]], Iterable[str]],
    opened: Callable[[Path], Store] = Store,
) -> PublishedIndex | None:
    """The published index, unless there is none, or its store is damaged and may be left behind.

    Args:
        directory: Where the index is.
        fingerprint: The build's encoder's.
        anew: Whether a store that cannot be gone on from may be left behind, with what was stored live in it.
        lacking: Gives those of some keys that the corpus does not have.
        opened: Opens the store: for writing, where the directory is locked for it, or `Store.reading`.

    Raises:
        LiveKeysError: it cannot be gone on from, and keys that were stored live are in it, or may be.
    """
    version, is_sound = _open_version(directory)
    store_path = version.store_path if version is not None else _newest_store(directory)
    if store_path is None:
        return None
    store = None
    try:
        with naming_damage(store_path):
            check_store(store_path, None if version is None else version.manifest)
            if anew:  # damage that is met later would end the build
                for damage in damage_of_store(store_path):
                    raise damage
            store = opened(store_path)
            store.covered_seq = None if version is None else version.manifest.seq
            published = PublishedIndex(store, version, is_sound, store.meta.get("fingerprint") == fingerprint)
            num_live = 0 if published.has_encoder else sum(1 for _ in lacking(store.keys("live")))
            if anew or not num_live:
                return published
    except IndexCorruptError as error:
        if not anew:
            raise LiveKeysError(f"{error}; restore a copy, or use --anew to build from the corpus alone") from error
        logger.warning("%s; building anew", error)
        _release(store, version)
        return None
    _release(store, version)
    raise LiveKeysError(
        f"{num_live:,} keys of {directory.path} were stored live, by another encoder than this build's, and the corpus "
        f"lacks them: `anykey-index reembed --index {directory.path}` embeds all keys anew; or name in the corpus what "
        "`anykey-index export` wrote of them, or use --anew to drop them"
    )


def _open_version(directory: WritableDirectory) -> tuple[OpenVersion | None, bool]:
    """The published version, and whether all of it is sound."""
    try:
        return open_published(directory.path), True
    except IndexNotFoundError:
        return None, False
    except (IndexCorruptError, IndexFormatError) as error:
        logger.warning("%s; building a new version", error)
    try:
        return open_published(directory.path, files=[]), False
    except (IndexCorruptError, IndexFormatError):
        return None, False


def _newest_store(directory: WritableDirectory) -> Path | None:
    names = directory.store_names()
    return directory.store_path(names[-1]) if names else None


def _release(store: Store | None, version: OpenVersion | None) -> None:
    if store is not None:
        store.close()
    if version is not None:
        version.release()
