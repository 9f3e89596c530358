"""Drawn metadata and conditions, full of what engines confuse.

That is: 1, 1.0 and true; integers that no double holds; strings that UTF-16 sorts otherwise than code points do;
strings and paths at the limits.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from anykey.index.filtering.conditions import (
    MAX_INTEGER,
    MAX_STRING_BYTES,
    MIN_INTEGER,
    And,
    Condition,
    Equals,
    Exists,
    In,
    Not,
    Or,
    Range,
    kind_of,
)

NAMES = ["a", "b", "a.b", "\\", "\U0001f600"]
LONG = "x" * (MAX_STRING_BYTES - 1)
STRINGS = ["", "a", "ab", "b", "\0", "\ue000", "\U0001f600", "1", "true", LONG, LONG + "y"]
DATES = [
    "2024-06-30T22:00:00Z", "2024-06-30T22:00:00+00:00", "2024-07-01T00:00+02:00", "2024-07-01T00:30:00+02:00",
    "2024-06-30 23:59:59.5-0100", "2024-07-01", "2024-06-30T22:00:00.000000001z", "1969-12-31T23:59:59Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999999-23:59",
]  # fmt: skip
NEAR_DATES = ["2024-06-30T22:00:00", "2024-06-31", "2024-07", "20240701", "2024-07-01T25:00Z", "2024-07-01T00:00:60Z"]
INTEGERS = [0, 1, 2, -1, 2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, MAX_INTEGER, MAX_INTEGER - 1, MIN_INTEGER]
FLOATS = [0.0, -0.0, 1.0, 0.5, -1.5, 2.0**53, 2.0**63, -(2.0**63), 1e22, 5e-324, 1.7976931348623157e308, -1e308]
BEYOND = [2**64, 10**22, 10**30, -(10**30), 10**400, -(10**400), LONG + "yz", LONG + "\u00e9", LONG + "yy", "x" * 3000]

WITHIN = [*STRINGS, *DATES, *NEAR_DATES, *INTEGERS, *FLOATS, True, False]

values = st.sampled_from(WITHIN) | st.floats(allow_nan=False, allow_infinity=False)
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple)


def metadata_of(
    leaves: st.SearchStrategy[Any], names: Sequence[str] = (*NAMES, "")
) -> st.SearchStrategy[dict[str, Any]]:
    """Metadata objects with these values and names at any depth."""
    inner = st.recursive(
        leaves | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=3),
        max_leaves=8,
    )
    return st.dictionaries(st.sampled_from(names), inner, max_size=3)


def conditions_on(
    compared: st.SearchStrategy[Any], paths: st.SearchStrategy[tuple[str, ...]]
) -> st.SearchStrategy[Condition]:
    """Conditions that compare with these values, those bounds of a range that are of one kind."""
    comparisons: st.SearchStrategy[Condition] = st.one_of(
        st.builds(Equals, paths, compared),
        st.builds(In, paths, st.lists(compared, min_size=1, max_size=4).map(tuple)),
        ranges(compared, paths),
        st.builds(Exists, paths),
    )
    return st.recursive(comparisons, _combined, max_leaves=6)


@st.composite
def ranges(draw: st.DrawFn, compared: st.SearchStrategy[Any], paths: st.SearchStrategy[tuple[str, ...]]) -> Condition:
    """One bound, or two that are of one kind; `Exists` where the first value drawn can be no bound."""
    path, first, second = draw(paths), draw(compared), draw(compared)
    if isinstance(first, bool):
        return Exists(path)
    low, high = draw(st.sampled_from(["gt", "gte"])), draw(st.sampled_from(["lt", "lte"]))
    if isinstance(second, bool) or kind_of(first) != kind_of(second):
        return Range(path, **{draw(st.sampled_from([low, high])): first})
    return Range(path, **{low: first, high: second})


def _combined(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


metadata = metadata_of(values | st.sampled_from(BEYOND))
conditions = conditions_on(values, paths)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[Condition]]:
    """Metadata of some keys, and conditions that compare with the very values in it."""
    within = draw(st.lists(values, min_size=1, max_size=4))
    beyond = draw(st.lists(st.sampled_from(BEYOND), max_size=1))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2))
    rows = draw(st.lists(metadata_of(st.sampled_from([*within, *beyond]), names), max_size=8))
    short = st.lists(st.sampled_from(names), min_size=1, max_size=2).map(tuple)
    return rows, draw(st.lists(conditions_on(st.sampled_from(within), short), min_size=1, max_size=8))
