"""Measures ways to search on held-out queries, from narrow to wide, and tells which keep best to the targets."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anykey.index.publish.tuning.held_out import HeldOut, Search
from anykey.index.vectors.structure_facts import EXACT, Candidate, Measured, Point, SearchParameters, Targets
from anykey.program.progress import Report

RERANK_STEPS = (50, 100, 200, 400, 800)
MOST_PROBES = 1024
ENOUGH_RECALL = 0.9995  # looking further is not swept, unless more is asked for
SWEPT_RESULTS = 10
SWEPT_LATENCY_RUNS = 50
ROUNDS = 5  # over the queries, each of which counts with its fastest time
SLOWEST_RUNS = 10  # single exact queries that are timed
MOST_CONFIRMED = 8  # points that are measured again on the queries that were not chosen with


@dataclass(frozen=True)
class Searchable:
    """A structure that is built, to be measured.

    Attributes:
        candidate: What it is.
        search_with: From search parameters to a search.
        max_probes: The most `SearchParameters.probes` that mean anything.
        needs_rerank: Whether its own scores are not exact.
        as_searched: From parameters and the number of results to the parameters that a search really takes; some
            differ in nothing else.
        work: How much a query is with such parameters; 0 where that is not known, and measured times decide.
    """

    candidate: Candidate
    search_with: Callable[[SearchParameters], Search]
    max_probes: int = 1
    needs_rerank: bool = False
    as_searched: Callable[[SearchParameters, int], SearchParameters] = lambda parameters, k: parameters
    work: Callable[[SearchParameters], float] = lambda parameters: 0.0


def sweep(structure: Searchable, held_out: HeldOut, targets: Targets, report: Report) -> Iterator[Point]:
    """Measures ever wider searches of a structure until nothing is to be gained, each of them once."""
    steps = list(_probe_steps(structure.max_probes))
    name = structure.candidate.factory
    enough_recall = max(ENOUGH_RECALL, targets.recall)
    measured: dict[SearchParameters, Point] = {}
    for number, probes in enumerate(steps):
        report(f"measuring {name}", number, len(steps))
        recall = 0.0
        for rerank in RERANK_STEPS if structure.needs_rerank else (0,):
            parameters = structure.as_searched(SearchParameters(probes=probes, rerank=rerank), SWEPT_RESULTS)
            if parameters not in measured:
                measured[parameters] = _measure(structure, parameters, held_out, targets)
                yield measured[parameters]
            before, recall = recall, measured[parameters].recall_at_10
            if recall <= before:  # the rest is missed by too few probes
                break
        if recall >= enough_recall:
            break
    report(f"measuring {name}", len(steps), len(steps))


def rank(points: Sequence[Point], targets: Targets) -> list[Point]:
    """Orders points by how well they keep to the targets, best first.

    By what is missing of the memory, then of the recall less its standard error, then of the latency; those that miss
    equally much (nothing, mostly) by the work of a query, or its latency where that is not known, then by recall.
    """

    def key(point: Point) -> tuple[float, ...]:
        effort = _effort(point, point.latency_p50_ms)
        return (*_surely_missed(point, targets), *effort, -point.recall_at_10, point.memory_bytes)

    return sorted(points, key=key)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in latency, recall and memory alike, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_p50_ms, -point.recall_at_10, point.memory_bytes)):
        if all(point.recall_at_10 > best.recall_at_10 or point.memory_bytes < best.memory_bytes for best in front):
            front.append(point)
    return front


def confirmed(
    points: Sequence[Point], structures: Mapping[str, Searchable], targets: Targets, held_out: HeldOut
) -> tuple[Point, Measured]:
    """The best point that keeps to the targets on other queries too; else the one that misses least there.

    Args:
        points: Of which to choose, at least one.
        structures: What they are points of, by name.
        targets: What to keep to.
        held_out: Queries that the points were not measured with.
    """
    tried: list[tuple[Point, Measured]] = []
    for point in rank(points, targets)[:MOST_CONFIRMED]:
        search = structures[point.factory].search_with(point.search)
        measured = _measure_fully(search, held_out, targets, is_exact=point.factory == EXACT)
        tried.append((point, measured))
        if not shortfalls(point.memory_bytes, measured, targets):
            return point, measured
    return nearest(tried, targets)


def nearest(tried: Sequence[tuple[Point, Measured]], targets: Targets) -> tuple[Point, Measured]:
    """The point that misses least of the targets, and of those that miss equally much the one of least work."""

    def key(pair: tuple[Point, Measured]) -> tuple[float, ...]:
        point, measured = pair
        misses = _misses(point.memory_bytes, measured.recall_at_10, measured.latency_p50_ms, targets)
        return (*misses, *_effort(point, measured.latency_p50_ms))

    return min(tried, key=key)


def is_met(point: Point, targets: Targets) -> bool:
    """Whether a point misses none of the targets, its recall less its standard error."""
    return not any(_surely_missed(point, targets))


def shortfalls(memory_bytes: int, measured: Measured, targets: Targets) -> list[str]:
    """The targets that are missed and by how much, a sentence each."""
    memory, recall, latency = _misses(memory_bytes, measured.recall_at_10, measured.latency_p50_ms, targets)
    sentences = {
        f"memory is {memory_bytes:,} bytes, asked for at most {targets.memory_bytes or 0:,}": memory,
        f"recall@10 is {measured.recall_at_10:.4f}, asked for at least {targets.recall:g}": recall,
        f"latency is {measured.latency_p50_ms:.3g} ms, asked for at most {targets.latency_ms or 0:g} ms": latency,
    }
    return [sentence for sentence, miss in sentences.items() if miss > 0]


def _effort(point: Point, latency_ms: float) -> tuple[float, float]:
    """By what points that keep to the targets are told apart: the latency only where the work is not known."""
    return (point.work, 0.0) if point.work else (0.0, latency_ms)


def _measure(structure: Searchable, parameters: SearchParameters, held_out: HeldOut, targets: Targets) -> Point:
    search = structure.search_with(parameters)
    latencies_ms = held_out.latencies_ms(search, SWEPT_RESULTS, SWEPT_LATENCY_RUNS, _rounds(targets))
    recalls_Q = held_out.recalls(search, SWEPT_RESULTS)
    return Point(
        factory=structure.candidate.factory,
        search=parameters,
        memory_bytes=structure.candidate.memory_bytes,
        recall_at_10=float(np.mean(recalls_Q)),
        recall_error=float(np.std(recalls_Q) / math.sqrt(len(recalls_Q))),
        latency_p50_ms=float(np.median(latencies_ms)),
        work=structure.work(parameters),
    )


def _rounds(targets: Targets) -> int:
    """How often each query is timed: where times decide, what another program took of them must not."""
    return 1 if targets.latency_ms is None else ROUNDS


def _measure_fully(search: Search, held_out: HeldOut, targets: Targets, is_exact: bool) -> Measured:
    runs = SLOWEST_RUNS if is_exact else len(held_out.own_Q)
    latencies_ms = held_out.latencies_ms(search, 10, runs, _rounds(targets))
    ms_per_query = held_out.exact_ms if is_exact else held_out.ms_per_query(search, 10)
    return Measured(
        recall_at_10=held_out.recall(search, 10),
        recall_at_100=held_out.recall(search, 100),
        latency_p50_ms=float(np.median(latencies_ms)),
        latency_p99_ms=float(np.quantile(latencies_ms, 0.99)),
        ms_per_query=ms_per_query,
        speedup=held_out.exact_ms / ms_per_query,
    )


def _probe_steps(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to the most that mean anything."""
    for power in range(math.ceil(math.log2(MOST_PROBES)) + 1):
        for probes in (2**power, 3 * 2 ** (power - 1)):
            if probes <= min(most, MOST_PROBES) and probes == int(probes):
                yield int(probes)


def _surely_missed(point: Point, targets: Targets) -> tuple[float, float, float]:
    """By how much a point misses, if its recall is luck as far as may well be."""
    return _misses(point.memory_bytes, point.recall_at_10 - point.recall_error, point.latency_p50_ms, targets)


def _misses(memory_bytes: int, recall: float, latency_ms: float, targets: Targets) -> tuple[float, float, float]:
    """By how much memory, recall and latency miss what was asked for; 0 where they do not."""
    return (
        max(0.0, memory_bytes - (targets.memory_bytes or math.inf)),
        max(0.0, targets.recall - recall),
        max(0.0, latency_ms - (targets.latency_ms or math.inf)),
    )
