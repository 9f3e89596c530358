"""What conditions mean, on examples that can be checked by eye, and what no condition may be made of."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.errors import InvalidFilterError, InvalidSearchError
from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range, matches
from tests.unit.index.filter_cases import conditions, metadata, paths

A = ("a",)
AB = ("a", "b")


@pytest.mark.parametrize(
    ("condition", "found", "expected"),
    [
        (Equals(A, "x"), {"a": "x"}, True),
        (Equals(A, "x"), {"a": "X"}, False),
        (Equals(A, "x"), {}, False),
        (Equals(A, "x"), {"a": None}, False),
        (Equals(A, 1), {"a": 1.0}, True),
        (Equals(A, 1.0), {"a": 1}, True),
        (Equals(A, 0), {"a": -0.0}, True),
        (Equals(A, 1), {"a": True}, False),
        (Equals(A, True), {"a": 1}, False),
        (Equals(A, True), {"a": True}, True),
        (Equals(A, "1"), {"a": 1}, False),
        (Equals(A, 2**53 + 1), {"a": 2**53 + 1}, True),
        (Equals(A, 2**53 + 1), {"a": 2.0**53}, False),
        (Equals(A, "x"), {"a": ["y", "x"]}, True),
        (Equals(A, "x"), {"a": [["y"], [[None, "x"]]]}, True),
        (Equals(A, "x"), {"a": {"x": "x"}}, False),
        (Equals(AB, 1), {"a": {"b": 1}}, True),
        (Equals(AB, 1), {"a": [{"b": 2}, {"b": [3, 1]}, 7]}, True),
        (Equals(AB, 1), {"a.b": 1}, False),
        (Equals(("a.b",), 1), {"a.b": 1}, True),
        (In(A, ("x", 2)), {"a": 2.0}, True),
        (In(A, ("x", 2)), {"a": ["y", "x"]}, True),
        (In(A, (1,)), {"a": True}, False),
        (In(A, (True,)), {"a": 1}, False),
        (Range(A, gte=1), {"a": 1}, True),
        (Range(A, gt=1), {"a": 1}, False),
        (Range(A, gte=1, lt=2), {"a": 2}, False),
        (Range(A, gte=1, lte=2), {"a": 2.0}, True),
        (Range(A, gt=2.0**53), {"a": 2**53 + 1}, True),
        (Range(A, lt=1e300), {"a": 10**400}, False),
        (Range(A, lt=5), {"a": "1"}, False),
        (Range(A, lt=5), {"a": True}, False),
        (Range(A, gt="2024-01-31"), {"a": "2024-02-01"}, True),
        (Range(A, lt="\U0001f600"), {"a": "\ue000"}, True),
        (Range(A, gte=2, lte=3), {"a": [1, 4]}, False),
        (Exists(A), {"a": False}, True),
        (Exists(A), {"a": ""}, True),
        (Exists(A), {"a": None}, False),
        (Exists(A), {"a": [None, [], {}]}, False),
        (Exists(A), {"a": {"b": None, "c": [{"d": 0}]}}, True),
        (Exists(AB), {"a": 1}, False),
        (Not(Equals(A, "x")), {}, True),
        (Not(Equals(A, "x")), {"a": ["x", "y"]}, False),
        (And((Equals(A, 1), Equals(A, 2))), {"a": [1, 2]}, True),
        (Or((Equals(A, 1), Equals(A, 2))), {"a": 2}, True),
        (Or((Equals(A, 1), Equals(A, 2))), {"a": 3}, False),
    ],
)
def test_condition_holds_or_not(condition: Condition, found: dict[str, Any], expected: bool) -> None:
    assert matches(condition, found) is expected


def test_deeply_nested_metadata_is_no_trouble() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    assert matches(And((Equals(A, "x"), Exists(A))), {"a": deep})
    for _ in range(50_000):
        deep = {"a": deep}
    assert matches(Exists(A), deep)


@given(conditions, metadata)
def test_negation_is_plain(condition: Condition, found: dict[str, Any]) -> None:
    assert matches(Not(condition), found) is not matches(condition, found)


@given(paths, metadata, st.lists(st.integers(-2, 2) | st.booleans(), min_size=1))
def test_in_is_any_of_its_values(path: tuple[str, ...], found: dict[str, Any], values: list[int]) -> None:
    either = Or(tuple(Equals(path, value) for value in values))
    assert matches(In(path, tuple(values)), found) is matches(either, found)


def test_conditions_that_python_would_confuse_differ() -> None:
    assert Equals(A, True) != Equals(A, 1)
    assert In(A, (False, 1)) != In(A, (0, True))
    assert len({Equals(A, True), Equals(A, 1), In(A, (True,)), In(A, (1,))}) == 4


def test_conditions_that_mean_the_same_value_are_equal() -> None:
    assert Equals(A, 1) == Equals(A, 1.0)
    assert hash(In(A, (1, "x"))) == hash(In(A, ("x", 1.0, 1)))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "expected a string, a number or a boolean, got null; to ask whether there is a value, use 'exists'"),
        ([], "expected a string, a number or a boolean, got a list"),
        ({}, "expected a string, a number or a boolean, got an object"),
        (math.nan, "expected a finite number, got nan"),
        (-math.inf, "expected a finite number, got -inf"),
        (2**63, "expected an integer of 64 bits, got one of 65"),
        (-(2**63) - 1, "expected an integer of 64 bits, got one of 65"),
        ("a\ud800", "expected Unicode, got half a surrogate pair at 1"),
        ("\u00e9" * 513, "expected at most 1,024 bytes, got 1,026"),
    ],
)
def test_values_that_no_condition_may_compare_with(value: Any, reason: str) -> None:
    for make, where in (
        (lambda: Equals(A, value), "eq"),
        (lambda: In(A, ("x", value)), "in[1]"),
        (lambda: Range(A, gt=value, lt=3), "gt"),
    ):
        if value is None and where == "gt":  # no bound
            continue
        with pytest.raises(InvalidFilterError) as error:
            make()
        assert (error.value.where, error.value.reason) == (where, reason)


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 1.7e308, "\u00e9" * 512, ""])
def test_values_at_the_limits_are_fine(value: Any) -> None:
    assert matches(Equals(A, value), {"a": value})


@pytest.mark.parametrize(
    ("bounds", "where", "reason"),
    [
        ({}, "", "expected at least one of gt, gte, lt, lte"),
        ({"gt": 1, "gte": 1}, "gte", "expected either 'gt' or 'gte', got both"),
        ({"gt": 1, "lt": 3, "lte": 2}, "lte", "expected either 'lt' or 'lte', got both"),
        ({"gt": True}, "gt", "expected a number or a string, got a boolean"),
        ({"gte": 1, "lt": "b"}, "lt", "expected a number as in 'gte', got a string"),
        ({"gte": "a", "lt": False}, "lt", "expected a number or a string, got a boolean"),
    ],
)
def test_bounds_that_are_no_range(bounds: dict[str, Any], where: str, reason: str) -> None:
    with pytest.raises(InvalidFilterError) as error:
        Range(A, **bounds)
    assert (error.value.where, error.value.reason) == (where, reason)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ((), "expected 1 to 16 names, got 0"),
        (("a",) * 17, "expected 1 to 16 names, got 17"),
        (("a", 1), "expected names that are strings, got a number"),
        (("a", ""), "expected names, got an empty one"),
        (("a" * 1000, "b" * 25), "expected at most 1,024 bytes, got 1,025"),
        (("\udfff",), "expected Unicode, got half a surrogate pair at 0"),
    ],
)
def test_paths_that_name_no_field(path: Any, reason: str) -> None:
    for make in (lambda: Equals(path, 1), lambda: In(path, (1,)), lambda: Range(path, gt=1), lambda: Exists(path)):
        with pytest.raises(InvalidFilterError) as error:
            make()
        assert (error.value.where, error.value.reason) == ("field", reason)


def test_empty_lists_are_no_conditions() -> None:
    for make, where in ((lambda: And(()), "and"), (lambda: Or(()), "or"), (lambda: In(A, ()), "in")):
        with pytest.raises(InvalidFilterError, match="got an empty list") as error:
            make()
        assert error.value.where == where


def test_error_is_a_search_error_and_tells_its_place() -> None:
    error = InvalidFilterError("in[3]", "why").inside("not").inside("and[1]")
    assert isinstance(error, InvalidSearchError)
    assert str(error) == "filter at and[1].not.in[3]: why"
    assert str(InvalidFilterError("", "why").inside("or[0]")) == "filter at or[0]: why"
    assert str(InvalidFilterError("", "why")) == "filter: why"
