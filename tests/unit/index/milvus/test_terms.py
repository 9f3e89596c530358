"""Terms are equal exactly where conditions find the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.filtering.conditions import Equals, Exists, compared, matches
from anykey.index.milvus.terms import (
    TERM_CHARS,
    exists_term,
    instant_name,
    instants_of,
    is_exact,
    other_term,
    single_term,
    terms_of,
    value_term,
)

NAMES = st.sampled_from(["a", "b", "a/b", "", 'a"', "half \ud800"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**53, 2**53 + 1, 2.0**53, 1e300, int(1e300), 0.5, -0.0])
    | st.sampled_from(
        ["", "1", "true", "a", "2024-06-30T22:00:00Z", "2024-07-01T00:00:00+02:00", "2024-06-30T22:00:00"]
    )
)
METADATA = st.dictionaries(
    NAMES,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)),
    max_size=3,
)
PATHS = st.lists(NAMES.filter(lambda name: name in ("a", "b", "a/b", 'a"')), min_size=1, max_size=3).map(tuple)


@given(METADATA, PATHS, SCALARS.filter(lambda value: value is not None and value != int(1e300)))
def test_a_key_has_the_term_of_what_conditions_find(metadata: dict[str, Any], path: Any, value: Any) -> None:
    terms = terms_of(metadata)

    assert (value_term(path, compared(value)) in terms) == matches(Equals(path, value), metadata)
    assert (exists_term(path) in terms) == matches(Exists(path), metadata)


@given(METADATA)
def test_terms_are_short_and_plain(metadata: dict[str, Any]) -> None:
    for term in terms_of(metadata):
        assert len(term) == TERM_CHARS
        assert term.replace("-", "").replace("_", "").isalnum()
        assert term.isascii()


@pytest.mark.parametrize(
    ("metadata", "kind", "is_single"),
    [
        ({"a": 1}, "number", True),
        ({"a": 1.5}, "number", True),
        ({"a": "x"}, "string", True),
        ({"a": 2**53}, "number", True),
        ({"a": 2**53 + 1}, "number", False),
        ({"a": [1]}, "number", False),
        ({"a": ["x", 1]}, "string", False),
        ({"a": "2024-06-30"}, "instant", True),
        ({"a": ["2024-06-30"]}, "instant", False),
    ],
)
def test_values_that_milvus_cannot_compare_are_told_apart(metadata: Any, kind: Any, is_single: bool) -> None:
    terms = terms_of(metadata)

    assert (single_term(("a",), kind) in terms) is is_single
    assert (other_term(("a",), kind) in terms) is not is_single


def test_dates_beyond_what_a_field_can_hold_are_looked_at_one_by_one() -> None:
    metadata = {f"d{number}": "2024-06-30" for number in range(300)}

    terms, kept = terms_of(metadata), instants_of(metadata)

    assert len(kept) == 256
    for name in metadata:
        is_kept = instant_name((name,)) in kept
        assert (single_term((name,), "instant") in terms) is is_kept
        assert (other_term((name,), "instant") in terms) is not is_kept


def test_no_value_below_a_list_is_single() -> None:
    assert single_term(("a", "b"), "number") not in terms_of({"a": [{"b": 1}]})


@pytest.mark.parametrize(("value", "expected"), [(2**53, True), (-(2**53) - 1, False), (1e300, True), ("9", True)])
def test_integers_beyond_doubles_are_not_exact(value: Any, expected: bool) -> None:
    assert is_exact(value) is expected
