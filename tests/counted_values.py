"""What facets and fields come to by going through the metadata of all keys: the slow, obvious twin of counting."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from anykey.index.filtering.conditions import MAX_INTEGER, MAX_STRING_BYTES, MIN_INTEGER, Path, Scalar, matches
from anykey.index.filtering.conditions import values_at as all_values_at
from anykey.index.filtering.facets import (
    FREQUENT_VALUES,
    Extent,
    Facet,
    FacetCounts,
    FieldFacts,
    RangeFacet,
    ValueCount,
)
from anykey.index.filtering.instants import instant_of
from anykey.index.filtering.terms import ValueType

Name = tuple[int, Any]  # rank of the type, and what orders its values: equal for equal values alone
TYPES: list[ValueType] = ["boolean", "number", "date", "string"]


def counts_of(facet: Facet, rows: Sequence[dict[str, Any]]) -> FacetCounts:
    """What a facet comes to, of keys with these metadata; `is_known` is whether any of these has a value."""
    num_keys = sum(bool(all_values_at(facet.path, row)) for row in rows)
    told = (facet, num_keys, len(rows) - num_keys, num_keys > 0)
    if isinstance(facet, RangeFacet):
        return FacetCounts(*told, range_counts=tuple(sum(matches(one, row) for row in rows) for one in facet.ranges))
    counts = {
        name: num
        for name, num in _counts_at(facet.path, rows).items()
        if facet.prefix is None or (isinstance(shown(name), str) and str(shown(name)).startswith(facet.prefix))
    }
    best = _most_frequent(counts, facet.limit)
    return FacetCounts(*told, values=best, num_other_values=len(counts) - len(best))


def fields_of(rows: Sequence[dict[str, Any]]) -> dict[Path, FieldFacts]:
    """What there is at every path that a filter can name."""
    return {path: _facts_of(path, rows) for path in {path for row in rows for path in _paths_in((), row)}}


def shown(name: Name) -> Scalar:
    """The form that stands for all values that equal one."""
    rank, value = name
    if TYPES[rank] == "date":
        return str(value.written())
    if TYPES[rank] == "number" and isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return float(value) if int(float(value)) == value else value
    if TYPES[rank] == "number" and value == int(value) and MIN_INTEGER <= value <= MAX_INTEGER:
        return int(value)
    return value  # type: ignore[no-any-return]


def _facts_of(path: Path, rows: Sequence[dict[str, Any]]) -> FieldFacts:
    counts = _counts_at(path, rows)
    types = {
        of_type: num
        for of_type in TYPES
        if (num := sum(any(_name(v)[0] == TYPES.index(of_type) for v in all_values_at(path, row)) for row in rows))
    }
    num_keys = sum(bool(all_values_at(path, row)) for row in rows)
    best = _most_frequent(counts, FREQUENT_VALUES)
    return FieldFacts(path, num_keys, types, len(counts), best, _extent("number", counts), _extent("date", counts))


def _extent(of_type: ValueType, counts: dict[Name, int]) -> Extent | None:
    names = [name for name in counts if TYPES[name[0]] == of_type]
    return Extent(shown(min(names)), shown(max(names))) if names else None


def _most_frequent(counts: dict[Name, int], limit: int) -> tuple[ValueCount, ...]:
    best = sorted(counts, key=lambda name: (-counts[name], name))[:limit]
    return tuple(ValueCount(shown(name), counts[name]) for name in best)


def _counts_at(path: Path, rows: Sequence[dict[str, Any]]) -> dict[Name, int]:
    """How many keys have each value at a path that is one to the index: others are too long or too large."""
    counts: dict[Name, int] = defaultdict(int)
    for row in rows:
        for name in {_name(value) for value in all_values_at(path, row)}:
            if _is_one(name[1]):
                counts[name] += 1
    return dict(counts)


def _name(value: Scalar) -> Name:
    if isinstance(value, bool):
        return 0, value
    if not isinstance(value, str):
        return 1, value
    instant = instant_of(value)
    return (3, value) if instant is None else (2, instant)


def _is_one(value: Any) -> bool:
    if isinstance(value, str):
        return len(value.encode()) <= MAX_STRING_BYTES
    try:
        return not isinstance(value, int) or float(value) is not None
    except OverflowError:
        return False


def _paths_in(path: Path, item: Any) -> set[Path]:
    if isinstance(item, dict):
        return {found for name, inner in item.items() if name for found in _paths_in((*path, name), inner)}
    if isinstance(item, list):
        return {found for inner in item for found in _paths_in(path, inner)}
    return set() if item is None else {path}
