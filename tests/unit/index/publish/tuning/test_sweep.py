"""The choice among measured ways to search agrees with the order of the targets, and each way is measured once.

The twin narrows down by one thing after the other, as the docs say it: memory, recall, latency, then what is fastest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.index.publish.tuning.held_out import HeldOut, Search
from anykey.index.publish.tuning.sweep import (
    MOST_CONFIRMED,
    RERANK_STEPS,
    Searchable,
    confirmed,
    is_met,
    nearest,
    rank,
    shortfalls,
    sweep,
)
from anykey.index.vectors.structure_facts import Candidate, Measured, Point, SearchParameters, Targets

FACTORY = "IVF64,SQ8"
recalls = st.sampled_from([0.5, 0.9, 0.97, 0.98, 0.985, 0.99, 1.0])
latencies_ms = st.sampled_from([0.1, 0.2, 0.5, 1.0, 5.0])
any_targets = st.builds(
    Targets,
    memory_bytes=st.none() | st.integers(1, 5),
    recall=st.sampled_from([0.6, 0.97, 0.98, 1.0]),
    latency_ms=st.none() | st.sampled_from([0.15, 0.5, 2.0]),
)


@dataclass(frozen=True)
class Values:
    """What a way to search takes, and what it gives."""

    memory_bytes: int
    recall: float
    latency_ms: float
    recall_error: float = 0.0

    def misses(self, targets: Targets) -> tuple[float, float, float]:
        """In the order in which they count."""
        memory_bytes = 0 if targets.memory_bytes is None else max(0, self.memory_bytes - targets.memory_bytes)
        recall = max(0.0, targets.recall - (self.recall - self.recall_error))
        latency_ms = 0.0 if targets.latency_ms is None else max(0.0, self.latency_ms - targets.latency_ms)
        return memory_bytes, recall, latency_ms


any_values = st.builds(Values, st.integers(1, 5), recalls, latencies_ms, st.sampled_from([0.0, 0.01]))
tried_twice = st.lists(st.tuples(any_values, recalls, latencies_ms), min_size=1, max_size=12)


def narrowed(values: Sequence[Values], targets: Targets) -> Values:
    """The best, found by leaving only the best in one thing after the other."""
    left = list(values)
    for of in (
        *(lambda each, place=place: each.misses(targets)[place] for place in range(3)),
        lambda each: each.latency_ms,
        lambda each: -each.recall,
        lambda each: each.memory_bytes,
    ):
        least = min(of(each) for each in left)
        left = [each for each in left if of(each) == least]
    return left[0]


def narrowed_one_by_one(values: Sequence[Values], targets: Targets) -> list[Values]:
    left, ordered = list(values), []
    while left:
        ordered.append(narrowed(left, targets))
        left.remove(ordered[-1])
    return ordered


def point(values: Values, number: int = 0) -> Point:
    return Point(
        factory=FACTORY,
        search=SearchParameters(rerank=number),
        memory_bytes=values.memory_bytes,
        recall_at_10=values.recall,
        recall_error=values.recall_error,
        latency_p50_ms=values.latency_ms,
    )


def values_of(point: Point) -> Values:
    return Values(point.memory_bytes, point.recall_at_10, point.latency_p50_ms, point.recall_error)


def measured(values: Values) -> Measured:
    return Measured(
        recall_at_10=values.recall,
        recall_at_100=values.recall,
        latency_p50_ms=values.latency_ms,
        latency_p99_ms=values.latency_ms,
        ms_per_query=1,
        speedup=1,
    )


class Told:
    """In the place of held-out queries: a search has the recall and latency that it is told to have."""

    exact_ms = 1.0
    own_Q = np.zeros(4)

    def recall(self, search: Search, k: int) -> float:
        return cast(Any, search).recall

    def recalls(self, search: Search, k: int) -> NDArray[np.float64]:
        return np.full(4, cast(Any, search).recall)

    def latencies_ms(self, search: Search, k: int, runs: int = 0, rounds: int = 1) -> NDArray[np.float64]:
        return np.full(4, cast(Any, search).latency_ms)

    def ms_per_query(self, search: Search, k: int) -> float:
        return 1.0


TOLD = cast(HeldOut, Told())


def searchable(
    search_with: Callable[[SearchParameters], Values] | Mapping[SearchParameters, Values], **changes: Any
) -> Searchable:
    find = search_with if callable(search_with) else search_with.__getitem__
    candidate = Candidate(factory=FACTORY, memory_bytes=1)
    return Searchable(candidate, cast(Callable[[SearchParameters], Search], find), **changes)


@given(st.lists(any_values, min_size=1, max_size=12), any_targets)
def test_order_is_that_of_memory_recall_latency(tried: list[Values], targets: Targets) -> None:
    ordered = rank([point(values) for values in tried], targets)

    assert [values_of(each) for each in ordered] == narrowed_one_by_one(tried, targets)
    assert [is_met(each, targets) for each in ordered] == [not any(values_of(p).misses(targets)) for p in ordered]


@given(tried_twice, any_targets)
def test_choice_is_the_first_that_keeps_to_the_targets_again_or_else_the_nearest(
    tried: list[tuple[Values, float, float]], targets: Targets
) -> None:
    points = [point(values, number) for number, (values, _, _) in enumerate(tried)]
    again = {
        each.search: Values(each.memory_bytes, recall, latency_ms)
        for each, (_, recall, latency_ms) in zip(points, tried, strict=True)
    }

    chosen, found = confirmed(points, {FACTORY: searchable(again)}, targets, TOLD)

    candidates = [again[each.search] for each in rank(points, targets)[:MOST_CONFIRMED]]
    keeping = [values for values in candidates if not any(values.misses(targets))]
    expected = keeping[0] if keeping else narrowed(candidates, targets)
    assert again[chosen.search].misses(targets) == expected.misses(targets)
    assert again[chosen.search].latency_ms == expected.latency_ms
    assert found.recall_at_10 == again[chosen.search].recall
    assert bool(shortfalls(chosen.memory_bytes, found, targets)) == (not keeping)


@given(tried_twice, any_targets)
def test_nearest_misses_least_and_is_then_the_fastest(
    tried: list[tuple[Values, float, float]], targets: Targets
) -> None:
    found = [Values(values.memory_bytes, recall, latency_ms) for values, recall, latency_ms in tried]

    chosen, measurement = nearest([(point(values), measured(values)) for values in found], targets)

    expected = narrowed(found, targets)
    least = Values(chosen.memory_bytes, measurement.recall_at_10, measurement.latency_p50_ms)
    assert (least.misses(targets), least.latency_ms) == (expected.misses(targets), expected.latency_ms)


@pytest.mark.parametrize(("target", "most_probes"), [(0.98, 16), (0.9999, 64), (1.0, 256)])
def test_sweep_looks_as_far_as_the_recall_that_is_asked_for(target: float, most_probes: int) -> None:
    recall = {16: 0.9996, 64: 0.99995, 256: 1.0}

    def search(parameters: SearchParameters) -> Values:
        best = max((found for probes, found in recall.items() if probes <= parameters.probes), default=0.5)
        return Values(1, best, 1.0)

    structure = searchable(search, max_probes=1024)
    points = list(sweep(structure, TOLD, Targets(recall=target), lambda step, done, total: None))

    assert points[-1].search.probes == most_probes


def test_searches_that_are_the_same_are_measured_once() -> None:
    asked: list[SearchParameters] = []

    def as_searched(parameters: SearchParameters, k: int) -> SearchParameters:
        return parameters.model_copy(update={"probes": max(parameters.probes, parameters.rerank, 4 * k)})

    def search(parameters: SearchParameters) -> Values:
        asked.append(parameters)
        return Values(1, 1 - 1 / (parameters.probes + parameters.rerank), 1.0)

    structure = searchable(search, max_probes=512, needs_rerank=True, as_searched=as_searched)
    points = list(sweep(structure, TOLD, Targets(recall=0.98), lambda step, done, total: None))

    assert len(asked) == len(set(asked)) == len(points)
    assert [each.search for each in points] == asked
    assert {SearchParameters(probes=rerank, rerank=rerank) for rerank in RERANK_STEPS} <= set(asked)
    assert {SearchParameters(probes=512, rerank=rerank) for rerank in RERANK_STEPS[:4]} <= set(asked)
