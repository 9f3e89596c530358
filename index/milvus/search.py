"""The best of many records, without holding them all: what exact search without the help of Milvus is made of.

Shape legend: Q = queries, D = width, N = records held, B = records of a page.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scored = list[tuple[float, dict[str, Any]]]


def best_records(queries_QD: NDArray[np.float32], pages: Iterable[list[dict[str, Any]]], k: int) -> list[Scored]:
    """Compares each query with the vector of every record.

    Args:
        queries_QD: Unit vectors.
        pages: All records, with their vectors.
        k: How many to give per query.

    Returns:
        Per query, the `k` records of the highest cosine similarity with it, in any order.
    """
    records: list[dict[str, Any]] = []
    scores_QN = np.zeros((len(queries_QD), 0), dtype=np.float32)
    for page in pages:
        records.extend(page)
        scores_QN = np.concatenate([scores_QN, _cosines(queries_QD, page)], axis=1)
        if len(records) > 2 * k * len(queries_QD):
            kept = np.unique(_best(scores_QN, k))
            records, scores_QN = [records[place] for place in kept], scores_QN[:, kept]
    return [
        [(float(scores_N[place]), records[place]) for place in places_K]
        for scores_N, places_K in zip(scores_QN, _best(scores_QN, k), strict=True)
    ]


def _cosines(queries_QD: NDArray[np.float32], page: list[dict[str, Any]]) -> NDArray[np.float32]:
    vectors_BD = np.array([record.pop("vector") for record in page], dtype=np.float32)
    vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    return np.asarray(queries_QD @ vectors_BD.T / np.linalg.norm(queries_QD, axis=1, keepdims=True))


def _best(scores_QN: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of each query's `k` highest scores, or of all if they are fewer."""
    num_records = scores_QN.shape[1]
    if num_records <= k:
        return np.broadcast_to(np.arange(num_records), scores_QN.shape)
    return np.argpartition(-scores_QN, k - 1, axis=1)[:, :k]
