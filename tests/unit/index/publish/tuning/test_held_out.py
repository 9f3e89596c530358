"""Held-out queries: what they leave out, and that recall is what it says.

Shape legend: Q = queries, D = width, N = vectors, K = results per query.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.index.errors import InvalidStructureError
from anykey.index.publish.tuning.held_out import Search, given_held_out, sample_held_out
from tests.unit.index.drawn_vectors import clustered, written

QUERIES = clustered(30, seed=1)


def answers(positions_QK: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> Search:
    """A search that always answers with these positions."""

    def search(queries_QD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores_QK = np.einsum("qd,qkd->qk", queries_QD, vectors_ND[positions_QK[:, :k]])
        return np.where(positions_QK[:, :k] < 0, -np.inf, scores_QK), positions_QK[:, :k]

    return search


ROUNDING = 1e-6  # of scores in float32


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 10, 100]), is_sampled=st.booleans())
def test_recall_is_the_share_of_the_exactly_best_that_were_found(
    tmp_path_factory: pytest.TempPathFactory, seed: int, k: int, is_sampled: bool
) -> None:
    vectors_ND = clustered(150, seed=seed)
    exact = written(tmp_path_factory.mktemp("held") / "v.faiss", vectors_ND)
    held_out = sample_held_out(exact, 20, seed) if is_sampled else given_held_out(exact, QUERIES, 20, seed)
    rng = np.random.default_rng(seed)
    wrong_QK = np.stack([rng.permutation(150) for _ in held_out.own_Q])
    wrong_QK[:, 30:] = -1

    least, most = [], []  # of what is as good as the k-th best but for rounding, either none or all
    for query_D, own, wrong_K in zip(held_out.queries_QD, held_out.own_Q, wrong_QK, strict=True):
        scores_N = vectors_ND.astype("f8") @ query_D
        others = [position for position in range(150) if position != own]
        kth = np.sort(scores_N[others])[-k]
        found = [position for position in wrong_K[: k + 1] if position not in (own, -1)]
        best = np.sort(scores_N[found])[::-1][:k]
        least.append(np.count_nonzero(best > kth + ROUNDING) / k)
        most.append(np.count_nonzero(best >= kth - ROUNDING) / k)

    recall = held_out.recall(answers(wrong_QK, vectors_ND), k)
    assert np.mean(least) - ROUNDING <= recall <= np.mean(most) + ROUNDING
    assert np.mean(most) - np.mean(least) <= 0.1 + 1 / k  # so that the two say something
    assert held_out.recall(exact.search, k) == 1.0


def test_equal_vectors_count_as_found_whichever_they_are(tmp_path: Path) -> None:
    vectors_ND = np.repeat(QUERIES[:2], 50, axis=0)
    held_out = given_held_out(written(tmp_path / "v.faiss", vectors_ND), QUERIES[:1], 5, 0)

    assert held_out.recall(answers(np.arange(40, 60)[None], vectors_ND), 10) == 1.0
    assert held_out.recall(answers(np.arange(45, 60)[None], vectors_ND), 10) == 0.5


def test_sampled_keys_are_no_answers_to_themselves(tmp_path: Path) -> None:
    vectors_ND = clustered(50)
    held_out = sample_held_out(written(tmp_path / "v.faiss", vectors_ND), 10, seed=0)

    np.testing.assert_array_equal(held_out.queries_QD, vectors_ND[held_out.own_Q])
    assert held_out.best_QK.shape == (10, 49)
    assert (held_out.best_QK[:, 0] < 1 - 1e-6).all()
    assert held_out.recall(answers(held_out.own_Q[:, None], vectors_ND), 1) == 0.0


def test_fewer_vectors_than_asked_for_are_all_of_them(tmp_path: Path) -> None:
    one = sample_held_out(written(tmp_path / "1.faiss", clustered(1)), 10, seed=0)
    three = sample_held_out(written(tmp_path / "3.faiss", clustered(3)), 10, seed=0)

    assert (one.best_QK.shape, one.recall(answers(np.zeros((1, 1), np.int64), clustered(1)), 10)) == ((1, 0), 1.0)
    assert (three.best_QK.shape, len(three.own_Q)) == ((3, 2), 3)


def test_samples_depend_on_the_seed_alone(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", clustered(200))
    first, again, other = (sample_held_out(exact, 20, seed) for seed in (1, 1, 2))

    assert first.own_Q.tolist() == again.own_Q.tolist() != other.own_Q.tolist()
    chosen, once_more = (given_held_out(exact, QUERIES, 5, 3).queries_QD for _ in range(2))
    np.testing.assert_array_equal(chosen, once_more)


def test_halves_share_no_query(tmp_path: Path) -> None:
    held_out = sample_held_out(written(tmp_path / "v.faiss", clustered(200)), 21, seed=0)

    first, second = held_out.halves()

    assert sorted([*first.own_Q, *second.own_Q]) == held_out.own_Q.tolist()
    assert (len(first.own_Q), len(second.own_Q)) == (11, 10)
    np.testing.assert_array_equal(second.best_QK, held_out.best_QK[1::2])


def test_single_queries_are_timed_one_by_one(tmp_path: Path) -> None:
    held_out = sample_held_out(written(tmp_path / "v.faiss", clustered(200)), 20, seed=0)
    asked: list[tuple[int, int]] = []

    def search(queries_QD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        asked.append((len(queries_QD), k))
        return np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int64)

    times_ms = held_out.latencies_ms(search, 10, runs=7)

    assert len(times_ms) == 7
    assert (times_ms >= 0).all()
    assert asked == [(1, 10)] * 12  # 5 warm up


@pytest.mark.parametrize(
    ("queries", "reason"),
    [
        (np.zeros((3, 9), np.float32), r"expected query vectors \[Q, 16\], at least one, got \[3, 9\]"),
        (np.zeros((0, 16), np.float32), r"got \[0, 16\]"),
        (QUERIES[0], r"got \[16\]"),
        (np.concatenate([QUERIES[:1], 2 * QUERIES[:1]]), "query vector 1 has norm 2, expected 1"),
        (np.full((1, 16), np.nan, np.float32), "query vector 0 has norm nan"),
    ],
)
def test_queries_of_no_use_are_refused(tmp_path: Path, queries: NDArray[np.float32], reason: str) -> None:
    exact = written(tmp_path / "v.faiss", clustered(20))
    with pytest.raises(InvalidStructureError, match=reason):
        given_held_out(exact, queries, 10, 0)
