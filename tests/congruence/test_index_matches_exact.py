"""FaissIndex gives what sorting all scores gives, whatever the filters.

Shape legend: Q = queries, D = width, N = keys in the index.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.encoder.item import Item, Modality
from anykey.index import FaissIndex
from anykey.index.filtering.conditions import Range
from anykey.index.key_index import EVERYTHING, Scope
from tests.factories import build_with, mixed_corpus
from tests.fakes import FakeEncoder
from tests.rankings import assert_same_ranking
from tests.serving import is_in_scope

NUM_KEYS = 150
KEYS = [f"key-{number}" for number in range(NUM_KEYS)]

key_sets = st.lists(st.sampled_from([*KEYS, "unknown"]), max_size=NUM_KEYS)
scopes = st.builds(
    Scope,
    modalities=st.none() | st.lists(st.sampled_from(Modality), unique=True),
    pool=st.sampled_from([None, "even", "odd"]),
    condition=st.none() | st.builds(Range, st.just(("number",)), gte=st.integers(-5, NUM_KEYS + 5)),
    within=st.none() | key_sets,
    exclude=key_sets,
)


class Exact:
    """The slow, obvious twin: all scores in float64, sorted."""

    def __init__(self, index: FaissIndex) -> None:
        self.stored = [index.get(key) for key in KEYS]
        images = [tuple(index.image(key.key, i).data for i in range(key.payload.num_images)) for key in self.stored]
        items = [Item(key.payload.text, image) for key, image in zip(self.stored, images, strict=True)]
        self.vectors_ND = FakeEncoder().encode(items).astype(np.float64)

    def search(self, query_D: NDArray[np.float32], k: int, scope: Scope = EVERYTHING) -> list[tuple[str, float]]:
        """The `k` best keys of the scope and their scores; equal scores in corpus order."""
        scores_N = self.vectors_ND @ query_D.astype(np.float64)
        rows = [row for row, key in enumerate(self.stored) if is_in_scope(key, scope)]
        best = sorted(rows, key=lambda row: -scores_N[row])[:k]
        return [(self.stored[row].key, float(scores_N[row])) for row in best]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissIndex]:
    directory = tmp_path_factory.mktemp("exact")
    build_with(mixed_corpus(directory, NUM_KEYS), directory / "i")
    with FaissIndex.open(directory / "i") as opened:
        yield opened


@pytest.fixture(scope="module")
def exact(index: FaissIndex) -> Exact:
    return Exact(index)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.sampled_from([1, 2, 25]),  # FAISS computes batches of 20 and more in another way
    k=st.integers(1, NUM_KEYS + 10),
    scope=scopes,
)
def test_search_gives_what_sorting_all_scores_gives(
    index: FaissIndex, exact: Exact, seed: int, num_queries: int, k: int, scope: Scope
) -> None:
    queries_QD = np.random.default_rng(seed).standard_normal((num_queries, 8)).astype(np.float32)
    queries_QD /= np.linalg.norm(queries_QD, axis=1, keepdims=True)

    results = index.search(queries_QD, k, scope, exact=True)

    assert len(results) == num_queries
    for hits, query_D in zip(results, queries_QD, strict=True):
        expected = exact.search(query_D, k, scope)
        all_scores = dict(zip(KEYS, (exact.vectors_ND @ query_D).tolist(), strict=True))
        assert_same_ranking(hits, expected, all_scores)
        assert {hit.key for hit in hits}.isdisjoint(scope.exclude)


@settings(max_examples=50, deadline=None)
@given(row=st.integers(0, NUM_KEYS - 1), k=st.integers(1, NUM_KEYS), scope=scopes)
def test_shorter_result_is_the_beginning_of_a_longer_one(
    index: FaissIndex, exact: Exact, row: int, k: int, scope: Scope
) -> None:
    query_1D = exact.vectors_ND[row : row + 1].astype(np.float32)  # a stored vector: many ties

    (longest,) = index.search(query_1D, NUM_KEYS, scope, exact=True)

    assert index.search(query_1D, k, scope, exact=True) == [longest[:k]]


def test_comparison_can_fail(index: FaissIndex, exact: Exact) -> None:
    query_1D = np.eye(8, dtype=np.float32)[:1]
    (hits,) = index.search(query_1D, 5)
    scores = dict(zip(KEYS, (exact.vectors_ND @ query_1D[0]).tolist(), strict=True))
    expected = exact.search(query_1D[0], 6)

    assert_same_ranking(hits, expected[:5], scores)
    with pytest.raises(AssertionError):
        assert_same_ranking(hits, expected[1:], scores)
    with pytest.raises(AssertionError):
        assert_same_ranking([hits[0]] * 5, expected[:5], scores)
