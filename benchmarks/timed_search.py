"""One instrument for every way to search, ours and the peers': recall, latency alone, time all at once.

Imports NumPy alone, since some peers have environments without AnyKey.

Shape legend: Q = queries, D = width, K = results per query.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ROUNDS = 3  # of all queries at once
LEAST_FOR_P99 = 100  # times; of fewer, none is the slowest in a hundred

Search = Callable[[Any], Sequence[Sequence[int]]]  # from queries [Q, D] to the numbers of the keys that were found


def alone_ms(ask: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of single calls, one after another."""
    times_ms = []
    for number in range(count):
        started_s = time.perf_counter()
        ask(number)
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    return times_ms


def in_words(times_ms: Sequence[float]) -> str:
    """The median, and the 99th percentile where there are enough times for one."""
    words = f"p50 {np.percentile(times_ms, 50):.2f} ms"
    return f"{words}, p99 {np.percentile(times_ms, 99):.2f} ms" if len(times_ms) >= LEAST_FOR_P99 else words


def timed(parameters: str, search: Search, queries_QD: Any, best_QK: Any) -> dict[str, Any]:
    """One way to search, measured; the first of its searches, for recall, warms it up.

    Args:
        parameters: What makes it this way, in words.
        search: Searches.
        queries_QD: The queries.
        best_QK: The numbers of each query's exactly best keys.
    """
    found_QK = search(queries_QD)
    times_ms = alone_ms(lambda number: search(queries_QD[number : number + 1]), len(queries_QD))
    started_s = time.perf_counter()
    for _ in range(ROUNDS):
        search(queries_QD)
    at_once_s = (time.perf_counter() - started_s) / ROUNDS / len(queries_QD)
    shares = [len(np.intersect1d(found, best)) / len(best) for found, best in zip(found_QK, best_QK, strict=True)]
    return {
        "parameters": parameters,
        "num_queries": len(queries_QD),
        "recall_at_10": float(np.mean(shares)),
        "p50_ms": float(np.percentile(times_ms, 50)),
        "p99_ms": float(np.percentile(times_ms, 99)),
        "at_once_ms": 1e3 * at_once_s,
    }
