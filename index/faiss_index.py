"""The embedded engine: exact search with FAISS over the published version of an index.

Shape legend: Q = queries, D = width, N = keys in the index, K = results per query.
"""

from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from encoder.item import Modality
from index.hits import Hit, StoredImage, StoredKey
from index.manifest import Manifest


class FaissIndex:
    """A published index version, open for search; safe for use from several threads."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @classmethod
    def open(cls, index_dir: Path) -> "FaissIndex":
        """Opens the published version of an index directory."""
        raise NotImplementedError

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        *,
        modalities: Collection[Modality] | None = None,
        pool: str | None = None,
        exclude: Collection[str] = (),
    ) -> list[list[Hit]]:
        """Finds the `k` best keys for each query."""
        raise NotImplementedError

    def get(self, key: str) -> StoredKey:
        """Looks a key up."""
        raise NotImplementedError

    def image(self, key: str, position: int = 0) -> StoredImage:
        """Gives one image of a key."""
        raise NotImplementedError

    def close(self) -> None:
        """Releases files and memory."""
        raise NotImplementedError

    def __enter__(self) -> "FaissIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
