"""The store that a build fills: the index's own, or a new one where there is none of this encoder."""

import logging
from contextlib import closing
from pathlib import Path

from anykey.index.errors import IndexCorruptError
from anykey.index.store.staging import starting_over
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.store.versions import IndexDirectory
from anykey.index.vectors.targets import VectorType

logger = logging.getLogger(__name__)


def open_new_store(directory: IndexDirectory, fingerprint: str, origin: str, vectors: VectorType | None) -> Store:
    """A store that no version is made of yet: what a stopped run left, if it is of this encoder, or an empty one.

    Args:
        directory: Where the index is; locked for writing.
        fingerprint: The encoder's.
        origin: What tells its vectors from others with that fingerprint.
        vectors: How it keeps vectors; as what was left does, or as float32, when absent.

    Raises:
        OSError: what was left cannot be read now, or the disk is full.
    """
    for name in reversed(directory.unfinished_store_names()):
        store = _resumed(directory.store_path(name), fingerprint, origin, vectors)
        if store is not None:
            break
        directory.delete_store(name)
    else:
        store = Store(directory.begin_store(), vectors or "float32")
    store.covered_seq = 0  # no version will cover what is replaced in it
    try:
        store.staging.begin(fingerprint, origin)
    except BaseException:
        store.close()
        raise
    return store


def delete_unfinished(directory: IndexDirectory) -> None:
    """Deletes what stopped runs with another encoder left, which no later one will go on with."""
    for name in directory.unfinished_store_names():
        path = directory.store_path(name)
        if num_keys := _num_staged(path):
            logger.warning("%s %s", path, starting_over(num_keys))
        directory.delete_store(name)


def _resumed(path: Path, fingerprint: str, origin: str, vectors: VectorType | None) -> Store | None:
    """A store that a stopped run began to fill, if this one goes on with it."""
    if not path.exists():
        return None
    try:
        with naming_damage(path):
            store = Store(path)
            facts, num_keys = store.staging.facts, store.staging.num_keys()
            is_of_type = vectors in (None, store.meta["vector_type"])
    except IndexCorruptError as error:
        logger.warning("%s; starting over", error)
        return None
    if is_of_type and facts is not None and (facts.fingerprint, facts.origin) == (fingerprint, origin):
        return store
    if num_keys:
        logger.warning("%s %s", path, starting_over(num_keys))
    store.close()
    return None


def _num_staged(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with naming_damage(path), closing(Store(path)) as store:
            return store.staging.num_keys()
    except IndexCorruptError:
        return 0
