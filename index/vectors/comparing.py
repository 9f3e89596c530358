"""Exact search by comparing queries with each of some vectors, wherever in memory those are.

FAISS computes the scores of pairs on all cores, also for one query, which its searches leave to one core; and a vector
that was fetched meets all queries before the next one is. The scores are those of FAISS's searches to the last bit.

Shape legend: Q = queries, D = width, P = positions, B = positions compared at once, C = candidates,
K = results per query.
"""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

QUERIES_AT_ONCE = 64  # so that there are many positions a block, and few blocks
PAIRS_AT_ONCE = 2**18  # 5 MiB of scores and of numbers that say whose they are

_faiss: Any = faiss  # its type stubs describe the C++ functions, not the Python ones

Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and positions [Q, K]


def best_of_each(
    queries_QD: NDArray[np.float32], structure: Any, positions_P: NDArray[np.int64] | None, k: int
) -> Found:
    """The `k` best vectors per query, by score and then by position.

    Args:
        queries_QD: At least one, in C order.
        structure: A FAISS `IndexFlat`, whose vectors they are.
        positions_P: Which of its vectors to compare with, ascending; with all when absent.
        k: Results per query, of 1 to P.

    Returns:
        Scores and positions `[Q, k]`.
    """
    found = []
    for start in range(0, len(queries_QD), QUERIES_AT_ONCE):
        queries_BD = queries_QD[start : start + QUERIES_AT_ONCE]
        found.append(_best_in_blocks(queries_BD, structure, positions_P, k))
    scores, positions = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(positions)


def _best_in_blocks(
    queries_QD: NDArray[np.float32], structure: Any, positions_P: NDArray[np.int64] | None, k: int
) -> Found:
    scores_QK = np.empty((len(queries_QD), 0), dtype=np.float32)
    positions_QK = np.empty((len(queries_QD), 0), dtype=np.int64)
    for positions_B in _blocks(positions_P, structure.ntotal, PAIRS_AT_ONCE // len(queries_QD)):
        scores_QC = np.concatenate([scores_QK, _scores(queries_QD, structure, positions_B)], axis=1)
        scores_QK, positions_QK = _best(scores_QC, positions_QK, positions_B, k)
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


def _best(scores_QC: NDArray[np.float32], best_QK: NDArray[np.int64], positions_B: NDArray[np.int64], k: int) -> Found:
    """The best of those that were best so far and of a block after them; their scores stand in this order."""
    k = min(k, scores_QC.shape[1])
    least_Q = np.partition(scores_QC, -k, axis=1)[:, -k]
    scores_QK = np.empty((len(scores_QC), k), dtype=np.float32)
    positions_QK = np.empty((len(scores_QC), k), dtype=np.int64)
    for query, scores_C in enumerate(scores_QC):
        candidates = np.flatnonzero(scores_C >= least_Q[query])
        chosen_K = candidates[np.argsort(-scores_C[candidates], kind="stable")[:k]]  # stable: by rising position
        scores_QK[query] = scores_C[chosen_K]
        positions_QK[query] = _at(best_QK[query], positions_B, chosen_K)
    return scores_QK, positions_QK


def _at(first: NDArray[np.int64], then: NDArray[np.int64], places_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """What stands at some places of two arrays, one after the other, without joining them."""
    is_first_K = places_K < len(first)
    found_K = np.empty(len(places_K), dtype=np.int64)
    found_K[is_first_K] = first[places_K[is_first_K]]
    found_K[~is_first_K] = then[places_K[~is_first_K] - len(first)]
    return found_K
