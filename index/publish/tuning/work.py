"""How much work a search is, counted and not measured, so that a busy machine chooses as a quiet one does.

What a search reads is weighed by how fast that goes, as measured at 1,000,000 x 512 (`docs/results/index.md`) and at
30,000 x 128: microseconds, of which the unit is a 7,000th.

    0.29, 0.3         a candidate that is ranked by its vector of 2 KiB, 512 bytes, which lies anywhere
    0.113, 0.105      a vector of these sizes that a graph leads to, which is fetched ahead
    0.026, 0.008      a code of 128, 32 bytes in a list
    33,000            all vectors of the larger, one after another
"""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_facts import SearchParameters
from anykey.index.vectors.structures import ApproximateIndex

PER_BYTE_IN_ORDER = 0.1
PER_CODE, PER_CODE_BYTE = 20.0, 1.3
PER_RANKED, PER_RANKED_BYTE = 1500.0, 0.25
PER_LINKED, PER_LINKED_BYTE = 600.0, 0.1
NEW_NEIGHBOURS = 0.4  # of the links of a vector that a graph's search comes by, those it has not seen

Work = Callable[[SearchParameters], float]  # of one query, with the parameters that it really takes


def work_of_all(exact: ExactVectors) -> float:
    """The work of comparing a query with every vector."""
    return PER_BYTE_IN_ORDER * exact.num_bytes


def work_of(index: ApproximateIndex) -> Work:
    """From search parameters to the work of one query."""
    exact, core = index.exact, index.core
    vector_bytes = exact.num_bytes / exact.num_vectors
    if isinstance(core, faiss.IndexIVF):
        candidates = _work_of_lists(core, exact.num_vectors)
    elif isinstance(core, faiss.IndexHNSW):
        candidates = _work_of_graph(core, exact.num_vectors, vector_bytes)
    else:
        candidates = _work_of_codes(core, exact.num_vectors)
    per_ranked = PER_RANKED + PER_RANKED_BYTE * vector_bytes
    return lambda parameters: candidates(parameters) + per_ranked * min(parameters.rerank, exact.num_vectors)


def _work_of_lists(lists: Any, num_vectors: int) -> Work:
    """Longer lists are looked at more often: their mean size is that over all vectors."""
    sizes = np.array([lists.get_list_size(number) for number in range(lists.nlist)], np.float64)
    size = float((sizes**2).sum() / max(sizes.sum(), 1.0))
    centres = PER_BYTE_IN_ORDER * 4 * lists.d * lists.nlist
    return lambda parameters: centres + _per_code(lists) * min(size * parameters.probes, num_vectors)


def _work_of_graph(graph: Any, num_vectors: int, vector_bytes: float) -> Work:
    seen = NEW_NEIGHBOURS * graph.hnsw.nb_neighbors(0)
    per_linked = PER_LINKED + PER_LINKED_BYTE * vector_bytes
    return lambda parameters: per_linked * min(seen * parameters.probes, num_vectors)


def _work_of_codes(codes: Any, num_vectors: int) -> Work:
    return lambda parameters: _per_code(codes) * num_vectors


def _per_code(core: Any) -> float:
    return PER_CODE + PER_CODE_BYTE * float(core.code_size)
