"""Queries that a search structure is measured with, their exact answers, and what an answer is worth.

Shape legend: Q = queries, D = width, N = vectors, K = results per query.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import InvalidStructureError
from anykey.index.queries import MAX_NORM_ERROR
from anykey.index.vectors.exact import ExactVectors

DEPTH = 100  # exact answers that are known of each query
TIE = 1e-6  # scores that differ by less are one: the same product, added up in another order
LATENCY_RUNS = 200  # single queries that are timed, at most
WARM_UP_RUNS = 5

# From queries `[Q, D]` and the number of results to scores and positions `[Q, K]`.
Search = Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]
Clock = Callable[[], float]  # seconds that only go forward


@dataclass(frozen=True)
class HeldOut:
    """Held-out queries with their exact answers.

    Attributes:
        queries_QD: Unit vectors.
        own_Q: The position each was sampled from, which is no answer to it; -1 where it is none of the vectors.
        best_QK: Exact scores of the best vectors but the own one, falling.
        exact_ms: Milliseconds a query that finding them took, all queries at once.
        clock: What searches are timed with.
    """

    queries_QD: NDArray[np.float32]
    own_Q: NDArray[np.int64]
    best_QK: NDArray[np.float32]
    exact_ms: float
    clock: Clock = time.perf_counter

    def halves(self) -> tuple["HeldOut", "HeldOut"]:
        """Every other query, and the rest; both are all of them where there is only one."""
        if len(self.own_Q) < 2:
            return self, self
        first, second = (self._part(slice(start, None, 2)) for start in (0, 1))
        return first, second

    def recall(self, search: Search, k: int) -> float:
        """Mean share of the `k` exactly best that a search finds.

        An answer counts if its score is that of the exactly k-th or better, whichever of equal vectors it is. With
        fewer than `k` vectors it is the share of all of them; with none, 1.
        """
        return float(np.mean(self.recalls(search, k)))

    def recalls(self, search: Search, k: int) -> NDArray[np.float64]:
        """The recall of each query."""
        k = min(k, self.best_QK.shape[1])
        if k == 0:
            return np.ones(len(self.own_Q))
        is_found_QK = self._answers(search, k) >= self.best_QK[:, k - 1 : k] - TIE
        recalls_Q: NDArray[np.float64] = np.mean(is_found_QK, axis=1, dtype=np.float64)
        return recalls_Q

    def latencies_ms(self, search: Search, k: int, runs: int = LATENCY_RUNS, rounds: int = 1) -> NDArray[np.float64]:
        """Milliseconds of single queries, one after another; the first few warm up and are not counted.

        Args:
            search: What is timed.
            k: Results per query.
            runs: Queries, at most.
            rounds: How often all of them are searched for; each counts with its fastest time.
        """
        for _ in range(min(WARM_UP_RUNS, runs)):
            search(self.queries_QD[:1], k)
        timed = range(min(runs, len(self.own_Q)))
        times_ms = [[self._ms(search, query, k) for query in timed] for _ in range(rounds)]
        fastest_ms: NDArray[np.float64] = np.min(np.asarray(times_ms, np.float64), axis=0)
        return fastest_ms

    def _ms(self, search: Search, query: int, k: int) -> float:
        start_s = self.clock()
        search(self.queries_QD[query : query + 1], k)
        return 1e3 * (self.clock() - start_s)

    def ms_per_query(self, search: Search, k: int) -> float:
        """Milliseconds a query with all queries at once."""
        start_s = self.clock()
        search(self.queries_QD, k)
        return 1e3 * (self.clock() - start_s) / len(self.own_Q)

    def _answers(self, search: Search, k: int) -> NDArray[np.float32]:
        """Scores of each query's first `k` answers without its own vector, falling; missing ones minus infinity."""
        scores_QK, positions_QK = search(self.queries_QD, k + 1)
        is_none_QK = (positions_QK < 0) | (positions_QK == self.own_Q[:, None])
        return _falling(np.where(is_none_QK, np.float32(-np.inf), scores_QK))[:, :k]

    def _part(self, queries: slice) -> "HeldOut":
        return replace(
            self, queries_QD=self.queries_QD[queries], own_Q=self.own_Q[queries], best_QK=self.best_QK[queries]
        )


def sample_held_out(exact: ExactVectors, count: int, seed: int, clock: Clock = time.perf_counter) -> HeldOut:
    """Takes vectors of the index for queries; the same ones for the same seed.

    Keys may not be what users search with: where queries are of another modality than keys, measure with vectors of
    real queries instead.
    """
    count = min(count, exact.num_vectors)
    own_Q = np.sort(np.random.default_rng(seed).choice(exact.num_vectors, count, replace=False)).astype(np.int64)
    return _answered(exact, exact.vectors(own_Q), own_Q, clock)


def given_held_out(
    exact: ExactVectors, queries_QD: NDArray[np.float32], count: int, seed: int, clock: Clock = time.perf_counter
) -> HeldOut:
    """Takes vectors of real queries, `count` of them at most; the same ones for the same seed.

    Raises:
        InvalidStructureError: there are none, or they are no unit vectors of the right width.
    """
    require_queries(queries_QD, exact.width)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries_QD))[:count])
    chosen_QD = np.ascontiguousarray(queries_QD[chosen], dtype=np.float32)
    return _answered(exact, chosen_QD, np.full(len(chosen), -1, dtype=np.int64), clock)


def require_queries(queries_QD: NDArray[np.float32], width: int) -> None:
    """Makes sure that structures can be measured with queries.

    Raises:
        InvalidStructureError: there are none, or they are no unit vectors of the right width.
    """
    if queries_QD.ndim != 2 or queries_QD.shape[1] != width or len(queries_QD) == 0:
        raise InvalidStructureError(f"expected query vectors [Q, {width}], at least one, got {list(queries_QD.shape)}")
    norms_Q = np.linalg.norm(queries_QD, axis=1)
    is_unit_Q = np.abs(norms_Q - 1) <= MAX_NORM_ERROR  # false for NaN
    if not is_unit_Q.all():
        query = int(np.argmin(is_unit_Q))
        raise InvalidStructureError(f"query vector {query} has norm {norms_Q[query]:.4g}, expected 1")


def _answered(exact: ExactVectors, queries_QD: NDArray[np.float32], own_Q: NDArray[np.int64], clock: Clock) -> HeldOut:
    start_s = clock()
    scores_QK, positions_QK = exact.search(queries_QD, DEPTH + 1)
    exact_ms = 1e3 * (clock() - start_s) / len(own_Q)
    others_QK = np.where(positions_QK == own_Q[:, None], np.float32(-np.inf), scores_QK)
    num_others = exact.num_vectors - int(own_Q[0] >= 0)
    return HeldOut(queries_QD, own_Q, _falling(others_QK)[:, : min(DEPTH, num_others)], exact_ms, clock)


def _falling(scores_QK: NDArray[np.float32]) -> NDArray[np.float32]:
    sorted_QK: NDArray[np.float32] = np.sort(scores_QK, axis=1)[:, ::-1]
    return sorted_QK
