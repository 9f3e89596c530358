"""Drawn metadata and conditions, full of what engines confuse.

That is: 1, 1.0 and true; integers that no double holds; strings that UTF-16 sorts otherwise than code points do;
strings and paths at the limits.
"""

from typing import Any

from hypothesis import strategies as st

from index.conditions import (
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
)

NAMES = ["a", "b", "a.b", "\\", "\U0001f600"]
LONG = "x" * (MAX_STRING_BYTES - 1)
STRINGS = ["", "a", "ab", "b", "\0", "\ue000", "\U0001f600", "1", "true", LONG, LONG + "y"]
INTEGERS = [0, 1, 2, -1, 2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, MAX_INTEGER, MAX_INTEGER - 1, MIN_INTEGER]
FLOATS = [0.0, -0.0, 1.0, 0.5, -1.5, 2.0**53, 2.0**63, -(2.0**63), 1e22, 5e-324, 1.7976931348623157e308, -1e308]
BEYOND = [2**64, 10**22, 10**30, -(10**30), 10**400, -(10**400), LONG + "yz", LONG + "\u00e9", LONG + "yy", "x" * 3000]

values = st.sampled_from([*STRINGS, *INTEGERS, *FLOATS, True, False]) | st.floats(allow_nan=False, allow_infinity=False)
bounds = st.sampled_from([*INTEGERS, *FLOATS])
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple)
metadata_values = st.recursive(
    values | st.none() | st.sampled_from(BEYOND),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, ""]), inner, max_size=3),
    max_leaves=8,
)
metadata: st.SearchStrategy[dict[str, Any]] = st.dictionaries(st.sampled_from(NAMES), metadata_values, max_size=3)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Bounds of one kind, one or two of them."""
    one_kind = draw(st.sampled_from([bounds, st.sampled_from(STRINGS)]))
    low, high = draw(st.sampled_from(["gt", "gte", None])), draw(st.sampled_from(["lt", "lte"]))
    given = {name: draw(one_kind) for name in (low, high) if name}
    return Range(draw(paths), **given)


comparisons: st.SearchStrategy[Condition] = st.one_of(
    st.builds(Equals, paths, values),
    st.builds(In, paths, st.lists(values, min_size=1, max_size=4).map(tuple)),
    ranges(),
    st.builds(Exists, paths),
)


def _combined(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


conditions: st.SearchStrategy[Condition] = st.recursive(comparisons, _combined, max_leaves=6)
