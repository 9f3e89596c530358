"""The embedded engine: exact search with FAISS over the published version of an index.

Shape legend: Q = queries, D = width, N = keys in the index, K = results per query.
"""

import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from encoder.item import Modality
from index.errors import IndexCorruptError, InvalidSearchError
from index.hits import Hit, StoredImage, StoredKey
from index.manifest import Manifest
from index.store_reader import MODALITIES, StoreReader
from index.versions import STORE_NAME, VECTORS_NAME, OpenVersion, open_published

MAX_NORM_ERROR = 1e-3


class FaissIndex:
    """A published index version, open for search; safe for use from several threads.

    It stays on the version it was opened on, whatever is published meanwhile, until it is closed; that version is
    not deleted before. Made by `open`.

    Attributes:
        manifest: What the version says about itself.
    """

    def __init__(self, version: OpenVersion, store: StoreReader, vectors: Any) -> None:
        self.manifest: Manifest = version.manifest
        self._version = version
        self._store = store
        self._vectors = vectors
        self._modalities_N = store.modalities(version.manifest.num_keys)
        self._pool_masks: dict[str, NDArray[np.bool_]] = {}
        self._close_lock = threading.Lock()
        self._is_open = True

    @classmethod
    def open(cls, index_dir: Path) -> "FaissIndex":
        """Opens the published version of an index directory.

        Args:
            index_dir: The directory that `anykey-index build --output` named.

        Raises:
            IndexNotFoundError: nothing is published there; says how to build it.
            IndexCorruptError: a file is missing or damaged; names it.
            IndexFormatError: this release does not read its format.
        """
        version = open_published(Path(index_dir))
        store: StoreReader | None = None
        try:
            vectors = _read_vectors(version.path / VECTORS_NAME, version.manifest)
            store = StoreReader(version.path / STORE_NAME)
            return cls(version, store, vectors)
        except BaseException:
            if store is not None:
                store.close()
            version.release()
            raise

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        *,
        modalities: Collection[Modality] | None = None,
        pool: str | None = None,
        exclude: Collection[str] = (),
    ) -> list[list[Hit]]:
        """Finds the `k` best keys for each query, exactly.

        Filters apply before the search: `k` hits come back whenever `k` keys match.

        Args:
            vectors_QD: Unit vectors of the queries.
            k: Most hits per query; a `k` above the number of matching keys gives all of them.
            modalities: Modalities a hit may have; all when absent.
            pool: Named subset of the corpus to search; the whole corpus when absent.
            exclude: Keys that are no hits; unknown ones are ignored.

        Returns:
            Per query, hits best first; equal scores in the order of the corpus.

        Raises:
            InvalidSearchError: `k` is below 1, the vectors have another width or are no unit vectors, or there is
                no such pool or modality.
            IndexCorruptError: the store turns out to be damaged.
        """
        queries_QD = self._check_vectors(vectors_QD)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InvalidSearchError(f"k must be a whole number of at least 1, got {k!r}")
        allowed_N = self._allowed(modalities, pool, exclude)
        num_allowed = self.manifest.num_keys if allowed_N is None else int(allowed_N.sum())
        if num_allowed == 0 or len(queries_QD) == 0:
            return [[] for _ in queries_QD]
        scores_QK, rows_QK = self._nearest(queries_QD, min(int(k), num_allowed), num_allowed, _selection(allowed_N))
        return self._hits(scores_QK, rows_QK)

    def get(self, key: str) -> StoredKey:
        """Looks a key up.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        return self._store.get(key)

    def image(self, key: str, position: int = 0) -> StoredImage:
        """Gives one image of a key, as the corpus had it.

        Args:
            key: The key.
            position: Which of its images, from 0.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
            ImageUnavailableError: the index was built with `--images reference` and the file is gone.
        """
        return self._store.image(key, position)

    def close(self) -> None:
        """Releases files and lets builders delete the version; no thread may be searching. Repeating it is fine."""
        with self._close_lock:
            if self._is_open:
                self._is_open = False
                self._store.close()
                self._version.release()

    def __enter__(self) -> "FaissIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_vectors(self, vectors_QD: NDArray[np.float32]) -> NDArray[np.float32]:
        queries_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
        width = self.manifest.encoder.width
        if queries_QD.ndim != 2 or queries_QD.shape[1] != width:
            raise InvalidSearchError(f"expected query vectors [Q, {width}], got {list(queries_QD.shape)}")
        norms_Q = np.linalg.norm(queries_QD, axis=1)
        is_unit_Q = np.abs(norms_Q - 1) <= MAX_NORM_ERROR  # false for NaN
        if not is_unit_Q.all():
            position = int(np.argmin(is_unit_Q))
            raise InvalidSearchError(f"query vector {position} has norm {norms_Q[position]:.4g}, expected 1")
        return queries_QD

    def _allowed(
        self, modalities: Collection[Modality] | None, pool: str | None, exclude: Collection[str]
    ) -> NDArray[np.bool_] | None:
        """Which rows may be hits, `[N]`; `None` means all."""
        if modalities is None and pool is None and not exclude:
            return None
        allowed_N = np.ones(self.manifest.num_keys, dtype=np.bool_)
        if modalities is not None:
            allowed_N &= np.isin(self._modalities_N, _codes(modalities))
        if pool is not None:
            allowed_N &= self._pool_mask(pool)
        if exclude:
            allowed_N[self._store.rows_of_keys(exclude)] = False
        return allowed_N

    def _pool_mask(self, pool: str) -> NDArray[np.bool_]:
        """Which rows are in a pool, `[N]`; kept after the first use."""
        if pool not in self.manifest.pools:
            known = ", ".join(self.manifest.pools) or "none, the corpus names no pools"
            raise InvalidSearchError(f"no pool {pool!r} in the index; its pools are: {known}")
        mask_N = self._pool_masks.get(pool)
        if mask_N is None:
            mask_N = np.zeros(self.manifest.num_keys, dtype=np.bool_)
            mask_N[self._store.rows_of_pool(pool)] = True
            self._pool_masks[pool] = mask_N
        return mask_N

    def _nearest(
        self, queries_QD: NDArray[np.float32], k: int, num_allowed: int, parameters: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best allowed rows per query, by score and then by row.

        FAISS returns any of the rows that share the last score, so one more is asked for; where that one ties, the
        query is searched again, deeper, until all rows with that score are seen.
        """
        depth = min(k + 1, num_allowed)
        scores_QK, rows_QK = _sorted(*self._vectors.search(queries_QD, depth, params=parameters))
        if depth < num_allowed:
            for query in np.flatnonzero(scores_QK[:, k - 1] == scores_QK[:, k]):
                scores_QK[query, :k], rows_QK[query, :k] = self._break_tie(
                    queries_QD[query : query + 1], k, num_allowed, parameters
                )
        return scores_QK[:, :k], rows_QK[:, :k]

    def _break_tie(
        self, query_1D: NDArray[np.float32], k: int, num_allowed: int, parameters: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best rows of one query, whose k-th score is shared by others."""
        depth = k + 1
        while True:
            depth = min(4 * depth, num_allowed)
            scores_1K, rows_1K = _sorted(*self._vectors.search(query_1D, depth, params=parameters))
            if depth == num_allowed or scores_1K[0, -1] < scores_1K[0, k - 1]:
                return scores_1K[0, :k], rows_1K[0, :k]

    def _hits(self, scores_QK: NDArray[np.float32], rows_QK: NDArray[np.int64]) -> list[list[Hit]]:
        records = self._store.records(rows_QK.ravel().tolist())
        scores_QK = np.clip(scores_QK, -1.0, 1.0)
        return [
            [
                Hit(record.key, score, rank, record.modality, record.payload)
                for rank, (score, record) in enumerate(
                    zip(scores_K, map(records.__getitem__, rows_K), strict=True), start=1
                )
            ]
            for scores_K, rows_K in zip(scores_QK.tolist(), rows_QK.tolist(), strict=True)
        ]


def _read_vectors(path: Path, manifest: Manifest) -> Any:
    """The FAISS structure, after a look at whether it is the one the manifest describes."""
    try:
        vectors = faiss.read_index(str(path))
    except RuntimeError as error:
        raise IndexCorruptError(path, str(error).splitlines()[0]) from error
    shape = (vectors.ntotal, vectors.d)
    if shape != (manifest.num_keys, manifest.encoder.width) or vectors.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexCorruptError(
            path,
            f"it holds {shape[0]} vectors of width {shape[1]}, the manifest says "
            f"{manifest.num_keys} of width {manifest.encoder.width}",
        )
    return vectors


def _codes(modalities: Collection[Modality]) -> list[int]:
    try:
        return [MODALITIES.index(Modality(modality)) for modality in modalities]
    except ValueError as error:
        raise InvalidSearchError(f"unknown modality: {error}; expected some of {', '.join(MODALITIES)}") from error


def _selection(allowed_N: NDArray[np.bool_] | None) -> Any:
    """FAISS search parameters that only see the allowed rows."""
    if allowed_N is None:
        return None
    wrapper: Any = faiss  # its type stubs describe the C++ constructors, not the Python ones
    bitmap = wrapper.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
    return wrapper.SearchParameters(sel=bitmap)


def _sorted(
    scores_QK: NDArray[np.float32], rows_QK: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Each query's results by falling score; equal scores by rising row."""
    order_QK = np.lexsort((rows_QK, -scores_QK), axis=-1)
    return np.take_along_axis(scores_QK, order_QK, axis=-1), np.take_along_axis(rows_QK, order_QK, axis=-1)
