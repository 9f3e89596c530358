"""Chooses what GPUs search with: builds each of their structures, measures it on held-out queries, keeps the best.

The structures are not kept: they are derived from the exact vectors whenever an index is opened on GPUs.
"""

import contextlib
import logging
import time
from collections.abc import Callable

from anykey.index.errors import InvalidStructureError
from anykey.index.publish.tuning.held_out import HeldOut, Search
from anykey.index.publish.tuning.sweep import Searchable, confirmed, nearest, pareto_front, shortfalls, sweep
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.gpu import GpuIndex, about_bytes
from anykey.index.vectors.structure_facts import (
    Candidate,
    GpuFacts,
    GpuStructure,
    Measured,
    Point,
    SearchParameters,
    Targets,
)
from anykey.index.vectors.structures import GpuUse
from anykey.program.progress import Report, quietly

Opener = Callable[[GpuStructure, ExactVectors, list[int], int], GpuIndex]
logger = logging.getLogger(__name__)


def choose_gpu_structure(
    exact: ExactVectors,
    held_out: HeldOut,
    targets: Targets,
    gpu: GpuUse,
    report: Report = quietly,
    open_index: Opener = GpuIndex.open,
) -> GpuFacts | None:
    """Finds and measures the GPU structure that keeps best to the targets.

    Args:
        exact: The vectors.
        held_out: Queries with their exact answers; half of them choose, the other half measures.
        targets: What to keep to; `memory_bytes` is that of the GPUs here.
        gpu: The GPUs, and what searches may take of their memory.
        report: Called with each step's progress.
        open_index: Builds a structure on GPUs.

    Returns:
        What was chosen and measured; `None` where no structure can be built and searched.
    """
    choosing, measuring = held_out.halves()
    tried: list[tuple[Point, Measured]] = []
    considered: list[Candidate] = []
    points: list[Point] = []
    for kind in GpuStructure:
        report(f"building {kind} on {len(gpu.gpus)} GPUs", 0, 1)
        started_s = time.perf_counter()
        try:
            with contextlib.closing(open_index(kind, exact, list(gpu.gpus), gpu.temporary_bytes)) as index:
                structure = _searchable(kind, index, time.perf_counter() - started_s)
                found = list(sweep(structure, choosing, targets, report))
                best = confirmed(found, {kind.value: structure}, targets, measuring)
        except (InvalidStructureError, RuntimeError) as error:  # of FAISS, such as want of memory, also for a search
            reason = str(error).splitlines()[0]
            considered.append(Candidate(factory=kind, memory_bytes=about_bytes(kind, exact), skipped=reason))
            continue
        considered.append(structure.candidate)
        points += found
        tried.append(best)
    if not tried:
        logger.warning("nothing can be searched on GPUs: %s", "; ".join(str(each.skipped) for each in considered))
        return None
    point, measured = nearest(tried, targets)
    chosen = next(candidate for candidate in considered if candidate.factory == point.factory)
    return GpuFacts(
        kind=GpuStructure(point.factory),
        search=point.search,
        num_gpus=len(gpu.gpus),
        build_seconds=chosen.build_seconds or 0.0,
        measured=measured,
        shortfalls=shortfalls(point.memory_bytes, measured, targets),
        candidates=considered,
        front=pareto_front(points),
    )


def _searchable(kind: GpuStructure, index: GpuIndex, build_seconds: float) -> Searchable:
    def search_with(parameters: SearchParameters) -> Search:
        return lambda queries_QD, k: index.search(queries_QD, k, parameters=parameters)

    candidate = Candidate(factory=kind.value, memory_bytes=about_bytes(kind, index.exact), build_seconds=build_seconds)
    return Searchable(candidate, search_with, index.max_probes, index.needs_rerank, index.as_searched)
