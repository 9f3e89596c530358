"""Chooses a search structure: builds the likely ones, measures them on held-out queries, keeps the best.

Shape legend: Q = queries, D = width.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidStructureError
from index.vectors import candidates
from index.vectors.candidates import Proposal, propose
from index.vectors.exact import ExactVectors
from index.vectors.held_out import HeldOut, Search, given_held_out, sample_held_out
from index.vectors.structure_facts import EXACT, Candidate, Measured, Point, SearchParameters, StructureFacts
from index.vectors.structures import ApproximateIndex, make_structure
from index.vectors.targets import Targets

NUM_QUERIES = 1000
RERANK_STEPS = (50, 100, 200, 400, 800)
MOST_PROBES = 1024
ENOUGH_RECALL = 0.9995  # looking further is not swept
SWEPT_LATENCY_RUNS = 50
SLOWEST_RUNS = 10  # single exact queries that are timed
MOST_CONFIRMED = 8  # points that are measured again on the queries that were not chosen with

Report = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


@dataclass(frozen=True)
class _Built:
    """One structure on disk and what its sweep gave."""

    candidate: Candidate
    path: Path | None
    search: Callable[[SearchParameters], Search]
    points: list[Point]


def choose_structure(
    exact: ExactVectors,
    path: Path,
    targets: Targets,
    *,
    factory: str | None = None,
    queries_QD: NDArray[np.float32] | None = None,
    seed: int = 0,
    report: Report = lambda step, done, total: None,
) -> StructureFacts:
    """Finds, builds and measures the search structure that keeps best to the targets.

    Half of the held-out queries choose, the other half measures. Samples and structures depend on the seed alone;
    between structures of enough recall the measured time decides.

    Args:
        exact: The vectors.
        path: Where the structure is written; nothing is there after exact search was chosen. Candidates lie beside
            it while they are compared.
        targets: What to keep to; where that cannot be, the nearest to it is chosen and the facts say so.
        factory: Takes this FAISS structure, or `exact`, and chooses only its search parameters.
        queries_QD: Unit vectors of real queries; without them, keys are sampled, each left out of its own answers.
        seed: Decides the queries and the training samples.
        report: Called with each step's progress.

    Returns:
        What was chosen and measured.

    Raises:
        InvalidStructureError: FAISS cannot build `factory` over these vectors, or the queries are of no use.
        OSError: the disk is full or not writable.
    """
    if exact.num_vectors == 0:
        raise InvalidStructureError(f"there are no vectors in {exact.path} to choose a search structure for")
    if factory not in (None, EXACT):
        make_structure(factory or "", exact.width)  # before anything is measured
    report("searching exactly", 0, 1)
    if queries_QD is None:
        held_out = sample_held_out(exact, NUM_QUERIES, seed)
    else:
        held_out = given_held_out(exact, queries_QD, NUM_QUERIES, seed)
    report("searching exactly", 1, 1)
    chooser = _Chooser(exact, path, targets, held_out, seed, report)
    try:
        source = "sampled keys" if queries_QD is None else "query vectors"
        return chooser.choose(factory, source)
    finally:
        chooser.remove_candidates()


def rank(points: Sequence[Point], targets: Targets) -> list[Point]:
    """Orders points by how well they keep to the targets, best first.

    By what is missing of the memory, then of the recall less its standard error, then of the latency; those that miss
    equally much (nothing, mostly) by latency, then by recall.
    """

    def key(point: Point) -> tuple[float, ...]:
        sure_recall = point.recall_at_10 - point.recall_error
        misses = _misses(point.memory_bytes, sure_recall, point.latency_p50_ms, targets)
        return (*misses, point.latency_p50_ms, -point.recall_at_10, point.memory_bytes)

    return sorted(points, key=key)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in latency, recall and memory alike, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_p50_ms, -point.recall_at_10, point.memory_bytes)):
        if all(point.recall_at_10 > best.recall_at_10 or point.memory_bytes < best.memory_bytes for best in front):
            front.append(point)
    return front


class _Chooser:
    """One choice, with the candidates it has built so far."""

    def __init__(
        self, exact: ExactVectors, path: Path, targets: Targets, held_out: HeldOut, seed: int, report: Report
    ) -> None:
        self._exact = exact
        self._path = path
        self._targets = targets
        self._choosing, self._measuring = held_out.halves()
        self._seed = seed
        self._report = report
        self._built: list[_Built] = []
        self._skipped: list[Candidate] = []
        self._centroids: dict[int, NDArray[np.float32]] = {}

    def choose(self, factory: str | None, query_source: str) -> StructureFacts:
        if factory in (None, EXACT):
            self._built.append(self._exact_search())
        if factory is None:
            width, num_bytes = self._exact.width, self._exact.num_bytes
            self._build_all(propose(self._exact.num_vectors, width, num_bytes, self._targets))
        elif factory != EXACT:
            self._build(factory)
        point, measured = self._confirmed()
        chosen = next(built for built in self._built if built.candidate.factory == point.factory)
        if chosen.path is not None:
            chosen.path.replace(self._path)
        return StructureFacts(
            factory=point.factory,
            search=point.search,
            memory_bytes=point.memory_bytes,
            build_seconds=chosen.candidate.build_seconds or 0.0,
            measured=measured,
            num_queries=len(self._measuring.own_Q),
            query_source=query_source,
            targets=self._targets,
            shortfalls=_shortfalls(point.memory_bytes, measured, self._targets),
            candidates=[built.candidate for built in self._built] + self._skipped,
            front=pareto_front(self._points()),
        )

    def remove_candidates(self) -> None:
        for built in self._built:
            if built.path is not None:
                built.path.unlink(missing_ok=True)

    def _build_all(self, proposals: list[Proposal]) -> None:
        for proposal in proposals:
            reason = self._why_skip(proposal)
            if reason is None:
                self._build(proposal.factory)
            else:
                skipped = Candidate(factory=proposal.factory, memory_bytes=proposal.memory_bytes, skipped=reason)
                self._skipped.append(skipped)

    def _why_skip(self, proposal: Proposal) -> str | None:
        budget_bytes = self._targets.memory_bytes
        if budget_bytes is not None and proposal.memory_bytes > budget_bytes:
            return "does not fit into the memory"
        if proposal.is_costly and any(_is_met(point, self._targets) for point in self._cheap_points()):
            return "what is cheaper to build meets the targets"
        return None

    def _cheap_points(self) -> list[Point]:
        """What makes a costly structure needless; exact search of a large corpus does not, only of a small one."""
        is_small = self._exact.num_vectors < candidates.EXACT_BELOW
        return [point for point in self._points() if is_small or point.factory != EXACT]

    def _points(self) -> list[Point]:
        return [point for built in self._built for point in built.points]

    def _exact_search(self) -> _Built:
        num_bytes = self._exact.num_bytes
        latency_ms = float(np.median(self._choosing.latencies_ms(self._exact.search, 10, SLOWEST_RUNS)))
        point = Point(
            factory=EXACT,
            search=SearchParameters(),
            memory_bytes=num_bytes,
            recall_at_10=1.0,
            latency_p50_ms=latency_ms,
        )
        candidate = Candidate(factory=EXACT, memory_bytes=num_bytes, build_seconds=0.0)
        return _Built(candidate, None, lambda parameters: self._exact.search, [point])

    def _build(self, factory: str) -> None:
        path = self._path.with_name(f"{self._path.name}.candidate-{len(self._built)}")
        total, done = self._exact.num_vectors, 0

        def on_progress(count: int) -> None:
            nonlocal done
            done += count
            self._report(f"building {factory}", done, total)

        on_progress(0)
        start_s = time.perf_counter()
        centroids_CD = self._centroids.get(_num_lists(factory))
        index = ApproximateIndex.build(factory, self._exact, path, self._seed, centroids_CD, on_progress)
        build_seconds = time.perf_counter() - start_s
        if (trained_CD := index.centroids()) is not None:
            self._centroids[len(trained_CD)] = trained_CD
        memory_bytes = path.stat().st_size + (self._exact.num_bytes if index.walks_exact else 0)
        candidate = Candidate(factory=factory, memory_bytes=memory_bytes, build_seconds=build_seconds)
        built = _Built(candidate, path, lambda parameters: _search_with(index, parameters), [])
        self._built.append(built)
        built.points.extend(self._sweep(index, built))

    def _sweep(self, index: ApproximateIndex, built: _Built) -> Iterator[Point]:
        """Measures ever wider searches until nothing is to be gained."""
        steps = list(_probe_steps(index.max_probes))
        for number, probes in enumerate(steps):
            self._report(f"measuring {built.candidate.factory}", number, len(steps))
            recall = 0.0
            for rerank in RERANK_STEPS if index.needs_rerank else (0,):
                before, point = recall, self._measure(built, SearchParameters(probes=probes, rerank=rerank))
                recall = point.recall_at_10
                yield point
                if recall <= before:  # the rest is missed by too few probes
                    break
            if recall >= ENOUGH_RECALL:
                break
        self._report(f"measuring {built.candidate.factory}", len(steps), len(steps))

    def _measure(self, built: _Built, parameters: SearchParameters) -> Point:
        search = built.search(parameters)
        latencies_ms = self._choosing.latencies_ms(search, 10, SWEPT_LATENCY_RUNS)
        recalls_Q = self._choosing.recalls(search, 10)
        return Point(
            factory=built.candidate.factory,
            search=parameters,
            memory_bytes=built.candidate.memory_bytes,
            recall_at_10=float(np.mean(recalls_Q)),
            recall_error=float(np.std(recalls_Q) / math.sqrt(len(recalls_Q))),
            latency_p50_ms=float(np.median(latencies_ms)),
        )

    def _confirmed(self) -> tuple[Point, Measured]:
        """The best point that keeps to the targets on the other queries too; else the one that misses least there."""
        tried: list[tuple[Point, Measured]] = []
        for point in rank(self._points(), self._targets)[:MOST_CONFIRMED]:
            measured = self._measure_fully(point)
            tried.append((point, measured))
            if not _shortfalls(point.memory_bytes, measured, self._targets):
                return point, measured
        return min(tried, key=lambda pair: (*_misses_of(pair[0], pair[1], self._targets), pair[1].latency_p50_ms))

    def _measure_fully(self, point: Point) -> Measured:
        built = next(built for built in self._built if built.candidate.factory == point.factory)
        search, held_out = built.search(point.search), self._measuring
        runs = SLOWEST_RUNS if point.factory == EXACT else len(held_out.own_Q)
        latencies_ms = held_out.latencies_ms(search, 10, runs)
        ms_per_query = held_out.exact_ms if point.factory == EXACT else held_out.ms_per_query(search, 10)
        return Measured(
            recall_at_10=held_out.recall(search, 10),
            recall_at_100=held_out.recall(search, 100),
            latency_p50_ms=float(np.median(latencies_ms)),
            latency_p99_ms=float(np.quantile(latencies_ms, 0.99)),
            ms_per_query=ms_per_query,
            speedup=held_out.exact_ms / ms_per_query,
        )


def _search_with(index: ApproximateIndex, parameters: SearchParameters) -> Search:
    return lambda queries_QD, k: index.search(queries_QD, k, parameters=parameters)


def _probe_steps(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to the most that mean anything."""
    for power in range(math.ceil(math.log2(MOST_PROBES)) + 1):
        for probes in (2**power, 3 * 2 ** (power - 1)):
            if probes <= min(most, MOST_PROBES) and probes == int(probes):
                yield int(probes)


