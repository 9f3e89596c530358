"""What an index says about itself at one moment."""

from index.embedded.store_reader import Snapshot
from index.embedded.view import View
from index.key_index import IndexInfo


def info_of(view: View, snapshot: Snapshot, *, is_writable: bool) -> IndexInfo:
    """The facts of a view; `snapshot` is of the same moment.

    Args:
        view: What the version and the changes since come to.
        snapshot: The store.
        is_writable: Whether who asks may change the index.
    """
    manifest = view.folded.manifest
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
            "vectors": snapshot.meta()["vector_type"],
            "num_folded": manifest.num_keys,
            "num_unfolded": view.num_unfolded,
            "num_damaged": len(view.recent.unsound),
            "is_writable": is_writable,
        },
    )
