"""The store that a build, or a new embedding, fills before it becomes part of an index."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from anykey.index.errors import IndexCorruptError
from anykey.index.store.records import Record
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.vectors.targets import VectorType

logger = logging.getLogger(__name__)


def remove_empty(folder: Path) -> None:
    """Deletes a folder, but only if it is empty."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def records_of(staged: Store, keys: Iterable[str]) -> Iterator[Record]:
    """Those of the keys that a store holds; its damage is said of it, and not of the store that takes them over."""
    with naming_damage(staged.path):
        for key in keys:
            if staged.has(key):
                yield staged.record(key)


def resume(path: Path, fingerprint: str, imported: str, vectors: VectorType | None) -> Store | None:
    """What a stopped build left, if its vectors are of this encoder, origin and type; any other store is deleted.

    Raises:
        OSError: it cannot be read now, or the disk is full.
    """
    if path.exists():
        try:
            with naming_damage(path):
                store = Store(path)
                meta = store.meta
                is_of_type = vectors in (None, meta.get("vector_type"))
                if is_of_type and (meta.get("fingerprint"), meta.get("imported", "")) == (fingerprint, imported):
                    return store
                if num_keys := store.num_keys():
                    logger.warning(
                        "%s holds %d keys that a stopped build embedded with another encoder, --faiss, --normalize or "
                        "--vectors, or that `reembed` did; starting over",
                        *(path, num_keys),
                    )
                store.close()
        except IndexCorruptError as error:
            logger.warning("%s; starting over", error)
    delete_store(path)
    return None


def delete_store(path: Path) -> None:
    """Deletes a store with its journals."""
    for leftover in path.parent.glob(f"{path.stem}.*"):
        leftover.unlink()
