"""Postings in memory find what `matches` finds, for the keys of each moment, also when some of them are gone."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.index.deadline import Deadline
from anykey.index.errors import DeadlineExceededError
from anykey.index.filtering.conditions import Condition, Equals, Not, Or, Range, matches
from anykey.index.filtering.growing import GrowingPostings
from tests.unit.index.filter_cases import cases


def put(postings: GrowingPostings, position: int, metadata: list[Any]) -> None:
    postings.put(position, [("text", (f"p{len(each)}",), each) for each in metadata])


@settings(max_examples=30, deadline=None)
@given(cases(), st.lists(st.integers(0, 30), max_size=4), st.data())
def test_every_moment_agrees_with_matches(
    case: tuple[list[Any], list[Condition]], cuts: list[int], data: st.DataObject
) -> None:
    rows, wanted = case
    postings, moments = GrowingPostings(), sorted({min(cut, len(rows)) for cut in cuts} | {len(rows)})
    start = 0
    for stop in moments:
        put(postings, start, rows[start:stop])
        start = stop
        for condition in wanted:
            for size in moments[: moments.index(stop) + 1]:
                expected = [place for place in range(size) if matches(condition, rows[place])]
                assert postings.positions(condition, size).tolist() == expected

    kept = sorted(data.draw(st.sets(st.sampled_from(range(len(rows)))))) if rows else []
    fewer = postings.only(np.array(kept, np.int64))
    for condition in wanted:
        expected = [place for place, row in enumerate(kept) if matches(condition, rows[row])]
        assert fewer.positions(condition, len(kept)).tolist() == expected
    assert fewer.pools() == {f"p{len(rows[row])}" for row in kept}


def test_keys_that_nobody_asked_about_yet_can_be_left_out() -> None:
    postings = GrowingPostings()
    put(postings, 0, [{"n": number} for number in range(4)])
    assert postings.positions(Range(("n",), gte=2), 4).tolist() == [2, 3]
    put(postings, 4, [{"n": 4}, {"n": 5}])

    fewer = postings.only(np.array([1, 3, 5]))

    assert fewer.positions(Range(("n",), gte=2), 3).tolist() == [1, 2]
    put(fewer, 3, [{"n": 0}])
    assert fewer.positions(Range(("n",), lt=2), 4).tolist() == [0, 3]


def test_many_names_are_taken_in_and_left_out_in_a_time_that_grows_with_their_number() -> None:
    def seconds_for(rows: int) -> tuple[float, float]:
        postings = GrowingPostings()
        put(postings, 0, [{"name": f"s{number * 7919 % rows:06}"} for number in range(rows)])
        began_s = time.thread_time()
        assert len(postings.positions(Range(("name",), gte="s"), rows)) == rows
        taken_s = time.thread_time()
        fewer = postings.only(np.arange(0, rows, 3))
        left_out_s = time.thread_time()
        assert fewer.positions(Equals(("name",), f"s{9 * 7919 % rows:06}"), rows).tolist() == [3]
        below = [place for place in range(0, rows, 3) if place * 7919 % rows < 50]
        assert fewer.positions(Range(("name",), lt="s000050"), rows).tolist() == [place // 3 for place in below]
        return taken_s - began_s, left_out_s - taken_s

    few_s, many_s = seconds_for(4_000), seconds_for(40_000)
    assert many_s[0] < 30 * few_s[0], "ten times as many"
    assert many_s[1] < many_s[0] / 4, "a search waits for it"


def test_taking_in_keys_is_stopped_and_gone_on_with() -> None:
    postings = GrowingPostings()
    put(postings, 0, [{"n": number} for number in range(2000)])

    for _ in range(3):  # each gets further, and none to the end
        with pytest.raises(DeadlineExceededError):
            postings.positions(Equals(("n",), 1999), 2000, Deadline(0))

    assert postings.positions(Equals(("n",), 1999), 2000).tolist() == [1999]
    assert postings.positions(Range(("n",), gte=0), 2000).tolist() == list(range(2000))


def test_condition_of_many_parts_is_not_evaluated_to_its_end() -> None:
    postings = GrowingPostings()
    put(postings, 0, [{"n": number} for number in range(100)])
    looks = iter(range(10_000))
    asked: list[int] = []

    def clock() -> float:
        asked.append(next(looks))
        return float(len(asked))

    many = Or(tuple(Not(Equals(("n",), number)) for number in range(400)))
    with pytest.raises(DeadlineExceededError, match="within 50 s"):
        postings.positions(many, 100, Deadline(50, clock))
    assert len(asked) < 60
