"""The store that a build fills: the index's own, or a new one where there is none of this encoder."""

import logging
from contextlib import closing
from pathlib import Path

from anykey.index.errors import IndexCorruptError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.verify import damage_of_store
from anykey.index.store.staging import starting_over
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.vectors.structure_facts import VectorType

logger = logging.getLogger(__name__)


def open_new_store(
    directory: WritableDirectory, fingerprint: str, origin: str, vectors: VectorType | None, anew: bool = False
) -> Store:
    """A store that no version is made of yet: what a stopped run left, if it is of this encoder, or an empty one.

    Args:
        directory: Where the index is; locked for writing.
        fingerprint: The encoder's.
        origin: What tells its vectors from others with that fingerprint.
        vectors: How it keeps vectors; as what was left does, or as float32, when absent.
        anew: Whether all of what was left is looked at first, as damage that is met later ends the run.

    Raises:
        OSError: what was left cannot be read now, or the disk is full.
    """
    for name in reversed(directory.unfinished_store_names()):
        path = directory.store_path(name)
        try:
            for damage in damage_of_store(path) if anew and path.exists() else ():
                raise damage
            store = _resumed(path, fingerprint, origin, vectors)
        except IndexCorruptError as error:
            logger.warning("%s; starting over", error)
            store = None
        if store is not None:
            return store
        directory.delete_store(name)
    return _begun(Store(directory.begin_store(), vectors or "float32"), fingerprint, origin)


def delete_unfinished(directory: WritableDirectory) -> None:
    """Deletes what stopped runs with another encoder left, which no later one will go on with."""
    for name in directory.unfinished_store_names():
        path = directory.store_path(name)
        if num_keys := _num_staged(path):
            logger.warning("%s %s", path, starting_over(num_keys))
        directory.delete_store(name)


def _resumed(path: Path, fingerprint: str, origin: str, vectors: VectorType | None) -> Store | None:
    """A store that a stopped run began to fill, if this one goes on with it.

    Raises:
        IndexCorruptError: it is damaged.
    """
    if not path.exists():
        return None
    with naming_damage(path):
        store = Store(path)
        facts, num_keys = store.staging.facts, store.staging.num_keys()
        is_of_type = vectors in (None, store.meta["vector_type"])
        if is_of_type and facts is not None and (facts.fingerprint, facts.origin) == (fingerprint, origin):
            return _begun(store, fingerprint, origin)
        if num_keys:
            logger.warning("%s %s", path, starting_over(num_keys))
        store.close()
        return None


def _begun(store: Store, fingerprint: str, origin: str) -> Store:
    """A store of its own that is being filled."""
    store.covered_seq = 0  # no version will cover what is replaced in it
    try:
        store.staging.begin(fingerprint, origin)
    except BaseException:
        store.close()
        raise
    return store


def _num_staged(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with naming_damage(path), closing(Store(path)) as store:
            return store.staging.num_keys()
    except IndexCorruptError:
        return 0
