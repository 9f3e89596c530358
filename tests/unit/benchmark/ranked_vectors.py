"""Answers made of stored vectors, as an exact search over them would give."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit, Query, Task


def answers_of(
    task: Task,
    queries: Sequence[Query],
    query_vectors: Mapping[str, NDArray[np.float64]],
    keys: Collection[str],
    vectors: Mapping[str, NDArray[np.float64]],
    excludes: bool | None = None,
) -> dict[str, Answer]:
    """Every query's answer: all keys it may return by falling inner product; `excludes` overrides the task's rule."""
    answers = {}
    excludes_references = task.excludes_references if excludes is None else excludes
    for query in queries:
        allowed = [key for key in query.within or keys if not excludes_references or key not in query.references]
        scores = {key: float(vectors[key] @ query_vectors[query.id]) for key in allowed}
        hits = tuple(Hit(key, scores[key], "image") for key in sorted(allowed, key=lambda key: -scores[key]))
        answers[query.id] = Answer(hits, 0.0, {}, False, 0, ("1", "f"))
    return answers
