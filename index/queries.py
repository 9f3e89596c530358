"""What every engine asks of the queries of a search, before it looks for anything.

Shape legend: Q = queries, D = width.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidSearchError

MAX_NORM_ERROR = 1e-3  # of a unit vector, also of a key's


def check_queries(vectors_QD: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Gives the queries back as FAISS and Milvus take them.

    Raises:
        InvalidSearchError: they have another width, or one of them is no unit vector.
    """
    queries_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
    if queries_QD.ndim != 2 or queries_QD.shape[1] != width:
        raise InvalidSearchError(f"expected query vectors [Q, {width}], got {list(queries_QD.shape)}")
    norms_Q = np.linalg.norm(queries_QD, axis=1)
    is_unit_Q = np.abs(norms_Q - 1) <= MAX_NORM_ERROR  # false for NaN
    if not is_unit_Q.all():
        position = int(np.argmin(is_unit_Q))
        raise InvalidSearchError(f"query vector {position} has norm {norms_Q[position]:.4g}, expected 1")
    return queries_QD
