"""What an index says about itself at one moment."""

from collections.abc import Sequence

from anykey.index.key_index import IndexInfo
from anykey.index.search.view import View
from anykey.index.store.backoff import FoldFailure
from anykey.index.store.store_reader import ReadTransaction


def info_of(
    view: View,
    transaction: ReadTransaction,
    fold_failure: FoldFailure | None,
    image_roots: Sequence[str],
    *,
    is_writable: bool,
) -> IndexInfo:
    """The facts of a view; `transaction` is of the same moment.

    Args:
        view: What the version and the changes since come to.
        transaction: The store.
        fold_failure: What this object's own writer says of making a version; `None` if it has none, or all is well.
        image_roots: Below which images are read that the index refers to.
        is_writable: Whether this object has the index's writer.
    """
    manifest, meta = view.files.manifest, transaction.meta()
    failure = fold_failure or FoldFailure.noted(meta)
    return IndexInfo(
        engine="faiss",
        encoder=manifest.encoder,
        num_keys=view.num_keys,
        modalities=transaction.count_by_modality(),
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
            "is_writable": is_writable,
            "image_roots": list(image_roots),
        },
    )
