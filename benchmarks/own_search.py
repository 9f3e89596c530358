"""Searches a published version as peers are searched: on the same queries, for positions and scores alone.

Shape legend: Q = queries, D = width, K = results per query.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index.search.version_files import STRUCTURE_NAME, VECTORS_NAME
from anykey.index.store.versions import open_published
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_facts import EXACT, SearchParameters, StructureFacts
from anykey.index.vectors.structures import ApproximateIndex
from benchmarks.timed_search import Search, timed

EXACT_QUERIES = 100  # exact search of many keys is slow


def measure(index_dir: Path, queries_QD: NDArray[np.float32]) -> dict[str, Any]:
    """Recall, latency and throughput of the version's structure.

    Args:
        index_dir: The index.
        queries_QD: Queries that nothing was chosen with.

    Returns:
        `points`, of the structure with the parameters that the tuner chose, and with those of its front; and `exact`,
        the point of exact search.
    """
    version = open_published(index_dir)
    try:
        exact = ExactVectors.open(version.path / VECTORS_NAME)
        best_QK = exact.search(queries_QD, 10)[1]
        some = slice(EXACT_QUERIES)
        exact_point = timed(EXACT, lambda some_QD: exact.search(some_QD, 10)[1], queries_QD[some], best_QK[some])
        facts = version.manifest.structure
        if facts is None or facts.is_exact:
            return {"points": [{**exact_point, "tuned": True}], "exact": exact_point}
        index = ApproximateIndex.open(version.path / STRUCTURE_NAME, exact)
        return {"points": list(_points(index, facts, queries_QD, best_QK)), "exact": exact_point}
    finally:
        version.release()


def in_words(factory: str, search: SearchParameters) -> str:
    """How far a search looks, by FAISS' names."""
    if factory == EXACT:
        return EXACT
    kind = "efSearch" if is_graph(factory) else "nprobe"
    return f"{kind}={search.probes}" + (f", {search.rerank} re-ranked" if search.rerank else "")


def is_graph(factory: str) -> bool:
    """Whether a structure is a graph over whole vectors, whose scores are exact."""
    return factory.startswith("HNSW")


def _points(
    index: ApproximateIndex, facts: StructureFacts, queries_QD: NDArray[np.float32], best_QK: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    for search in dict.fromkeys(
        [facts.search, *(point.search for point in facts.front if point.factory == facts.factory)]
    ):
        point = timed(in_words(facts.factory, search), _search_with(index, search), queries_QD, best_QK)
        yield {**point, "tuned": search == facts.search}


def _search_with(index: ApproximateIndex, parameters: SearchParameters) -> Search:
    return lambda some_QD: index.search(some_QD, 10, parameters=parameters)[1]
