"""What an index says about itself at one moment."""

from collections.abc import Mapping, Sequence
from typing import Any

from anykey.index.embedded.backoff import FoldFailure
from anykey.index.embedded.store_reader import Snapshot
from anykey.index.embedded.view import View
from anykey.index.embedded.writer import FAILURE_NAME, NO_FAILURE, Writer
from anykey.index.key_index import IndexInfo


def info_of(view: View, snapshot: Snapshot, writer: Writer | None, image_roots: Sequence[str]) -> IndexInfo:
    """The facts of a view; `snapshot` is of the same moment.

    Args:
        view: What the version and the changes since come to.
        snapshot: The store.
        writer: The index's, if it is this object's.
        image_roots: Below which images are read that the index refers to.
    """
    manifest, meta = view.folded.manifest, snapshot.meta()
    failure = _fold_failure(meta) if writer is None else writer.fold_failure or _fold_failure(meta)
    return IndexInfo(
        engine="faiss",
        encoder=manifest.encoder,
        num_keys=view.num_keys,
        modalities=snapshot.count_by_modality(),
        pools=view.pool_sizes(),
        details={
            "version": manifest.version,
            "created_at": manifest.created_at,
            "seq": view.seq,
            "structure": None if manifest.structure is None else manifest.structure.model_dump(mode="json"),
            "vectors": meta["vector_type"],
            "num_folded": manifest.num_keys,
            "num_unfolded": view.num_unfolded,
            "num_damaged": len(view.recent.unsound),
            "fold_failure": None if failure is None else failure.model_dump(),
            "is_writable": writer is not None,
            "image_roots": list(image_roots),
        },
    )


def _fold_failure(meta: Mapping[str, Any]) -> FoldFailure | None:
    """What a writer, of whichever process, has noted of making a version."""
    noted = meta.get(FAILURE_NAME, NO_FAILURE)
    return None if noted == NO_FAILURE else FoldFailure.model_validate_json(noted)
