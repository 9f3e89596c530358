"""The best of many pages are what sorting all of them at once gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.milvus.search import best_records
from tests.engines import unit_vectors


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 30), st.integers(1, 4), st.integers(0, 1000))
def test_best_of_all_pages_are_kept(page_sizes: list[int], k: int, num_queries: int, seed: int) -> None:
    vectors_ND = unit_vectors(seed, sum(page_sizes))
    queries_QD = unit_vectors(seed + 1, num_queries)
    records = [{"key": str(place), "vector": vector_D * 1.0005} for place, vector_D in enumerate(vectors_ND)]
    starts = np.cumsum([0, *page_sizes])
    pages = [records[start : start + size] for start, size in zip(starts, page_sizes, strict=False)]

    found = best_records(queries_QD, pages, k)

    assert len(found) == num_queries
    for scored, query_D in zip(found, queries_QD, strict=True):
        scores_N = vectors_ND.astype(np.float64) @ query_D
        assert sorted((score for score, _ in scored), reverse=True) == pytest.approx(
            sorted(scores_N)[::-1][:k], abs=1e-6
        )
        for score, record in scored:
            assert score == pytest.approx(scores_N[int(record["key"])], abs=1e-6)
