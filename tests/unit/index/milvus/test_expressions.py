"""Expressions hold what they should, and no text gets out of its quotes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.filtering.filters import And, Equals, Exists, In, Not, Or, Range
from index.milvus.expressions import both, expression_of, holds, listed, quote
from index.milvus.terms import exists_term, other_term, single_term, value_term


def no_others(where: str, wanted: Range) -> list[str]:
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
    term = {value: quote(value_term(path, value)) for value in (1, "x")}

    condition = And((Not(Equals(path, 1)), Or((In(path, ("x",)), Exists(path)))))

    assert expression_of(condition, no_others) == (
        f"((not (array_contains(terms, {term[1]}))) and "
        f"((array_contains_any(terms, [{term['x']}])) or (array_contains(terms, {quote(exists_term(path))}))))"
    )


def test_bounds_compare_only_what_milvus_compares_as_we_do() -> None:
    expression = expression_of(Range(("a", "b"), gt=-1.5, lte=3), no_others)

    single = quote(single_term(("a", "b"), "number"))
    value = 'metadata["a"]["b"]'
    assert expression == f"((array_contains(terms, {single}) and {value} > -1.5 and {value} <= 3))"


def test_other_keys_are_looked_up_by_term_and_named() -> None:
    asked = []

    def look_up(where: str, wanted: Range) -> list[str]:
        asked.append((where, wanted))
        return ["k"]

    wanted = Range(("a",), gte="x")
    expression = expression_of(wanted, look_up)

    assert expression.endswith(' or (key in ["k"]))')
    assert asked == [(f"(array_contains_any(terms, [{quote(other_term(('a',), 'string'))}]))", wanted)]


@pytest.mark.parametrize(
    "wanted", [Range(("a",), gt=2**53 + 1), Range(('a"',), gt=1), Range(("a/b",), gt=1), Range(("n", "\x00"), gt=1)]
)
def test_bounds_and_names_that_milvus_may_misread_never_reach_it(wanted: Any) -> None:
    assert expression_of(wanted, no_others) == "(key in [])"
