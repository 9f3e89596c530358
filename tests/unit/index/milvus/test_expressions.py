"""Expressions hold what they should, and no text gets out of its quotes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range, compared
from anykey.index.filtering.instants import instant_of
from anykey.index.milvus.expressions import both, expression_of, holds, listed, quote
from anykey.index.milvus.terms import exists_term, instant_name, other_term, single_term, value_term


def no_others(where: str, wanted: Condition) -> list[str]:
    return []


@given(st.text())
def test_quoted_text_ends_at_its_last_quote_and_reads_back(text: str) -> None:
    quoted = quote(text)

    assert "\n" not in quoted
    assert "\r" not in quoted
    escaped = "".join(f"\\u{ord(character):04x}" if ord(character) < 32 else character for character in quoted)
    assert json.loads(escaped) == text


def test_lists_name_each_value_once_in_a_fixed_order() -> None:
    assert listed("key", ["b", 'a"', "b"]) == 'key in ["a\\"", "b"]'
    assert listed("key", {"b"}, are_in=False) == 'key not in ["b"]'
    assert holds("pools", "x\\") == 'array_contains(pools, "x\\\\")'
    assert both([]) == ""


def test_conditions_without_bounds_ask_for_terms_alone() -> None:
    path = ("a", "b")
    term = {value: quote(value_term(path, compared(value))) for value in (1, "x")}

    condition = And((Not(Equals(path, 1)), Or((In(path, ("x",)), Exists(path)))))

    assert expression_of(condition, no_others) == (
        f"((not (array_contains(terms, {term[1]}))) and "
        f"((array_contains(terms, {term['x']})) or (array_contains(terms, {quote(exists_term(path))}))))"
    )


def test_bounds_compare_only_what_milvus_compares_as_we_do() -> None:
    expression = expression_of(Range(("a", "b"), gt=-1.5, lte=3), no_others)

    single = quote(single_term(("a", "b"), "number"))
    value = 'metadata["a"]["b"]'
    assert expression == f"((array_contains(terms, {single}) and {value} > -1.5 and {value} <= 3))"


def test_other_keys_are_looked_up_by_term_and_named() -> None:
    asked = []

    def look_up(where: str, wanted: Condition) -> list[str]:
        asked.append((where, wanted))
        return ["k"]

    wanted = Range(("a",), gte="x")
    expression = expression_of(wanted, look_up)

    assert expression.endswith(' or (key in ["k"]))')
    others = [quote(other_term(("a",), kind)) for kind in ("string", "instant")]
    assert asked == [(f"(array_contains_any(terms, [{', '.join(sorted(others))}]))", wanted)]


def test_dates_are_compared_as_moments_and_other_strings_as_they_are() -> None:
    path = ("ts",)
    expression = expression_of(Range(path, gte="2024-07-01T00:00+02:00"), no_others)

    moment = f'images["instants"][{quote(instant_name(path))}]'
    instants, strings = (f"array_contains(terms, {quote(single_term(path, kind))})" for kind in ("instant", "string"))
    assert expression == (
        f"(({instants} and {moment} >= {quote(str(instant_of('2024-06-30T22:00Z')))}) or "
        f'({strings} and metadata["ts"] >= "2024-07-01T00:00+02:00"))'
    )


def test_strings_of_a_former_collection_are_looked_at_one_by_one_for_dates() -> None:
    asked: list[Condition] = []

    def look_up(where: str, wanted: Condition) -> list[str]:
        assert single_term(("ts",), "string") in where
        asked.append(wanted)
        return ["k"]

    wanted: list[Condition] = [Range(("ts",), gte="2024-06-30"), Equals(("ts",), "2024-06-30")]
    for each in wanted:
        assert 'key in ["k"]' in expression_of(each, look_up, tells_dates=False)
    assert asked == wanted
    assert "key" not in expression_of(Equals(("ts",), "plain"), look_up, tells_dates=False)


@pytest.mark.parametrize(
    "wanted", [Range(("a",), gt=2**53 + 1), Range(('a"',), gt=1), Range(("a/b",), gt=1), Range(("n", "\x00"), gt=1)]
)
def test_bounds_and_names_that_milvus_may_misread_never_reach_it(wanted: Any) -> None:
    assert expression_of(wanted, no_others) == "(key in [])"
