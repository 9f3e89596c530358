"""What every engine asks of names, vectors, searches and scans, before it stores or looks for anything.

Shape legend: Q = queries, D = width.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import InvalidSearchError

MAX_NORM_ERROR = 1e-3  # of a unit vector, also of a key's


def check_queries(vectors_QD: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Gives the queries back as FAISS and Milvus take them.

    Raises:
        InvalidSearchError: they have another width, or one of them is no unit vector.
    """
    try:
        queries_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InvalidSearchError(f"expected query vectors [Q, {width}]: {error}") from error
    if queries_QD.ndim != 2 or queries_QD.shape[1] != width:
        raise InvalidSearchError(f"expected query vectors [Q, {width}], got {list(queries_QD.shape)}")
    norms_Q = np.linalg.norm(queries_QD, axis=1)
    is_unit_Q = np.abs(norms_Q - 1) <= MAX_NORM_ERROR  # false for NaN
    if not is_unit_Q.all():
        position = int(np.argmin(is_unit_Q))
        raise InvalidSearchError(f"query vector {position} has norm {norms_Q[position]:.4g}, expected 1")
    return queries_QD


def check_vector(vector: Any, width: int) -> NDArray[Any]:
    """Gives a key's vector back as an array.

    Raises:
        ValueError: it has another width, or is no unit vector.
    """
    vector_D = np.asarray(vector)
    if vector_D.shape != (width,) or vector_D.dtype.kind != "f":
        raise ValueError(f"expected a vector of {width} numbers, got shape {list(vector_D.shape)} of {vector_D.dtype}")
    norm = float(np.linalg.norm(vector_D.astype(np.float64)))
    if not abs(norm - 1) <= MAX_NORM_ERROR:  # also for NaN
        raise ValueError(f"expected a unit vector, got norm {norm:.4g}")
    return vector_D


def check_k(k: Any) -> int:
    """Gives the number of hits asked for back; raises `InvalidSearchError` if it is none."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InvalidSearchError(f"k must be a whole number of at least 1, got {k!r}")
    return int(k)


def check_limit(limit: Any) -> int:
    """Gives the number of keys asked for back; raises `InvalidSearchError` if it is none."""
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
        raise InvalidSearchError(f"limit must be a whole number of at least 1, got {limit!r}")
    return int(limit)


def check_after(after: Any) -> None:
    """Raises `InvalidSearchError` unless a scan can go on after a name, or begins."""
    if after is not None and not is_unicode(after):
        raise InvalidSearchError(f"expected the name of a key to go on after, got {after!a}")


def is_unicode(name: object) -> bool:
    """Whether it can be the name of something stored: a string, without half a surrogate pair in it."""
    try:
        return isinstance(name, str) and name.encode() is not None
    except UnicodeEncodeError:
        return False


def require_names(names: Any, what: str) -> None:
    """Refuses one name where several are expected: it would be taken letter by letter.

    Args:
        names: What was handed over.
        what: What messages call it.

    Raises:
        TypeError: it is a string, or no collection.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Collection):
        raise TypeError(f"expected {what} to be a collection of names, got {_shorten(repr(names))}")


def _shorten(text: str, max_chars: int = 80) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
