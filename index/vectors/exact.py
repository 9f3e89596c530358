"""The exact vectors of a version: one FAISS file, written as a stream, opened memory-mapped, searched exactly.

float32 vectors are a FAISS `IndexFlatIP`, float16 ones an `IndexScalarQuantizer` of kind `QT_fp16`. A query is compared
with each of those vectors that it may return, wherever in memory those are. FAISS computes the scores of pairs on all
cores, also for one query, which its searches leave to one core; and a vector that was fetched meets all queries before
the next one is. The scores are those of FAISS's searches to the last bit.

Shape legend: Q = queries, D = width, N = vectors, or results to choose from, V = vectors of a mask, K = results per
query, C = candidates for the best of them, B = batch, or positions compared at once, P = positions that may be found.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError, faiss_reason
from anykey.index.vectors.structure_facts import VectorType

QUERIES_AT_ONCE = 64  # so that there are many positions a block, and few blocks
FEWEST_QUERIES = 16  # of one call, for FAISS shares queries out among its threads
PAIRS_IN_TURN = 2**26  # of a query and a vector, about a second's work of one core
PAIRS_AT_ONCE = 2**18  # 5 MiB of scores and of numbers that say whose they are
FEW_SHARE = 1 / 256
DECODED_BYTES = 32 * 2**20  # of vectors that are decoded at once for scoring

_COUNT_PLACE = slice(8, 16)  # of a FAISS file, after its kind and width: number of vectors

_faiss: Any = faiss  # its type stubs describe the C++ functions, not the Python ones

Allowed = NDArray[np.bool_] | NDArray[np.int64] | None  # a mask [V], ascending positions [P], or all
Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and positions [Q, K]


def best_of_each(
    queries_QD: NDArray[np.float32],
    structure: Any,
    positions_P: NDArray[np.int64] | None,
    k: int,
    deadline: Deadline = NEVER,
) -> Found:
    """The `k` best vectors per query, by score and then by position.

    Args:
        queries_QD: At least one, in C order.
        structure: A FAISS `IndexFlat`, whose vectors they are.
        positions_P: Which of its vectors to compare with, ascending; with all when absent.
        k: Results per query, of 1 to P.
        deadline: Until when they are wanted.

    Returns:
        Scores and positions `[Q, k]`.

    Raises:
        DeadlineExceededError: they are no longer wanted.
    """
    found = []
    for start in range(0, len(queries_QD), QUERIES_AT_ONCE):
        queries_BD = queries_QD[start : start + QUERIES_AT_ONCE]
        found.append(_best_in_blocks(queries_BD, structure, positions_P, k, deadline))
    scores, positions = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(positions)


def in_turns(
    search: Callable[[NDArray[np.float32]], Found],
    queries_QD: NDArray[np.float32],
    num_vectors: int,
    deadline: Deadline,
) -> Found:
    """What a search gives for all queries, asked for some at a time, so that it stops soon after the deadline.

    Args:
        search: Of one call, which nothing can stop.
        queries_QD: At least one.
        num_vectors: How many each query is compared with, at most.
        deadline: Until when the answer is wanted; without one, all are asked for at once.

    Raises:
        DeadlineExceededError: the answer is no longer wanted.
    """
    if deadline is NEVER:
        return search(queries_QD)
    step = max(FEWEST_QUERIES, PAIRS_IN_TURN // max(1, num_vectors))
    found = []
    for start in range(0, len(queries_QD), step):
        deadline.check()
        found.append(search(queries_QD[start : start + step]))
    scores, positions = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(positions)


def best(scores_QN: NDArray[np.float32], positions_QN: NDArray[np.int64], k: int) -> Found:
    """The `k` best of each line: by falling score, equal scores by rising position, also at the cut; all if fewer."""
    k = min(k, scores_QN.shape[1])
    scores_QK = np.empty((len(scores_QN), k), dtype=np.float32)
    positions_QK = np.empty((len(scores_QN), k), dtype=np.int64)
    if k == 0:
        return scores_QK, positions_QK
    least_Q = np.partition(scores_QN, -k, axis=1)[:, -k]
    for query, least in enumerate(least_Q):
        candidates = np.flatnonzero(scores_QN[query] >= least)
        scores_C, positions_C = scores_QN[query, candidates], positions_QN[query, candidates]
        order_K = np.lexsort((positions_C, -scores_C))[:k]
        scores_QK[query], positions_QK[query] = scores_C[order_K], positions_C[order_K]
    return scores_QK, positions_QK


def _best_in_blocks(
    queries_QD: NDArray[np.float32],
    structure: Any,
    positions_P: NDArray[np.int64] | None,
    k: int,
    deadline: Deadline,
) -> Found:
    scores_QK = np.empty((len(queries_QD), 0), dtype=np.float32)
    positions_QK = np.empty((len(queries_QD), 0), dtype=np.int64)
    for positions_B in _blocks(positions_P, structure.ntotal, PAIRS_AT_ONCE // len(queries_QD)):
        deadline.check()
        scores_QB = _scores(queries_QD, structure, positions_B)
        positions_QB = np.broadcast_to(positions_B, scores_QB.shape)
        scores_QN = np.concatenate([scores_QK, scores_QB], axis=1)
        positions_QN = np.concatenate([positions_QK, positions_QB], axis=1)
        scores_QK, positions_QK = best(scores_QN, positions_QN, k)
    return scores_QK, positions_QK


def _blocks(positions_P: NDArray[np.int64] | None, num_vectors: int, size: int) -> Iterator[NDArray[np.int64]]:
    count = num_vectors if positions_P is None else len(positions_P)
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield np.arange(start, stop) if positions_P is None else positions_P[start:stop]


def _scores(queries_QD: NDArray[np.float32], structure: Any, positions_B: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores `[Q, B]`."""
    scores_BQ = np.empty((len(positions_B), len(queries_QD)), dtype=np.float32)
    of_query = np.tile(np.arange(len(queries_QD)), len(positions_B))
    of_vector = np.repeat(positions_B, len(queries_QD))
    _faiss.pairwise_indexed_inner_product(
        structure.d,
        scores_BQ.size,
        _faiss.swig_ptr(queries_QD),
        _faiss.swig_ptr(of_query),
        structure.get_xb(),
        _faiss.swig_ptr(of_vector),
        _faiss.swig_ptr(scores_BQ),
    )
    return scores_BQ.T


