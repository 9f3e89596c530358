"""Measures search over a large index on this machine: `python -m benchmarks.search_speed --help`.

Draws clustered unit vectors, writes them as a version holds them, lets the tuner choose a structure, and asks both
the chosen one and exact search, by threads as a service does and all at once. Memory stays bounded: vectors are
drawn, written and read in batches.

Shape legend: Q = queries, D = width, N = vectors, C = clusters, B = batch.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from anykey.index.publish.tuning.tuning import choose_structure
from anykey.index.vectors.exact import ExactVectors, VectorType, write_exact
from anykey.index.vectors.structure_facts import DEFAULT_RECALL, StructureFacts, Targets
from anykey.index.vectors.structures import ApproximateIndex
from anykey.program.settings import plain_console

BATCH_SIZE = 50_000
VECTORS_PER_CLUSTER = 250
SPREAD = 0.7  # distance of a vector from its cluster's centre, which has norm 1
DECAY = 0.5  # the n-th direction has n^-DECAY of the first one's spread, as embeddings have: few directions matter
ALLOWED_SHARES = (0.001, 0.01, 0.1, 0.5)
EXACT_QUERIES = 512  # at once; FAISS needs many for its matrix products to be fast
REPORT_INTERVAL_S = 10.0
ROUNDS = 5


class ClusteredVectors:
    """Draws unit vectors around centres that lie as the vectors themselves do."""

    def __init__(self, num_vectors: int, width: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        scale_D = np.arange(1, width + 1, dtype=np.float32) ** -DECAY
        self._scale_D = scale_D / np.linalg.norm(scale_D)
        self._centres_CD = self._normal(max(1, num_vectors // VECTORS_PER_CLUSTER))
        self._centres_CD /= np.linalg.norm(self._centres_CD, axis=1, keepdims=True)

    def draw(self, count: int) -> NDArray[np.float32]:
        """The next `count` vectors."""
        centres_B = self._rng.integers(0, len(self._centres_CD), count)
        vectors_BD = self._centres_CD[centres_B] + SPREAD * self._normal(count)
        vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        return vectors_BD

    def batches(self, count: int, batch_size: int = BATCH_SIZE) -> Iterator[NDArray[np.float32]]:
        """The next `count` vectors, in batches."""
        for start in range(0, count, batch_size):
            yield self.draw(min(batch_size, count - start))

    def _normal(self, count: int) -> NDArray[np.float32]:
        return self._rng.standard_normal((count, len(self._scale_D)), dtype=np.float32) * self._scale_D


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The fastest of several rounds: what else runs on the machine only ever slows them."""
    times_s = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def overlap(found_QK: NDArray[np.int64], best_QK: NDArray[np.int64]) -> float:
    """Mean share of the best positions that were found."""
    pairs = zip(found_QK, best_QK, strict=True)
    return float(np.mean([len(np.intersect1d(found_K, best_K)) / len(best_K) for found_K, best_K in pairs]))


class SearchReport:
    """Prints what is measured, one line each, as it is known."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start_s = self._last_s = time.perf_counter()

    def line(self, name: str, value: str) -> None:
        """One finding."""
        self._console.print(f"{time.perf_counter() - self._start_s:7.1f} s  {name:<34} {value}")

    def progress(self, step: str, done: int, total: int) -> None:
        """One step's progress, now and then."""
        if done == total or time.perf_counter() - self._last_s > REPORT_INTERVAL_S:
            self._last_s = time.perf_counter()
            self.line(step, f"{done:,} of {total:,}")


def measure_exact(report: SearchReport, exact: ExactVectors, queries_QD: NDArray[np.float32]) -> None:
    """Exact search, alone and all at once, of all vectors and of few."""
    alone_ms = 1e3 * seconds(lambda: exact.search(queries_QD[:1], 10))
    at_once_ms = 1e3 * seconds(lambda: exact.search(queries_QD[:EXACT_QUERIES], 10), rounds=2) / EXACT_QUERIES
    report.line("exact", f"{alone_ms:.1f} ms alone, {at_once_ms:.2f} ms a query at once")
    rng = np.random.default_rng(0)
    for count in (1_000, 10_000, 100_000):
        allowed_P = np.sort(rng.choice(exact.num_vectors, min(count, exact.num_vectors), replace=False))
        found_ms = 1e3 * seconds(lambda allowed_P=allowed_P: exact.search(queries_QD[:1], 10, allowed_P))
        report.line(f"exact, {count:,} allowed", f"{found_ms:.2f} ms alone")


