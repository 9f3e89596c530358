"""Which positions a search may return, in the forms that FAISS wants.

Shape legend: N = vectors, P = allowed positions, Q = queries.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Allowed = NDArray[np.bool_] | NDArray[np.int64] | None  # a mask [N], ascending positions [P], or all

_faiss: Any = faiss  # its type stubs describe the C++ constructors, not the Python ones


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
    """Whether each position is allowed, `[N]`."""
    if allowed.dtype == np.bool_:
        return allowed.astype(np.bool_, copy=False)
    mask_N = np.zeros(num_vectors, dtype=np.bool_)
    mask_N[allowed] = True
    return mask_N


@dataclass(frozen=True)
class SameAllowed:
    """Some queries of a batch that may find the same positions.

    Attributes:
        allowed: Which positions.
        count: How many those are.
        queries_Q: Places of the queries in the batch, ascending.
    """

    allowed: Allowed
    count: int
    queries_Q: NDArray[np.int64]


def grouped(allowed_Q: Sequence[Allowed], num_vectors: int) -> list[SameAllowed]:
    """The queries of a batch by what they may find, each group where its first query is.

    A mask and the positions that it allows count as different, which only costs time.

    Args:
        allowed_Q: What each query may find.
        num_vectors: N.
    """
    seen: dict[int, object] = {}  # what is one object is compared no further
    groups: dict[object, list[int]] = {}
    for query, allowed in enumerate(allowed_Q):
        if id(allowed) not in seen:
            seen[id(allowed)] = _digest(allowed)
        groups.setdefault(seen[id(allowed)], []).append(query)
    return [
        SameAllowed(allowed, count_allowed(allowed, num_vectors), np.array(queries, np.int64))
        for queries in groups.values()
        for allowed in [allowed_Q[queries[0]]]
    ]


def _digest(allowed: Allowed) -> object:
    if allowed is None:
        return None
    return allowed.dtype.kind, hashlib.blake2b(np.ascontiguousarray(allowed).data, digest_size=16).digest()


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
