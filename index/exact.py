"""Exact vectors (stand-in until the real one is merged)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import IndexCorruptError


def write_exact(path: Path, width: int, vector_type: str, batches: Iterable[NDArray[np.float32]]) -> None:
    kind = faiss.IndexFlatIP(width)
    if vector_type == "float16":
        kind = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for vectors_BD in batches:
        kind.add(vectors_BD)
    faiss.write_index(kind, str(path))


class ExactVectors:
    def __init__(self, index: Any) -> None:
        self._index = index
        self.num_vectors, self.width = index.ntotal, index.d

    @classmethod
    def open(cls, path: Path) -> "ExactVectors":
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError as error:
            raise IndexCorruptError(path, str(error).splitlines()[0]) from error

    def search(self, queries: NDArray[np.float32], k: int, allowed: Any) -> tuple[Any, Any]:
        from index.recent import best

        vectors = (
            self._index.reconstruct_n(0, self.num_vectors) if self.num_vectors else np.empty((0, self.width), "f4")
        )
        positions = np.arange(self.num_vectors) if allowed is None else allowed
        positions = np.flatnonzero(positions) if positions.dtype == np.bool_ else positions
        scores = queries @ vectors[positions].T
        return best(scores, np.broadcast_to(positions, scores.shape), k)