def compare_throughput(report: SearchReport, index: ApproximateIndex, queries_QD: NDArray[np.float32]) -> None:
    """Both searches with all queries at once, in turns, so that both meet what else runs on the machine."""
    exact_ms, chosen_ms = [], []
    for _ in range(ROUNDS):
        some_QD = queries_QD[:EXACT_QUERIES]
        exact_ms.append(1e3 * seconds(lambda some_QD=some_QD: index.exact.search(some_QD, 10), 1) / len(some_QD))
        chosen_ms.append(1e3 * seconds(lambda: index.search(queries_QD, 10)) / len(queries_QD))
    ratios = sorted(exact / chosen for exact, chosen in zip(exact_ms, chosen_ms, strict=True))
    each = f"{min(exact_ms):.2f} and {min(chosen_ms):.3f} ms a query, both all at once"
    report.line(
        "throughput over exact search", f"{np.median(ratios):.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f}); {each}"
    )


def measure_filters(report: SearchReport, index: ApproximateIndex, queries_QD: NDArray[np.float32]) -> None:
    """Recall and latency of the chosen structure where only a share of the vectors is allowed."""
    rng = np.random.default_rng(0)
    for share in ALLOWED_SHARES:
        mask_N = rng.random(index.exact.num_vectors) < share
        best_QK = index.exact.search(queries_QD[:100], 10, mask_N)[1]
        found_QK = index.search(queries_QD[:100], 10, mask_N)[1]
        alone_ms = 10 * seconds(lambda mask_N=mask_N: [index.search(q[None], 10, mask_N) for q in queries_QD[:100]], 1)
        report.line(f"{share:.1%} allowed", f"recall@10 {overlap(found_QK, best_QK):.4f}, {alone_ms:.2f} ms alone")


def show(report: SearchReport, facts: StructureFacts) -> None:
    """What the tuner chose and tried."""
    measured = facts.measured
    report.line("chosen", f"{facts.factory} {facts.search}")
    report.line("recall@10, @100", f"{measured.recall_at_10:.4f}, {measured.recall_at_100:.4f}")
    report.line("latency p50, p99", f"{measured.latency_p50_ms:.3f} ms, {measured.latency_p99_ms:.3f} ms")
    report.line("memory, build", f"{facts.memory_bytes / 2**20:,.0f} MiB, {facts.build_seconds:.0f} s")
    for sentence in facts.shortfalls:
        report.line("missed", sentence)
    for candidate in facts.candidates:
        took = candidate.skipped or f"{candidate.build_seconds:.0f} s"
        report.line(candidate.factory, f"{candidate.memory_bytes / 2**20:,.0f} MiB, {took}")
    for point in facts.front:
        found = f"recall@10 {point.recall_at_10:.4f}, {point.latency_p50_ms:.3f} ms"
        report.line(f"  {point.factory}", f"{found}, {point.search}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measures exact and approximate search on clustered vectors.")
    parser.add_argument("--num-vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--memory")
    parser.add_argument("--recall", default=DEFAULT_RECALL)
    parser.add_argument("--latency")
    parser.add_argument("--factory", help="a FAISS factory string; the tuner chooses when absent")
    parser.add_argument("--directory", type=Path, help="where files are written; a temporary place when absent")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        measure(arguments, Path(directory))


def measure(arguments: argparse.Namespace, directory: Path) -> None:
    """Everything, with files in the directory."""
    report = SearchReport(plain_console())
    drawn = ClusteredVectors(arguments.num_vectors, arguments.width)
    dtype: VectorType = arguments.dtype
    write_s = seconds(
        lambda: write_exact(directory / "vectors.faiss", drawn.batches(arguments.num_vectors), arguments.width, dtype),
        rounds=1,
    )
    queries_QD = drawn.draw(1000)
    report.line("drawing and writing", f"{write_s:.1f} s; FAISS uses {faiss.omp_get_max_threads()} threads")
    exact = ExactVectors.open(directory / "vectors.faiss")
    measure_exact(report, exact, queries_QD)
    targets = Targets(memory_bytes=arguments.memory, recall=arguments.recall, latency_ms=arguments.latency)
    path = directory / "structure.faiss"
    facts = choose_structure(exact, path, targets, factory=arguments.factory, report=report.progress)
    show(report, facts)
    if not facts.is_exact:
        opened_s = seconds(lambda: ApproximateIndex.open(path, ExactVectors.open(exact.path), facts.search))
        index = ApproximateIndex.open(path, exact, facts.search)
        recall = overlap(index.search(queries_QD, 10)[1], exact.search(queries_QD, 10)[1])
        report.line("opening both files", f"{opened_s:.3f} s")
        report.line("fresh queries", f"recall@10 {recall:.4f}")
        compare_throughput(report, index, queries_QD)
        measure_filters(report, index, queries_QD)
    report.line("peak memory of the process", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
