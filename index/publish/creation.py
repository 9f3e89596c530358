"""A new index, with its first version."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from anykey.index.errors import IndexCorruptError, IndexExistsError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, publish_with_changes
from anykey.index.store.manifest import EncoderFacts, FoldOptions
from anykey.index.store.records import Record
from anykey.index.store.store import Store
from anykey.index.store.store_file import is_unfinished, naming_damage
from anykey.index.vectors.structure_facts import VectorType
from anykey.index.vectors.structures import ON_CPU, GpuUse


def create_index(
    index_dir: Path,
    encoder: EncoderFacts,
    vector_type: VectorType = "float32",
    options: FoldOptions | None = None,
    records: Iterable[Record] = (),
    gpu: GpuUse = ON_CPU,
) -> None:
    """Publishes a new index, without keys or with those that have been checked; one that was stopped is run again.

    Args:
        index_dir: Where; must hold no index.
        encoder: The encoder whose vectors will be stored.
        vector_type: How they are stored.
        options: How its versions are derived.
        records: Its first keys; read one by one.
        gpu: GPUs that help to derive the first version.

    Raises:
        IndexExistsError: there is an index already, or what is left of one, or of a stopped build.
        IndexLockedError: somebody is making one.
        OSError: the disk is full or not writable; there is no index.
    """
    directory = WritableDirectory(Path(index_dir))
    with directory.locked_for_writing("create"):
        _require_none(directory)
        path = directory.begin_store()
        try:
            with closing(Store(path, vector_type)) as store:
                store.covered_seq = 0  # no version will cover a key that comes twice

                def changes() -> bool:
                    store.note_encoder(encoder)
                    store.commit(records)
                    return True

                publish_with_changes(directory, store, changes, Provenance(), options or FoldOptions(), gpu=gpu)
        except BaseException:
            if is_unfinished(path):  # else all was done but the last step
                directory.delete_store(path.parent.name)
            raise


def _require_none(directory: WritableDirectory) -> None:
    """Makes sure that no index would be lost if one were made; what a stopped maker left has no keys."""
    directory.recover()
    if directory.current() is not None:
        raise IndexExistsError(f"there is an index at {directory.path} already")
    for name in directory.store_names():
        path = directory.store_path(name)
        with naming_damage(path), closing(Store(path)) as store:
            if store.num_keys():
                raise IndexExistsError(
                    f"{path} holds {store.num_keys():,} keys that no version is published of: publish them with "
                    f"`anykey-index repair --index {directory.path}`"
                )
    for name in directory.unfinished_store_names():
        _require_nothing_staged(directory.store_path(name))
        directory.delete_store(name)


def _require_nothing_staged(path: Path) -> None:
    """Makes sure that no work of a build is lost that was stopped in making an index."""
    try:
        with naming_damage(path), closing(Store(path)) as store:
            num_keys = store.staging.num_keys()
    except IndexCorruptError:  # a build would not go on with it either
        return
    if num_keys:
        raise IndexExistsError(
            f"{path.parent} holds {num_keys:,} keys that a stopped build embedded: run that build again, or delete the "
            "folder"
        )
