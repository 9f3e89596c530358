"""Chooses a search structure: builds the likely ones, measures them on held-out queries, keeps the best.

Shape legend: Q = queries, D = width.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import InvalidStructureError, UntrainableError
from anykey.index.publish.tuning.candidates import EXACT_BELOW, Proposal, propose
from anykey.index.publish.tuning.gpu_tuning import choose_gpu_structure
from anykey.index.publish.tuning.held_out import Clock, HeldOut, Search, given_held_out, sample_held_out
from anykey.index.publish.tuning.sweep import (
    SLOWEST_RUNS,
    Searchable,
    confirmed,
    is_met,
    pareto_front,
    shortfalls,
    sweep,
)
from anykey.index.publish.tuning.work import work_of, work_of_all
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.gpu import clustering_on
from anykey.index.vectors.structure_facts import (
    EXACT,
    Candidate,
    Point,
    SearchParameters,
    StructureFacts,
    Targets,
    Untrained,
)
from anykey.index.vectors.structure_kinds import require_possible
from anykey.index.vectors.structures import EXACT_ALLOWED, ON_CPU, ApproximateIndex, GpuUse
from anykey.program.progress import Report, quietly

NUM_QUERIES = 1000
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Built:
    """One structure on disk and what its sweep gave."""

    structure: Searchable
    path: Path | None
    points: list[Point]


def choose_structure(
    exact: ExactVectors,
    path: Path,
    targets: Targets,
    *,
    factory: str | None = None,
    queries_QD: NDArray[np.float32] | None = None,
    gpu: GpuUse = ON_CPU,
    seed: int = 0,
    report: Report = quietly,
    num_queries: int = NUM_QUERIES,
    exact_below: int = EXACT_BELOW,
    exact_allowed: int = EXACT_ALLOWED,
    clock: Clock = time.perf_counter,
) -> StructureFacts:
    """Finds, builds and measures the search structure that keeps best to the targets.

    Half of the held-out queries choose, the other half measures. Samples and structures depend on the seed alone;
    between structures of enough recall the counted work of a query decides, and a measured time only where one is asked
    for, so that a busy machine chooses as a quiet one does.

    Args:
        exact: The vectors.
        path: Where the structure is written; nothing is there after exact search was chosen. Candidates lie beside
            it while they are compared.
        targets: What to keep to; where that cannot be, the nearest to it is chosen and the facts say so.
        factory: Takes this FAISS structure, or `exact`, and chooses only its search parameters; exact search stands in
            for a structure that cannot be trained on so few vectors.
        queries_QD: Unit vectors of real queries; without them, keys are sampled, each left out of its own answers.
        gpu: GPUs that help with training, and whose own structures are chosen and measured too.
        seed: Decides the queries and the training samples.
        report: Called with each step's progress.
        num_queries: Queries that are taken, at most; fewer measure sooner and tell less.
        exact_below: Corpora of fewer vectors get a structure only where exact search misses the targets.
        exact_allowed: So few allowed vectors are searched exactly, also while structures are measured.
        clock: What searches are timed with.

    Returns:
        What was chosen and measured.

    Raises:
        InvalidStructureError: FAISS cannot build `factory` over these vectors, or the queries are of no use.
        OSError: the disk is full or not writable.
    """
    if exact.num_vectors == 0:
        raise InvalidStructureError(f"there are no vectors in {exact.path} to choose a search structure for")
    if factory is not None:
        require_possible(factory, exact.width)  # before anything is measured
    report("searching exactly", 0, 1)
    if queries_QD is None:
        held_out = sample_held_out(exact, num_queries, seed, clock)
    else:
        held_out = given_held_out(exact, queries_QD, num_queries, seed, clock)
    report("searching exactly", 1, 1)
    chooser = _Chooser(exact, path, targets, held_out, gpu, seed, report, exact_below, exact_allowed)
    try:
        source = "sampled keys" if queries_QD is None else "query vectors"
        facts = chooser.choose(factory, source)
    finally:
        chooser.remove_candidates()
    if not gpu.gpus:
        return facts
    return facts.model_copy(update={"gpu": choose_gpu_structure(exact, held_out, targets, gpu, report)})


class _Chooser:
    """One choice, with the candidates it has built so far."""

    def __init__(
        self,
        exact: ExactVectors,
        path: Path,
        targets: Targets,
        held_out: HeldOut,
        gpu: GpuUse,
        seed: int,
        report: Report,
        exact_below: int,
        exact_allowed: int,
    ) -> None:
        self._exact = exact
        self._exact_below = exact_below
        self._exact_allowed = exact_allowed
        self._gpu = gpu
        self._path = path
        self._targets = targets
        self._choosing, self._measuring = held_out.halves()
        self._seed = seed
        self._report = report
        self._built: list[_Built] = []
        self._skipped: list[Candidate] = []
        self._instead_of: Untrained | None = None
        self._centroids: dict[int, NDArray[np.float32]] = {}

    def choose(self, factory: str | None, query_source: str) -> StructureFacts:
        if factory in (None, EXACT):
            self._built.append(self._exact_search())
        if factory is None:
            num_vectors, width, num_bytes = self._exact.num_vectors, self._exact.width, self._exact.num_bytes
            self._build_all(propose(num_vectors, width, num_bytes, self._targets, self._exact_below))
        elif factory != EXACT:
            self._build_or_search_exactly(factory)
        structures = {built.structure.candidate.factory: built.structure for built in self._built}
        point, measured = confirmed(self._points(), structures, self._targets, self._measuring)
        chosen = next(built for built in self._built if built.structure.candidate.factory == point.factory)
        if chosen.path is not None:
            chosen.path.replace(self._path)
        return StructureFacts(
            factory=point.factory,
            search=point.search,
            memory_bytes=point.memory_bytes,
            build_seconds=chosen.structure.candidate.build_seconds or 0.0,
            measured=measured,
            num_queries=len(self._measuring.own_Q),
            query_source=query_source,
            targets=self._targets,
            shortfalls=shortfalls(point.memory_bytes, measured, self._targets),
            candidates=[built.structure.candidate for built in self._built] + self._skipped,
            front=pareto_front(self._points()),
            instead_of=self._instead_of,
        )

    def remove_candidates(self) -> None:
        for built in self._built:
            if built.path is not None:
                built.path.unlink(missing_ok=True)

    def _build_all(self, proposals: list[Proposal]) -> None:
        for proposal in proposals:
            self._build_or_skip(proposal, self._why_skip(proposal))
        if not self._is_within_memory():
            self._build_smallest(proposals)

    def _build_smallest(self, proposals: list[Proposal]) -> None:
        """Builds what takes the least memory, although it is more than was asked for: memory goes before all else."""
        left = {candidate.factory for candidate in self._skipped}
        smallest = min(proposals, key=lambda proposal: proposal.memory_bytes, default=None)
        if smallest is not None and smallest.factory in left:
            self._skipped = [candidate for candidate in self._skipped if candidate.factory != smallest.factory]
            self._build_or_skip(smallest)

    def _build_or_skip(self, proposal: Proposal, reason: str | None = None) -> None:
        if reason is None:
            self._build(proposal.factory)
        else:
            skipped = Candidate(factory=proposal.factory, memory_bytes=proposal.memory_bytes, skipped=reason)
            self._skipped.append(skipped)

    def _build_or_search_exactly(self, factory: str) -> None:
        try:
            self._build(factory)
        except UntrainableError as error:
            logger.warning("%s; searches are exact until there are enough", error)
            self._instead_of = Untrained(factory=factory, reason=error.reason)
            self._built.append(self._exact_search())

    def _is_within_memory(self) -> bool:
        """Whether anything that was built keeps to the memory."""
        budget_bytes = self._targets.memory_bytes
        return budget_bytes is None or any(
            built.structure.candidate.memory_bytes <= budget_bytes for built in self._built
        )

    def _why_skip(self, proposal: Proposal) -> str | None:
        budget_bytes = self._targets.memory_bytes
        if budget_bytes is not None and proposal.memory_bytes > budget_bytes:
            return "does not fit into the memory"
        if proposal.is_costly and any(is_met(point, self._targets) for point in self._cheap_points()):
            return "what is cheaper to build meets the targets"
        return None

    def _cheap_points(self) -> list[Point]:
        """What makes a costly structure needless; exact search of a large corpus does not, only of a small one."""
        is_small = self._exact.num_vectors < self._exact_below
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
            work=work_of_all(self._exact),
        )
        candidate = Candidate(factory=EXACT, memory_bytes=num_bytes, build_seconds=0.0)
        return _Built(Searchable(candidate, lambda parameters: self._exact.search), None, [point])

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
        index = ApproximateIndex.build(
            factory,
            self._exact,
            path,
            self._seed,
            centroids_CD,
            on_progress=on_progress,
            clustering=clustering_on(self._gpu),
            exact_allowed=self._exact_allowed,
        )
        build_seconds = time.perf_counter() - start_s
        if (trained_CD := index.centroids()) is not None:
            self._centroids[len(trained_CD)] = trained_CD
        memory_bytes = path.stat().st_size + (self._exact.num_bytes if index.walks_exact else 0)
        candidate = Candidate(factory=factory, memory_bytes=memory_bytes, build_seconds=build_seconds)
        structure = Searchable(
            candidate,
            lambda parameters: _search_with(index, parameters),
            index.max_probes,
            index.needs_rerank,
            index.as_searched,
            work_of(index),
        )
        self._built.append(_Built(structure, path, []))
        self._built[-1].points.extend(sweep(structure, self._choosing, self._targets, self._report))


def _search_with(index: ApproximateIndex, parameters: SearchParameters) -> Search:
    return lambda queries_QD, k: index.search(queries_QD, k, parameters=parameters)


def _num_lists(factory: str) -> int:
    digits = factory.removeprefix("IVF").partition(",")[0].partition("_")[0]
    return int(digits) if factory.startswith("IVF") and digits.isdecimal() else 0
