"""The JSON of filters: what it means, what is refused and where, and that writing and reading agree."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import (
    MAX_PATH_BYTES,
    MAX_PATH_NAMES,
    MAX_STRING_BYTES,
    And,
    Condition,
    Equals,
    Exists,
    In,
    Not,
    Or,
    Range,
    matches,
)
from anykey.index.filtering.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_IN_VALUES, parse_condition, to_json
from tests.guards.checkout import ROOT
from tests.unit.index.filter_cases import conditions, metadata

DOCS = ROOT / "docs" / "filters.md"
EQ = {"field": "a", "eq": 1}
BESIDE_FIELD = "expected one of 'eq', 'in', 'exists', or bounds 'gt', 'gte', 'lt', 'lte' beside 'field'"
COMPARISONS = "'field', 'eq', 'in', 'exists', 'gt', 'gte', 'lt', 'lte'"


@pytest.mark.parametrize(
    ("document", "condition"),
    [
        ({"field": "brand", "eq": "acme"}, Equals(("brand",), "acme")),
        ({"field": "sold", "eq": False}, Equals(("sold",), False)),
        ({"field": "colour", "in": ["red", 3]}, In(("colour",), ("red", 3))),
        ({"field": "price", "gte": 10, "lt": 20.5}, Range(("price",), gte=10, lt=20.5)),
        ({"field": "day", "gt": "2024", "lte": "2025"}, Range(("day",), gt="2024", lte="2025")),
        ({"field": "tags", "exists": True}, Exists(("tags",))),
        ({"field": "tags", "exists": False}, Not(Exists(("tags",)))),
        ({"field": "size.width", "exists": True}, Exists(("size", "width"))),
        ({"field": r"size\.width", "exists": True}, Exists(("size.width",))),
        ({"field": r"a\\.b", "exists": True}, Exists(("a\\", "b"))),
        ({"field": ["a.b", "c"], "exists": True}, Exists(("a.b", "c"))),
        ({"and": [EQ, {"not": EQ}]}, And((Equals(("a",), 1), Not(Equals(("a",), 1))))),
        ({"or": [EQ]}, Or((Equals(("a",), 1),))),
    ],
)
def test_filter_is_read_as_its_condition(document: Any, condition: Condition) -> None:
    assert parse_condition(document) == condition


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "filter: expected a condition, which is an object, got null"),
        ([EQ], "filter: expected a condition, which is an object, got a list"),
        ({}, "filter: expected 'field', 'and', 'or' or 'not' in it, got nothing"),
        ({"eq": 1}, "filter: expected 'field', 'and', 'or' or 'not' in it, got 'eq'"),
        ({"field": "a"}, f"filter: {BESIDE_FIELD}, got nothing"),
        ({"field": "a", "eq": 1, "in": [1]}, f"filter: {BESIDE_FIELD}, got 'eq', 'in'"),
        ({"field": "a", "eq": 1, "gt": 1}, f"filter: {BESIDE_FIELD}, got 'eq', 'gt'"),
        (
            {"field": "a", "equals": 1},
            f"filter: expected no more than {COMPARISONS} in a condition on a field, got 'equals'",
        ),
        ({"and": [EQ], "or": [EQ]}, "filter: expected no more than 'and' beside 'and', got 'or'"),
        ({"not": EQ, "x" * 99: 1}, f"filter: expected no more than 'not' beside 'not', got '{'x' * 40}...'"),
        ({"and": []}, "filter at and: expected at least one condition, got an empty list"),
        ({"or": []}, "filter at or: expected at least one condition, got an empty list"),
        ({"and": EQ}, "filter at and: expected a list of conditions, got an object"),
        ({"not": [EQ]}, "filter at not: expected a condition, which is an object, got a list"),
        ({"and": [EQ, 7]}, "filter at and[1]: expected a condition, which is an object, got a number"),
        ({"field": "a", "in": []}, "filter at in: expected at least one value, got an empty list"),
        ({"field": "a", "in": "red"}, "filter at in: expected a list of values, got a string"),
        ({"field": "a", "exists": 1}, "filter at exists: expected true or false, got a number"),
        ({"field": "a", "exists": None}, "filter at exists: expected true or false, got null"),
        ({"field": "a", "gt": None, "lt": 1}, "filter at gt: expected a number or a string, got null"),
        ({"field": "a", "lte": math.nan}, "filter at lte: expected a finite number, got nan"),
        ({"field": 1, "eq": 1}, "filter at field: expected a string or a list of strings, got a number"),
        ({"field": "", "eq": 1}, "filter at field: expected names, got an empty one"),
        ({"field": "a..b", "eq": 1}, "filter at field: expected names, got an empty one"),
        ({"field": [], "eq": 1}, "filter at field: expected 1 to 16 names, got 0"),
        ({"field": ["a", ["b"]], "eq": 1}, "filter at field: expected names that are strings, got a list"),
        (
            {"field": "a\\b", "eq": 1},
            r"filter at field: expected '\.' (a dot in a name) or '\\' (a backslash) after '\'",
        ),
        (
            {"and": [EQ, {"not": {"or": [{"field": "a", "in": [1, 2, 3, None]}]}}]},
            "filter at and[1].not.or[0].in[3]: expected a string, a number or a boolean, got null; "
            "to ask whether there is a value, use 'exists'",
        ),
    ],
)
def test_what_is_no_filter_is_refused_by_place(document: Any, message: str) -> None:
    with pytest.raises(InvalidFilterError) as error:
        parse_condition(document)
    assert str(error.value) == message


def test_sixteen_deep_is_accepted_and_seventeen_is_not() -> None:
    document: dict[str, Any] = EQ
    for _ in range(15):
        document = {"not": document}
    parse_condition(document)

    with pytest.raises(InvalidFilterError, match="expected conditions at most 16 deep") as error:
        parse_condition({"not": document})
    assert error.value.where == ".".join(["not"] * 16)


def test_endless_nesting_is_refused_without_following_it() -> None:
    document: dict[str, Any] = EQ
    for _ in range(100_000):
        document = {"and": [document]}
    with pytest.raises(InvalidFilterError, match="16 deep"):
        parse_condition(document)


def test_a_thousand_conditions_are_accepted_and_one_more_is_not() -> None:
    parse_condition({"and": [EQ] * 999})

    with pytest.raises(InvalidFilterError, match="expected at most 1,000 conditions in the filter") as error:
        parse_condition({"and": [EQ] * 1000})
    assert error.value.where == "and[999]"


def test_ten_thousand_values_are_accepted_and_one_more_in_another_list_is_not() -> None:
    many = {"field": "a", "in": list(range(10_000))}
    parse_condition(many)

    with pytest.raises(InvalidFilterError, match="expected at most 10,000 values in all 'in' lists") as error:
        parse_condition({"or": [many, {"field": "b", "in": ["x"]}]})
    assert error.value.where == "or[1].in"


@settings(max_examples=50)
@given(conditions, metadata)
def test_written_filter_is_read_back_as_the_same_condition(condition: Condition, found: dict[str, Any]) -> None:
    written = to_json(condition)
    read = parse_condition(json.loads(json.dumps(written, allow_nan=False)))

    assert matches(read, found) is matches(condition, found)
    assert json.dumps(to_json(read), sort_keys=True) == json.dumps(written, sort_keys=True)


@pytest.mark.parametrize(
    ("condition", "written"),
    [
        (Equals(("a", "b.c", "d\\"), 2.0), {"field": r"a.b\.c.d\\", "eq": 2}),
        (Equals(("a",), -(2.0**63)), {"field": "a", "eq": -(2**63)}),
        (Equals(("a",), 2.0**63), {"field": "a", "eq": 2.0**63}),
        (Equals(("a",), -0.0), {"field": "a", "eq": 0}),
        (In(("a",), ("y", 2, True, "x", 2.0)), {"field": "a", "in": [True, 2, "x", "y"]}),
        (In(("a",), (7, 7.0)), {"field": "a", "eq": 7}),
        (Range(("a",), lt=5, gt=1.0), {"field": "a", "gt": 1, "lt": 5}),
        (Not(Exists(("a",))), {"field": "a", "exists": False}),
        (And((Equals(("b",), 1), Equals(("a",), 1), Equals(("b",), 1.0))), {"and": [EQ, {"field": "b", "eq": 1}]}),
        (Or((Equals(("a",), 1),)), EQ),
    ],
)
def test_written_filter_is_canonical(condition: Condition, written: dict[str, Any]) -> None:
    assert json.dumps(to_json(condition), sort_keys=True) == json.dumps(written, sort_keys=True)


@settings(max_examples=50)
@given(st.lists(conditions, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_show_in_the_written_filter(parts: list[Condition], random: Any) -> None:
    shuffled = [*parts, random.choice(parts)]
    random.shuffle(shuffled)
    assert to_json(And(tuple(shuffled))) == to_json(And(tuple(parts)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["field", "eq", "in", "exists", "gt", "gte", "lt", "lte", "and", "or", "not", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_condition_or_refused(document: Any) -> None:
    with contextlib.suppress(InvalidFilterError):
        parse_condition(document)


def test_documented_filters_are_read_and_the_documented_error_is_told() -> None:
    documented = DOCS.read_text(encoding="utf-8")
    blocks = documented.split("```")
    examples = [json.loads(line) for line in blocks[1].splitlines()[1:]]
    assert len([parse_condition(example) for example in examples]) == 8

    with pytest.raises(InvalidFilterError) as error:
        parse_condition({"and": [EQ, {"field": "a", "in": [1, 2, 3, None]}]})
    assert str(error.value) == blocks[-2].strip()


def test_documented_limits_are_those_that_hold() -> None:
    documented = DOCS.read_text(encoding="utf-8")
    assert f"how deep they nest | {MAX_CONDITIONS:,}; {MAX_DEPTH} |" in documented
    assert f"`in` lists of a filter | {MAX_IN_VALUES:,} |" in documented
    assert f"(UTF-8) | {MAX_STRING_BYTES:,} bytes |" in documented
    assert f"names in a field | {MAX_PATH_NAMES} |" in documented
    assert MAX_PATH_BYTES == MAX_STRING_BYTES
