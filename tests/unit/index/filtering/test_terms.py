"""Terms sort as values do, for all values that a condition can name, and never meet those of another path or kind."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.filtering.conditions import Equals, compared, matches
from anykey.index.filtering.instants import instant_of
from anykey.index.filtering.terms import (
    bound_term,
    exists_term,
    kind_range,
    modality_term,
    pool_term,
    terms_of,
    value_term,
)
from tests.unit.index.filter_cases import BEYOND, DATES, FLOATS, INTEGERS, STRINGS, WITHIN, metadata, paths, values

numbers = st.sampled_from([*INTEGERS, *FLOATS]) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)


def term(value: Any) -> bytes:
    return value_term(("a",), compared(value))


@given(numbers, numbers)
def test_numbers_sort_exactly(one: float, other: float) -> None:
    assert (term(one) < term(other), term(one) == term(other)) == (one < other, one == other)


def test_neighbouring_integers_around_every_power_of_two_sort() -> None:
    ascending = sorted(
        {sign * (2**power + step) for power in range(40, 1024) for step in (-1, 0, 1) for sign in (1, -1)}
    )
    assert all(term(low) < term(high) for low, high in itertools.pairwise(ascending))


@given(st.text() | st.sampled_from(STRINGS), st.text() | st.sampled_from(STRINGS))
def test_strings_sort_by_code_point(one: str, other: str) -> None:
    assert (term(one) < term(other), term(one) == term(other)) == (one < other, one == other)


@pytest.mark.parametrize("beyond", BEYOND)
def test_values_beyond_the_limits_keep_their_place_among_those_within(beyond: Any) -> None:
    for value in [value for value in WITHIN if value not in DATES]:
        assert (term(value) == term(beyond)) is (value == beyond)
        if isinstance(value, str) is isinstance(beyond, str) and not isinstance(value, bool):
            assert (term(value) < term(beyond)) is (value < beyond)


@given(values)
def test_values_of_a_kind_lie_in_its_range(value: Any) -> None:
    for column, is_in_it in (
        ("string", isinstance(value, str) and instant_of(value) is None),
        ("instant", isinstance(value, str) and instant_of(value) is not None),
        ("number", isinstance(value, (int, float)) and not isinstance(value, bool)),
        ("dated", False),
    ):
        low, high = kind_range(("a",), column)
        assert (low <= term(value) < high) is is_in_it


@given(st.sampled_from(DATES), st.sampled_from(DATES))
def test_dates_sort_by_moment_and_as_they_are_written(one: str, other: str) -> None:
    moments = instant_of(one), instant_of(other)
    assert (term(one) < term(other), term(one) == term(other)) == (moments[0] < moments[1], moments[0] == moments[1])  # type: ignore[operator]
    written = bound_term(("a",), "dated", one), bound_term(("a",), "dated", other)
    assert (written[0] < written[1]) is (one < other)
    assert {term(one), written[0]} <= terms_of({"a": one})


@given(paths, paths, values, values)
def test_terms_of_different_paths_differ(one: tuple[str, ...], other: tuple[str, ...], left: Any, right: Any) -> None:
    if one != other:
        assert not {value_term(one, compared(left)), exists_term(one)} & {
            value_term(other, compared(right)),
            exists_term(other),
        }


@given(metadata, paths, values)
def test_metadata_has_the_terms_of_the_conditions_that_hold(found: Any, path: tuple[str, ...], value: Any) -> None:
    assert (value_term(path, compared(value)) in terms_of(found)) is matches(Equals(path, value), found)


def test_terms_of_an_example_are_complete() -> None:
    assert terms_of({"a": {"b": [1, True, None]}, "c": [], "d": "x"}) == {
        exists_term(("a",)),
        exists_term(("a", "b")),
        value_term(("a", "b"), compared(1)),
        value_term(("a", "b"), compared(True)),
        exists_term(("d",)),
        value_term(("d",), compared("x")),
    }


def test_values_below_the_deepest_path_count_as_being_there() -> None:
    names = [f"n{level}" for level in range(20)]
    deep: Any = "x"
    for name in reversed(names):
        deep = {name: deep}
    assert terms_of(deep) == {exists_term(tuple(names[:length])) for length in range(1, 17)}


def test_values_below_a_name_that_is_too_long_are_not_taken_for_others() -> None:
    assert terms_of({"x" * 1025: {"a": 1}}) == set()
    assert terms_of({"a": {"x" * 1024: {"b": 1}}}) == {exists_term(("a",))}
    assert terms_of({"x" * 1024: 1}) == {exists_term(("x" * 1024,)), value_term(("x" * 1024,), compared(1))}


def test_half_a_surrogate_pair_in_metadata_is_no_trouble() -> None:
    assert len(terms_of({"\ud800": "\udfff"})) == 2


@given(metadata, st.text())
def test_modalities_and_pools_are_no_values(found: Any, name: str) -> None:
    assert not {modality_term("image"), pool_term(name)} & terms_of(found)
    assert modality_term("image") != pool_term("image")
