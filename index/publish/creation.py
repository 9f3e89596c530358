"""A new index, with its first version."""

import shutil
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from anykey.index.errors import IndexCorruptError, IndexExistsError
from anykey.index.publish.folding import Provenance, publish_built
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.options import FoldOptions
from anykey.index.store.records import Record
from anykey.index.store.store import Store
from anykey.index.store.store_file import naming_damage
from anykey.index.store.versions import STORE_NAME, IndexDirectory
from anykey.index.vectors.gpu import ON_CPU, GpuUse
from anykey.index.vectors.targets import VectorType


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
    directory = IndexDirectory(Path(index_dir))
    with directory.locked_for_writing():
        _require_none(directory)
        shutil.rmtree(directory.building_dir, ignore_errors=True)
        directory.building_dir.mkdir()
        try:
            with closing(Store(directory.building_dir / STORE_NAME, vector_type)) as store:
                store.note_encoder(encoder)
                store.covered_seq = 0  # no version will cover a key that comes twice
                store.commit(records)
            publish_built(directory, Provenance(), options or FoldOptions(), gpu=gpu)
        except BaseException:
            shutil.rmtree(directory.building_dir, ignore_errors=True)
            raise


def _require_none(directory: IndexDirectory) -> None:
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
    _require_no_stopped_build(directory)


def _require_no_stopped_build(directory: IndexDirectory) -> None:
    """Makes sure that no work of a build is lost; one that was making an index notes where its vectors are from."""
    path = directory.building_dir / STORE_NAME
    if not path.exists():
        return
    try:
        with naming_damage(path), closing(Store(path)) as store:
            num_keys = store.num_keys() if "imported" in store.meta else 0
    except IndexCorruptError:  # a build would not go on with it either
        return
    if num_keys:
        raise IndexExistsError(
            f"{directory.building_dir} holds {num_keys:,} keys that a stopped build embedded: run that build again, or "
            "delete the folder"
        )
