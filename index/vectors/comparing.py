"""Exact search by comparing queries with each of those vectors that it may return, wherever in memory those are.

FAISS computes the scores of pairs on all cores, also for one query, which its searches leave to one core; and a vector
that was fetched meets all queries before the next one is. The scores are those of FAISS's searches to the last bit.

Shape legend: Q = queries, D = width, V = vectors, P = positions that may be returned, B = positions compared at once,
N = results to choose from, C = candidates for the best of them, K = results per query.
"""

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline

QUERIES_AT_ONCE = 64  # so that there are many positions a block, and few blocks
FEWEST_QUERIES = 16  # of one call, for FAISS shares queries out among its threads
PAIRS_IN_TURN = 2**26  # of a query and a vector, about a second's work of one core
PAIRS_AT_ONCE = 2**18  # 5 MiB of scores and of numbers that say whose they are

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