def _num_lists(factory: str) -> int:
    digits = factory.removeprefix("IVF").partition(",")[0].partition("_")[0]
    return int(digits) if factory.startswith("IVF") and digits.isdecimal() else 0


def _misses(memory_bytes: int, recall: float, latency_ms: float, targets: Targets) -> tuple[float, float, float]:
    """By how much memory, recall and latency miss what was asked for; 0 where they do not."""
    return (
        max(0.0, memory_bytes - (targets.memory_bytes or math.inf)),
        max(0.0, targets.recall - recall),
        max(0.0, latency_ms - (targets.latency_ms or math.inf)),
    )


def _misses_of(point: Point, measured: Measured, targets: Targets) -> tuple[float, float, float]:
    return _misses(point.memory_bytes, measured.recall_at_10, measured.latency_p50_ms, targets)


def _is_met(point: Point, targets: Targets) -> bool:
    return not any(_misses(point.memory_bytes, point.recall_at_10, point.latency_p50_ms, targets))


def _shortfalls(memory_bytes: int, measured: Measured, targets: Targets) -> list[str]:
    memory, recall, latency = _misses(memory_bytes, measured.recall_at_10, measured.latency_p50_ms, targets)
    sentences = {
        f"memory is {memory_bytes:,} bytes, asked for at most {targets.memory_bytes or 0:,}": memory,
        f"recall@10 is {measured.recall_at_10:.4f}, asked for at least {targets.recall:g}": recall,
        f"latency is {measured.latency_p50_ms:.3g} ms, asked for at most {targets.latency_ms or 0:g} ms": latency,
    }
    return [sentence for sentence, miss in sentences.items() if miss > 0]
