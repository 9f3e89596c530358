"""Dates are told from other strings, and name the moment that Python's own reader of them gives."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.filtering.conditions import Equals, In, Range, matches
from anykey.index.filtering.instants import Instant, instant_of

EAST = "2024-07-01T00:30:00+02:00"  # half an hour after the two others
UTC_TEXT, ZULU = "2024-06-30T22:00:00+00:00", "2024-06-30T22:00:00Z"
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones)


@given(moments, moments, st.sampled_from("T "))
def test_instants_are_those_of_python_and_sort_as_they_do_also_as_text(one: Any, other: Any, separator: str) -> None:
    found = [instant_of(moment.isoformat(separator)) for moment in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0] < found[1], found[0] == found[1]) == (one < other, one == other)
    assert (str(found[0]) < str(found[1]), str(found[0]) == str(found[1])) == (one < other, one == other)
    assert instant_of(found[0].iso() or "") == found[0]
    seconds = (one - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert found[0].second == seconds


ONE_MOMENT = [
    "2024-06-30T22:00:00Z", "2024-06-30t22:00:00.000z", "2024-06-30 22:00Z", "2024-07-01T00:00+02",
    "2024-07-01T00:00:00,0+0200", "2024-06-30T22:00:00-00:00",
]  # fmt: skip
NO_DATES = [
    "2024-06-30T22:00:00", "2024-06-31", "2023-02-29T00:00Z", "2024-06-30T24:00Z", "2024-06-30T22:60Z", "20240630", "",
    "2024-06-30T22:00:60Z", "0000-01-01", "2024-06-30T22:00Z ", "2024-6-30", "\u0662024-06-30", "2024-W27", "2024-06",
    "2024-06-30T22:00:00.0000000001Z", "2024-06-30T22:00+24:00", "2024-06-30Z", "x2024-06-30", "2024-06-30T22Z",
    "2024-06-30T2200Z",
]  # fmt: skip


@pytest.mark.parametrize("text", ONE_MOMENT)
def test_ways_to_write_one_moment(text: str) -> None:
    assert instant_of(text) == Instant(1719784800)


@pytest.mark.parametrize("text", NO_DATES)
def test_what_is_no_date(text: str) -> None:
    assert instant_of(text) is None


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (Range(("ts",), gte=ZULU), [True, True, True]),
        (Range(("ts",), gt=ZULU), [False, True, False]),
        (Range(("ts",), gte="2024-06-30", lt="2024-07-01"), [True, True, True]),
        (Range(("ts",), lt="2024-07-01T00:15:00+02:00"), [True, False, True]),
        (Equals(("ts",), ZULU), [True, False, True]),
        (In(("ts",), ("2024-06-30T22:30Z", "other")), [False, True, False]),
        (Range(("ts",), gte="2024-07"), [False, True, False]),  # no date: by code point
        (Range(("ts",), gte="2024-06-30T22:00:00Z", lt="z"), [False, True, True]),  # and so where one is none
    ],
)
def test_dates_compare_as_moments_where_both_sides_are_dates(condition: Any, holds: list[bool]) -> None:
    assert [matches(condition, {"ts": text}) for text in (UTC_TEXT, EAST, ZULU)] == holds


def test_a_string_that_is_no_date_compares_with_one_by_code_point() -> None:
    assert matches(Range(("ts",), gte="2024-06-30T22:00:00Z"), {"ts": "2024-07-01T00:00:00"})
    assert not matches(Equals(("ts",), "2024-06-30T22:00:00Z"), {"ts": "2024-06-30T22:00:00"})


def test_conditions_on_one_moment_are_one() -> None:
    assert Equals(("ts",), UTC_TEXT) == Equals(("ts",), ZULU)
    assert hash(Equals(("ts",), UTC_TEXT)) == hash(Equals(("ts",), ZULU))
    assert Equals(("ts",), EAST) != Equals(("ts",), ZULU)
