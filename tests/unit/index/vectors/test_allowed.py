"""The forms of what a search may return mean the same, and results have one order."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.vectors.exact import as_mask, as_positions, bitmap_selector, count_allowed, sort_by_score
from anykey.index.vectors.gpu import grouped

masks = st.lists(st.booleans(), min_size=1, max_size=70).map(lambda bits: np.asarray(bits, dtype=np.bool_))


@given(masks)
def test_mask_and_positions_are_two_forms_of_one_thing(mask_N: np.ndarray) -> None:
    positions_P = as_positions(mask_N)

    assert positions_P.tolist() == [position for position, is_allowed in enumerate(mask_N) if is_allowed]
    assert as_positions(positions_P).tolist() == positions_P.tolist()
    np.testing.assert_array_equal(as_mask(positions_P, len(mask_N)), mask_N)
    np.testing.assert_array_equal(as_mask(mask_N, len(mask_N)), mask_N)
    assert count_allowed(mask_N, len(mask_N)) == count_allowed(positions_P, len(mask_N)) == mask_N.sum()


def test_queries_are_grouped_by_what_they_may_find() -> None:
    one, mask_N = np.arange(3), np.arange(9) < 3
    groups = grouped([None, one, one.copy(), mask_N, None, np.arange(4), mask_N.copy()], 9)
    assert [(group.queries_Q.tolist(), group.count) for group in groups] == [
        ([0, 4], 9),
        ([1, 2], 3),
        ([3, 6], 3),
        ([5], 4),
    ]
    assert grouped([], 9) == []


def test_no_selection_allows_all() -> None:
    assert count_allowed(None, 7) == 7
    assert bitmap_selector(None, 7) is None


@given(masks)
def test_selector_lets_the_allowed_through(mask_N: np.ndarray) -> None:
    for allowed in (mask_N, np.flatnonzero(mask_N)):
        selector = bitmap_selector(allowed, len(mask_N))
        assert [selector.is_member(position) for position in range(len(mask_N))] == mask_N.tolist()


def test_selector_outlives_its_bits_in_a_search() -> None:
    index = faiss.IndexFlatIP(2)
    index.add(np.ones((1000, 2), dtype=np.float32))
    selector = bitmap_selector(np.arange(1000) == 500, 1000)
    np.packbits(np.ones(8000, dtype=np.bool_))  # may take freed memory
    parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
    assert index.search(np.ones((1, 2), dtype=np.float32), 1, params=parameters)[1].tolist() == [[500]]


@pytest.mark.parametrize(
    ("scores", "positions", "expected"),
    [
        ([0.1, 0.9, 0.5], [3, 4, 5], [4, 5, 3]),
        ([0.5, 0.5, 0.5], [9, 2, 4], [2, 4, 9]),
        ([0.5, -np.inf, -2.0], [9, -1, 4], [9, 4, -1]),
        ([-3e38, 0.1, -3e38], [-1, 7, -1], [7, -1, -1]),
    ],
)
def test_results_are_ordered_by_score_then_position_missing_last(
    scores: list[float], positions: list[int], expected: list[int]
) -> None:
    given_QK = np.asarray([scores], dtype=np.float32), np.asarray([positions])
    scores_QK, positions_QK = sort_by_score(*given_QK)

    assert positions_QK.tolist() == [expected]
    by_position = dict(zip(positions, given_QK[0][0].tolist(), strict=True))
    assert scores_QK[0].tolist() == [by_position[position] for position in expected]
