"""The best keys of a collection for queries: by Milvus where it can, else by comparing with every key of the scope.

Shape legend: Q = queries, D = width, N = records held, B = records of a page, K = results per query.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.hits import Hit
from anykey.index.key_index import Scope
from anykey.index.milvus.collection import Collection
from anykey.index.milvus.records import PAYLOAD_FIELDS, payload_of, vector_of
from anykey.index.milvus.scope import expression_of_scope, require_pool

Scored = list[tuple[float, dict[str, Any]]]


def search(
    collection: Collection,
    queries_QD: NDArray[np.float32],
    k: int,
    scope: Scope,
    exact: bool,
    with_vectors: bool = False,
) -> list[Scored]:
    """The `k` best records of a scope for each query, with vectors if asked for; equal scores by the keys' names.

    Raises:
        InvalidSearchError: there is no such pool (`UnknownPoolError`) or modality.
        DeadlineExceededError: the answer is no longer wanted.
        IndexUnavailableError: Milvus cannot be reached or fails.
    """
    where = expression_of_scope(scope, collection)
    found: list[Scored] = [[] for _ in queries_QD]
    if where is not None and len(queries_QD):
        fields = (*PAYLOAD_FIELDS, "vector") if with_vectors else PAYLOAD_FIELDS
        found = _best(collection, queries_QD, k, where, exact, fields)
    if scope.pool is not None and not any(found):
        require_pool(scope.pool, collection)
    return [sorted(scored, key=lambda each: (-each[0], each[1]["key"])) for scored in found]


def count(collection: Collection, scope: Scope) -> int:
    """Number of keys in a scope.

    Raises:
        InvalidSearchError: there is no such pool (`UnknownPoolError`) or modality.
        DeadlineExceededError: the answer is no longer wanted.
        IndexUnavailableError: Milvus cannot be reached or fails.
    """
    where = expression_of_scope(scope, collection)
    number = 0 if where is None else collection.count(where)
    if scope.pool is not None and not number:
        require_pool(scope.pool, collection)
    return number


def records_in(
    collection: Collection,
    scope: Scope,
    fields: Sequence[str] = (),
    after: str | None = None,
    most: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The records of the keys in a scope, in the order of their names, those after `after` only.

    Args:
        collection: The collection.
        scope: Which keys.
        fields: What is read of each beside its name.
        after: The name to go on after. Then a pool may have lost its last keys meanwhile.
        most: How many will be asked for, if that is known.

    Raises:
        InvalidSearchError: there is no such pool (`UnknownPoolError`) or modality.
        DeadlineExceededError: the answer is no longer wanted.
        IndexUnavailableError: Milvus cannot be reached or fails.
    """
    where, is_any = expression_of_scope(scope, collection), False
    at_once = collection.limits.page_records
    for page in [] if where is None else collection.pages(where, fields, after, min(most or at_once, at_once)):
        is_any = True
        yield from page
    if scope.pool is not None and after is None and not is_any:
        require_pool(scope.pool, collection)


def hits_of(scored: Scored) -> list[Hit]:
    """Records in their order as hits, ranks from 1."""
    return [
        Hit(
            record["key"],
            min(max(score, -1.0), 1.0),
            rank,
            Modality(record["modality"]),
            payload_of(record),
            vector_of(record),
        )
        for rank, (score, record) in enumerate(scored, start=1)
    ]


def best_records(
    queries_QD: NDArray[np.float32], pages: Iterable[list[dict[str, Any]]], k: int, with_vectors: bool = False
) -> list[Scored]:
    """Compares each query with the vector of every record.

    Args:
        queries_QD: Unit vectors.
        pages: All records, with their vectors.
        k: How many to give per query.
        with_vectors: Whether the records keep their vectors, as arrays.

    Returns:
        Per query, the `k` records of the highest cosine similarity with it, in any order.
    """
    records: list[dict[str, Any]] = []
    scores_QN = np.zeros((len(queries_QD), 0), dtype=np.float32)
    for page in pages:
        records.extend(page)
        scores_QN = np.concatenate([scores_QN, _cosines(queries_QD, page, with_vectors)], axis=1)
        if len(records) > 2 * k * len(queries_QD):
            kept = np.unique(_places(scores_QN, k))
            records, scores_QN = [records[place] for place in kept], scores_QN[:, kept]
    return [
        [(float(scores_N[place]), records[place]) for place in places_K]
        for scores_N, places_K in zip(scores_QN, _places(scores_QN, k), strict=True)
    ]


def _cosines(queries_QD: NDArray[np.float32], page: list[dict[str, Any]], with_vectors: bool) -> NDArray[np.float32]:
    vectors_BD = np.array([record.pop("vector") for record in page], dtype=np.float32)
    if with_vectors:
        for record, vector_D in zip(page, vectors_BD.copy(), strict=True):
            record["vector"] = vector_D
    vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    return np.asarray(queries_QD @ vectors_BD.T / np.linalg.norm(queries_QD, axis=1, keepdims=True))


def _places(scores_QN: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of each query's `k` highest scores, or of all if they are fewer."""
    num_records = scores_QN.shape[1]
    if num_records <= k:
        return np.broadcast_to(np.arange(num_records), scores_QN.shape)
    return np.argpartition(-scores_QN, k - 1, axis=1)[:, :k]


def _best(
    collection: Collection, queries_QD: NDArray[np.float32], k: int, where: str, exact: bool, fields: tuple[str, ...]
) -> list[Scored]:
    """The best records per query with some fields, in any order; as many as there are, up to `k`."""
    kind, limits = collection.facts.structure.kind, collection.limits
    if k > limits.found or (exact and kind == "HNSW"):
        pages = collection.pages(where, (*PAYLOAD_FIELDS, "vector"))
        return best_records(queries_QD, pages, k, "vector" in fields)
    found: list[Scored] = []
    step = max(limits.found // k, 1)
    for start in range(0, len(queries_QD), step):
        some = queries_QD[start : start + step]
        found += collection.search(some, k, where, fields, exact=exact)
    if kind != "FLAT" and not exact and min(map(len, found)) < min(k, collection.count(where)):
        return _best(collection, queries_QD, k, where, True, fields)  # a graph may lose its way among filtered keys
    return found
