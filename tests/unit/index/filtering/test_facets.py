"""Counts of values are those of a scan over all metadata, whichever of the keys are counted and wherever they are."""

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.index.deadline import NEVER
from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range
from anykey.index.filtering.facets import Facet, FieldCounter, RangeFacet, Source, ValueFacet
from anykey.index.filtering.growing import GrowingPostings
from anykey.index.filtering.instants import Instant, instant_of
from anykey.index.filtering.postings import Posted, Postings, write_postings
from tests.counted_values import counts_of, fields_of
from tests.unit.index.filter_cases import BEYOND, DATES, WITHIN, cases
from tests.unit.index.filtering.test_postings import as_former

LIMITS = st.sampled_from([1, 2, 10])
PREFIXES = st.sampled_from([None, None, "", "a", "2024", "2024-06-30T22", "x"])


@contextmanager
def counter_over(
    folder: Path, rows: Sequence[Any], is_in: NDArray[np.bool_], num_recent: int, *, is_former: bool
) -> Iterator[FieldCounter]:
    """Counts over rows of which the last are in memory."""
    split = len(rows) - num_recent
    posted: list[Posted] = [("text", ("shop",), row) for row in rows]
    path = folder / "fields.sqlite"
    if is_former:
        as_former(path, posted[:split])
    else:
        write_postings(path, posted[:split])
    growing = GrowingPostings()
    growing.put(0, posted[split:])
    with ExitStack() as stack:
        postings = stack.enter_context(closing(Postings(path)))
        reading = stack.enter_context(postings.reading())
        sources = [Source(reading, is_in[:split]), Source(growing.first(num_recent), is_in[split:])]
        yield FieldCounter(sources, NEVER)


def facets_like(condition: Condition, limit: int, prefix: str | None) -> list[Facet]:
    """Facets of the fields that a condition is about."""
    match condition:
        case And(conditions) | Or(conditions):
            return [facet for part in conditions for facet in facets_like(part, limit, prefix)]
        case Not(negated):
            return facets_like(negated, limit, prefix)
        case Range(path):
            return [RangeFacet(path, (condition, condition))]
        case Exists(path) | Equals(path) | In(path):
            return [ValueFacet(path, limit, prefix)]


def typed(found: Any) -> str:
    """What tells counts from others, also 1 from 1.0 and true; but for `is_known`, which is about all keys."""
    return repr(found).replace("is_known=True", "").replace("is_known=False", "")


@settings(max_examples=30, deadline=None)
@given(case=cases(), limit=LIMITS, prefix=PREFIXES, is_former=st.booleans(), data=st.data())
def test_counts_are_those_of_a_scan(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[Any], list[Condition]],
    limit: int,
    prefix: str | None,
    is_former: bool,
    data: st.DataObject,
) -> None:
    rows, wanted = case
    is_in = np.array([data.draw(st.booleans()) for _ in rows], np.bool_)
    num_recent = data.draw(st.integers(0, len(rows)))
    counted = [row for row, is_it in zip(rows, is_in, strict=True) if is_it]
    with counter_over(tmp_path_factory.mktemp("facets"), rows, is_in, num_recent, is_former=is_former) as counter:
        for facet in {repr(facet): facet for one in wanted for facet in facets_like(one, limit, prefix)}.values():
            found = counter.count(facet)
            assert typed(found) == typed(counts_of(facet, counted)), facet
            assert found.is_known == counts_of(facet, rows).is_known
        expected = fields_of(counted)
        page = counter.fields(None, limit)
        fields = [*page.fields]
        while page.last is not None:
            page = counter.fields(page.last, limit)
            assert len(page.fields) <= limit
            fields += page.fields
        assert {facts.path: typed(facts) for facts in fields} == {path: typed(expected[path]) for path in expected}
        assert len(fields) == len(expected)


@pytest.mark.parametrize("is_former", [False, True])
def test_every_kind_of_value_is_counted_and_told_from_others(tmp_path: Path, is_former: bool) -> None:
    rows = [{"a": value} for value in [*WITHIN, *BEYOND]] + [{"a": [*WITHIN, *BEYOND, None]}, {"b": 1}]
    is_in = np.ones(len(rows), np.bool_)
    for num_recent in (0, 20, len(rows)):
        with counter_over(tmp_path, rows, is_in, num_recent, is_former=is_former) as counter:
            for facet in (ValueFacet(("a",), 1000), ValueFacet(("a",), 5), ValueFacet(("a",), 9, "2024-07")):
                assert typed(counter.count(facet)) == typed(counts_of(facet, rows))
            assert typed(counter.fields(None, 10).fields) == typed((fields_of(rows)[("a",)], fields_of(rows)[("b",)]))


def test_fields_with_more_values_than_are_looked_at_at_once_are_counted_exactly(tmp_path: Path) -> None:
    rows = [
        {"id": f"v{number % 9_000:05}", "n": [number % 7, -number], "odd": bool(number % 2)} for number in range(11_000)
    ]
    is_in = np.arange(len(rows)) % 3 > 0
    counted = [row for row, is_it in zip(rows, is_in, strict=True) if is_it]
    with counter_over(tmp_path, rows, is_in, 1_000, is_former=False) as counter:
        for facet in (
            ValueFacet(("id",), 25),
            ValueFacet(("id",), 25, "v089"),
            ValueFacet(("n",), 10),
            ValueFacet(("odd",)),
            RangeFacet(("n",), (Range(("n",), lt=-5_000), Range(("n",), gte=3, lt=5))),
        ):
            assert typed(counter.count(facet)) == typed(counts_of(facet, counted))


@pytest.mark.slow
def test_a_field_of_a_million_values_takes_little_memory(tmp_path: Path) -> None:
    num_keys = 1_000_000
    write_postings(
        tmp_path / "fields.sqlite", (("text", (), {"id": f"value {number:08}"}) for number in range(num_keys))
    )
    with closing(Postings(tmp_path / "fields.sqlite")) as postings, postings.reading() as reading:
        counter = FieldCounter([Source(reading, np.ones(num_keys, np.bool_))], NEVER)
        tracemalloc.start()
        try:
            counts = counter.count(ValueFacet(("id",), 1000))
            (facts,) = counter.fields(None, 10).fields
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (len(counts.values), counts.num_other_values, facts.num_values) == (1000, num_keys - 1000, num_keys)
    assert peak_bytes < 25 * num_keys  # a few numbers for each key, but not its value


@given(st.sampled_from(DATES) | st.datetimes().map(lambda moment: moment.isoformat() + "Z"))
def test_a_moment_is_written_as_a_date_that_names_it(text: str) -> None:
    instant = instant_of(text)
    if instant is not None:
        assert instant_of(instant.written()) == instant
        assert Instant.of_ordered(str(instant)) == instant


def test_moments_are_written_short() -> None:
    written = {
        "2024-07-01T00:00+02:00": "2024-06-30T22:00:00Z",
        "2024-07-01T02:00:00.000+02:00": "2024-07-01",
        "2024-07-01T00:00:00.50Z": "2024-07-01T00:00:00.5Z",
        "0001-01-01T00:00:00+05:00": "0001-01-01T18:59:00+23:59",
        "9999-12-31T23:00:00-05:00": "9999-12-31T04:01:00-23:59",
    }
    for text, expected in written.items():
        instant = instant_of(text)
        assert instant is not None
        assert instant.written() == expected