def count_allowed(allowed: Allowed, num_vectors: int) -> int:
    """Number of positions that are allowed."""
    if allowed is None:
        return num_vectors
    return int(np.count_nonzero(allowed)) if allowed.dtype == np.bool_ else len(allowed)


def as_positions(allowed: NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The allowed positions, ascending, `[P]`."""
    positions_P = np.flatnonzero(allowed) if allowed.dtype == np.bool_ else allowed
    return np.ascontiguousarray(positions_P, dtype=np.int64)


def as_mask(allowed: NDArray[np.bool_] | NDArray[np.int64], num_vectors: int) -> NDArray[np.bool_]:
    """Whether each position is allowed, `[V]`."""
    if allowed.dtype == np.bool_:
        return allowed.astype(np.bool_, copy=False)
    mask_V = np.zeros(num_vectors, dtype=np.bool_)
    mask_V[allowed] = True
    return mask_V


def bitmap_selector(allowed: Allowed, num_vectors: int) -> Any:
    """A FAISS selector that tests one bit a vector; `None` where all are allowed."""
    if allowed is None:
        return None
    return _faiss.IDSelectorBitmap(np.packbits(as_mask(allowed, num_vectors), bitorder="little"))


def sort_by_score(
    scores_QK: NDArray[np.float32], positions_QK: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Each query's results by falling score; equal scores by rising position; missing ones (-1) last."""
    is_missing_QK = positions_QK < 0
    order_QK = np.lexsort((positions_QK, -scores_QK, is_missing_QK), axis=-1)
    return np.take_along_axis(scores_QK, order_QK, axis=-1), np.take_along_axis(positions_QK, order_QK, axis=-1)


# The share of all float16 vectors below which copying the allowed ones out is faster than passing over all of them;
# measured at 1,000,000 x 512._faiss: Any = faiss  # its type stubs describe the C++ constructors, not the Python ones


def write_exact(path: Path, batches: Iterable[NDArray[Any]], width: int, dtype: VectorType) -> int:
    """Writes vectors as a FAISS file, holding one batch in memory at a time.

    Args:
        path: The file; replaced if it is there.
        batches: Vectors `[B, D]`, in the order of their positions.
        width: Length of a vector.
        dtype: How the file holds them.

    Returns:
        The number of vectors.

    Raises:
        ValueError: a batch has another width.
        OSError: the disk is full or not writable.
    """
    header = bytearray(_faiss.serialize_index(_empty(width, dtype)).tobytes())
    num_vectors = 0
    with path.open("wb") as file:
        file.write(header)
        for vectors_BD in batches:
            if vectors_BD.ndim != 2 or vectors_BD.shape[1] != width:
                raise ValueError(f"expected vectors [B, {width}], got {list(vectors_BD.shape)}")
            file.write(np.ascontiguousarray(vectors_BD, dtype=np.dtype(dtype).newbyteorder("<")).data)
            num_vectors += len(vectors_BD)
        header[_COUNT_PLACE] = num_vectors.to_bytes(8, "little")
        # The length of what follows: FAISS counts float32 vectors in numbers, all other codes in bytes.
        length = num_vectors * width * (1 if dtype == "float32" else 2)
        header[-8:] = length.to_bytes(8, "little")
        file.seek(0)
        file.write(header)
    return num_vectors


class ExactVectors:
    """The vectors of a version, open for exact search; safe for use from several threads.

    Attributes:
        path: The file.
        num_vectors: N.
        width: D.
        dtype: How the vectors are held.
        structure: The FAISS index over the mapped file, for re-ranking inside FAISS; never to be changed.
    """

    def __init__(self, path: Path, structure: Any) -> None:
        self.path = path
        self.structure = structure
        self.num_vectors: int = structure.ntotal
        self.width: int = structure.d
        self.dtype: VectorType = "float32" if isinstance(structure, faiss.IndexFlat) else "float16"
        self._codes_NB = _codes(structure)

    @classmethod
    def open(cls, path: Path) -> "ExactVectors":
        """Maps a file that `write_exact` wrote; reads next to nothing of it.

        Raises:
            IndexCorruptError: it is missing, cut, or holds something else.
        """
        structure = read_faiss(path)
        is_exact = isinstance(structure, faiss.IndexFlat) or (
            isinstance(structure, faiss.IndexScalarQuantizer) and structure.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        )
        if not is_exact or structure.metric_type != faiss.METRIC_INNER_PRODUCT or not structure.is_trained:
            kind = type(structure).__name__
            raise IndexCorruptError(path, f"expected exact vectors under the inner product, got {kind}")
        if structure.codes.size() != structure.ntotal * structure.code_size:
            raise IndexCorruptError(path, f"it does not hold the {structure.ntotal} vectors it counts")
        return cls(path, structure)

    @property
    def num_bytes(self) -> int:
        """Bytes of all vectors."""
        return int(self.num_vectors * self.structure.code_size)

    def search(
        self, queries_QD: NDArray[np.float32], k: int, allowed: Allowed = None, deadline: Deadline = NEVER
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Finds the `k` best allowed vectors per query, by score and then by position.

        Args:
            queries_QD: Unit vectors.
            k: Most results per query, at least 1.
            allowed: A mask `[N]`, or ascending positions; all vectors when absent.
            deadline: Until when the answer is wanted; it is looked at whenever some vectors have been compared.

        Returns:
            Scores and positions `[Q, K]`, where K is `k` or the number of allowed vectors, if that is less.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        num_allowed = count_allowed(allowed, self.num_vectors)
        k = min(k, num_allowed)
        if k == 0 or len(queries_QD) == 0:
            return np.zeros((len(queries_QD), k), np.float32), np.zeros((len(queries_QD), k), np.int64)
        if self.dtype == "float32" and (allowed is not None or not _is_matrix_product(queries_QD)):
            positions_P = None if allowed is None else as_positions(allowed)
            return best_of_each(queries_QD, self.structure, positions_P, k, deadline)
        return self._part(allowed, num_allowed, deadline).search(queries_QD, k)

    def scores_of(self, queries_QD: NDArray[np.float32], positions_QK: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores `[Q, K]` of each query with the vectors at its positions; minus infinity where a position is -1."""
        scores_QK = np.full(positions_QK.shape, -np.inf, dtype=np.float32)
        step = max(1, DECODED_BYTES // (4 * self.width * max(positions_QK.shape[1], 1)))
        for start in range(0, len(queries_QD), step):
            positions_BK = positions_QK[start : start + step]
            vectors_BKD = self.vectors(np.maximum(positions_BK, 0).ravel()).reshape(*positions_BK.shape, self.width)
            scores_BK = np.einsum("qd,qkd->qk", queries_QD[start : start + step], vectors_BKD)
            scores_QK[start : start + step] = np.where(positions_BK < 0, -np.inf, scores_BK)
        return scores_QK

    def vectors(self, positions_P: NDArray[np.int64] | Sequence[int]) -> NDArray[np.float32]:
        """The vectors `[P, D]` at positions, as float32."""
        positions_P = np.ascontiguousarray(positions_P, dtype=np.int64)
        if len(positions_P) == 0:
            return np.zeros((0, self.width), dtype=np.float32)
        vectors_PD: NDArray[np.float32] = self.structure.reconstruct_batch(positions_P)
        return vectors_PD

    def _part(self, allowed: Allowed, num_allowed: int, deadline: Deadline) -> "_Part":
        if allowed is None:
            return _Part(self.structure, num_allowed, deadline)
        if num_allowed > math.ceil(self.num_vectors * FEW_SHARE):
            selector = bitmap_selector(allowed, self.num_vectors)
            return _Part(self.structure, num_allowed, deadline, _faiss.SearchParameters(sel=selector))
        positions_P = as_positions(allowed)
        few = _empty(self.width, self.dtype)
        few.add_sa_codes(self._codes_NB[positions_P])
        return _Part(few, num_allowed, deadline, positions_P=positions_P)


class _Part:
    """What one search by FAISS looks at: an index, its parameters, and where its results stand in the whole."""

    def __init__(
        self,
        structure: Any,
        num_allowed: int,
        deadline: Deadline,
        parameters: Any = None,
        positions_P: NDArray[np.int64] | None = None,
    ) -> None:
        self._structure = structure
        self._num_allowed = num_allowed
        self._deadline = deadline
        self._parameters = parameters
        self._positions_P = positions_P

    def search(self, queries_QD: NDArray[np.float32], k: int) -> Found:
        """The `k` best, by score and then by position; there must be so many.

        FAISS returns any of the vectors that share the last score, so one more is asked for; where that one ties,
        the query is searched again, deeper, until all vectors with that score are seen.
        """
        depth = min(k + 1, self._num_allowed)
        scores_QK, positions_QK = self._search(queries_QD, depth)
        if depth > k:
            for query in np.flatnonzero(scores_QK[:, k - 1] == scores_QK[:, k]):
                query_1D = queries_QD[query : query + 1]
                scores_QK[query, :k], positions_QK[query, :k] = self._break_tie(query_1D, k)
        return scores_QK[:, :k], positions_QK[:, :k]

    def _break_tie(self, query_1D: NDArray[np.float32], k: int) -> Found:
        """The `k` best of one query, whose k-th score is shared by others."""
        depth = k + 1
        while True:
            depth = min(4 * depth, self._num_allowed)
            scores_1K, positions_1K = self._search(query_1D, depth)
            if depth == self._num_allowed or scores_1K[0, -1] < scores_1K[0, k - 1]:
                return scores_1K[0, :k], positions_1K[0, :k]

    def _search(self, queries_QD: NDArray[np.float32], depth: int) -> Found:
        scores_QK, positions_QK = in_turns(
            lambda some_BD: self._structure.search(some_BD, depth, params=self._parameters),
            queries_QD,
            self._structure.ntotal,
            self._deadline,
        )
        if self._positions_P is not None:
            positions_QK = self._positions_P[positions_QK]
        return sort_by_score(scores_QK, positions_QK)


def read_faiss(path: Path, flags: int = 0) -> Any:
    """Reads a FAISS file, memory-mapped where FAISS can.

    Raises:
        IndexCorruptError: it is missing, or FAISS cannot read it.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | flags)
    except (RuntimeError, MemoryError) as error:
        reason = faiss_reason(error) if path.exists() else "it is missing"
        raise IndexCorruptError(path, reason) from error


def _is_matrix_product(queries_QD: NDArray[np.float32]) -> bool:
    """Whether there are so many queries that FAISS computes their scores with all vectors as a matrix product."""
    return bool(queries_QD.size >= _faiss.cvar.distance_compute_blas_threshold)


def _empty(width: int, dtype: VectorType) -> Any:
    if dtype == "float32":
        return faiss.IndexFlatIP(width)
    return faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _codes(structure: Any) -> NDArray[np.uint8]:
    """The codes `[N, bytes]` inside the structure, which must outlive them."""
    codes = structure.codes
    if structure.ntotal == 0:
        return np.zeros((0, structure.code_size), dtype=np.uint8)
    codes_NB: NDArray[np.uint8] = _faiss.rev_swig_ptr(codes.data(), codes.size())
    return codes_NB.reshape(structure.ntotal, structure.code_size)
