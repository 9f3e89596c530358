"""Selections agree with Python's sets, whichever way they are stored."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.filtering.evaluation import DENSE, Selection, intersect, select

SIZE = 200  # from 7 positions on, a set is dense


@st.composite
def selections(draw: st.DrawFn) -> tuple[Selection, set[int]]:
    """A selection and the set that it stands for."""
    most = draw(st.sampled_from([SIZE // DENSE - 1, SIZE]))
    found = draw(st.lists(st.integers(0, SIZE - 1), max_size=most))
    selection = select(np.array(found, dtype=np.uint32), SIZE)
    if draw(st.booleans()):
        return ~selection, set(range(SIZE)) - set(found)
    return selection, set(found)


@given(selections())
def test_positions_are_ascending_and_none_comes_twice(drawn: tuple[Selection, set[int]]) -> None:
    selection, expected = drawn
    positions = selection.positions()
    assert positions.dtype == np.int64
    assert positions.tolist() == sorted(expected)


@given(st.lists(selections(), min_size=1, max_size=4))
def test_intersection_is_what_all_have(drawn: list[tuple[Selection, set[int]]]) -> None:
    found = intersect([selection for selection, _ in drawn])
    assert found.positions().tolist() == sorted(set.intersection(*(expected for _, expected in drawn)))


@given(st.lists(selections(), min_size=1, max_size=4))
def test_what_is_not_outside_of_all_is_in_any(drawn: list[tuple[Selection, set[int]]]) -> None:
    found = ~intersect([~selection for selection, _ in drawn])
    assert found.positions().tolist() == sorted(set.union(*(expected for _, expected in drawn)))


def test_nothing_out_of_nothing() -> None:
    nothing = select(np.empty(0, dtype=np.uint32), 0)
    for selection in (nothing, ~nothing, intersect([nothing, ~nothing])):
        assert selection.positions().tolist() == []


def test_ascending_positions_are_taken_as_they_are() -> None:
    ascending: Any = np.array([1, 5, 9], dtype=np.uint32)
    assert select(ascending, SIZE).found is ascending
