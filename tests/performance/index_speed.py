"""Measures a whole index on this machine: `python -m tests.performance.index_speed --output docs/results/index.md`.

Clustered unit vectors with metadata are stored as keys, folded into a version with a structure chosen by measurement,
and searched through `FaissIndex` as an application does: payload included.

Shape legend: Q = queries, D = width.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from encoder.item import Modality
from encoder.program import plain_console
from index.embedded.folding import Provenance, publish_built
from index.embedded.manifest import EncoderFacts, Manifest
from index.embedded.options import FoldOptions
from index.embedded.records import Record
from index.embedded.store import Store
from index.embedded.versions import STORE_NAME, IndexDirectory
from index.faiss_index import FaissIndex
from index.filtering.conditions import Equals
from index.key_index import NewKey, Scope
from index.progress import step_lines
from index.vectors.targets import Targets
from tests.performance.search_speed import ClusteredVectors, overlap

COMMIT_KEYS = 10_000
NUM_GROUPS = 100  # a condition on one of them holds for 1 % of the keys
NUM_QUERIES = 300
EXACT_QUERIES = 256  # at once; FAISS needs many for its matrix products to be fast
NUM_UPSERTS = 200
ROUNDS = 5
RECENT_KEYS = 5_000


class Findings:
    """What was measured, as the rows of a table; printed as they come."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self._console = plain_console()

    def add(self, what: str, found: str, goal: str = "") -> None:
        """One row."""
        self.rows.append((what, found, goal))
        self._console.print(f"{what}: {found}{f' (goal: {goal})' if goal else ''}")

    def table(self) -> str:
        """All rows in Markdown."""
        rows = "".join(f"| {what} | {found} | {goal} |\n" for what, found, goal in self.rows)
        return f"| | measured | goal |\n|---|---|---|\n{rows}"


def fill(directory: IndexDirectory, drawn: ClusteredVectors, num_keys: int, width: int) -> float:
    """Stores keys in a new store, as a build would; gives the seconds it took."""
    directory.building_dir.mkdir(parents=True)
    store = Store(directory.building_dir / STORE_NAME)
    store.note_encoder(EncoderFacts(name="drawn", fingerprint="sha256:drawn", width=width, fusion="raw"))
    numbers = count()
    started_s = time.perf_counter()
    for start in range(0, num_keys, COMMIT_KEYS):
        store.commit(list(records(drawn.draw(min(COMMIT_KEYS, num_keys - start)), numbers)))
    took_s = time.perf_counter() - started_s
    store.close()
    return took_s


def records(vectors_BD: NDArray[np.float32], numbers: Iterator[int]) -> Iterator[Record]:
    """Text keys with metadata such as a shop has."""
    for vector_D, number in zip(vectors_BD, numbers, strict=False):
        metadata = f'{{"group": "g{number % NUM_GROUPS}", "price": {number % 9973 / 10}, "sku": "s{number}"}}'
        yield Record(f"key-{number}", Modality.TEXT, f"text of key {number}", metadata, (), (), vector_D)


def alone_ms(
    search: Callable[[NDArray[np.float32], int], object], queries_QD: NDArray[np.float32]
) -> tuple[str, float]:
    """Median and 99th percentile of one query after the other, in words, and the median."""
    times_ms = []
    for number, query_D in enumerate(queries_QD):
        started_s = time.perf_counter()
        search(query_D[None], number)
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    p50, p99 = np.percentile(times_ms, [50, 99])
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", float(p50)


def measure_search(index: FaissIndex, queries_QD: NDArray[np.float32], findings: Findings) -> None:
    """Unfiltered search: recall, latency, throughput."""
    index.search(queries_QD[:8], 10)
    exact = index.search(queries_QD[:EXACT_QUERIES], 10, exact=True)
    found = index.search(queries_QD[:EXACT_QUERIES], 10)
    keys = [np.array([[int(hit.key[4:]) for hit in hits] for hits in results]) for results in (found, exact)]
    findings.add("recall@10, fresh queries", f"{overlap(*keys):.4f}", "0.98")
    words, unfiltered_ms = alone_ms(lambda query_1D, _: index.search(query_1D, 10), queries_QD)
    findings.add("one query, 10 hits with payload", words)
    words, exact_ms = alone_ms(lambda query_1D, _: index.search(query_1D, 10, exact=True), queries_QD[:10])
    findings.add("the same, exact", words)
    findings.add("queries/s over exact search, one at a time", f"{exact_ms / unfiltered_ms:.0f}x", "20x")
    ratios = [throughput_ratio(index, queries_QD) for _ in range(ROUNDS)]
    shown = f"{np.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
    findings.add(f"queries/s over exact search, {len(queries_QD)} at once", shown, "20x")
    scopes = [Scope(condition=Equals(("group",), f"g{number}")) for number in range(NUM_GROUPS)]
    for what in ("a condition that holds for 1 %, first use", "the same condition again"):
        search = filtered(index, scopes)
        words, filtered_ms = alone_ms(search, queries_QD[:NUM_GROUPS])
        findings.add(what, f"{words}, {filtered_ms / unfiltered_ms:.2f}x unfiltered", "2x")


def filtered(index: FaissIndex, scopes: list[Scope]) -> Callable[[NDArray[np.float32], int], object]:
    """A search that takes another condition each time."""
    return lambda query_1D, number: index.search(query_1D, 10, scopes[number % len(scopes)])


def throughput_ratio(index: FaissIndex, queries_QD: NDArray[np.float32]) -> float:
    """Queries per second over those of exact search, both asked all at once, one after the other."""
    times_s = []
    for is_exact, some_QD in ((True, queries_QD[:EXACT_QUERIES]), (False, queries_QD)):
        started_s = time.perf_counter()
        index.search(some_QD, 10, exact=is_exact)
        times_s.append((time.perf_counter() - started_s) / len(some_QD))
    return times_s[0] / times_s[1]


def measure_changes(index_dir: Path, drawn: ClusteredVectors, queries_QD: NDArray[np.float32], found: Findings) -> None:
    """Changes of a live index, and search with many of them."""
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        words, _ = alone_ms(lambda vector_1D, n: index.upsert([new_key(vector_1D[0], n)]), drawn.draw(NUM_UPSERTS))
        found.add("upsert of one key, on disk", words, "p50 10 ms")
        index.upsert([new_key(vector_D, NUM_UPSERTS + n) for n, vector_D in enumerate(drawn.draw(RECENT_KEYS))])
        index.search(queries_QD[:1], 10)
        words, _ = alone_ms(lambda query_1D, _: index.search(query_1D, 10), queries_QD)
        found.add(f"one query with {RECENT_KEYS:,} recent keys", words)


def new_key(vector_D: NDArray[np.float32], number: int) -> NewKey:
    """A key to be stored live."""
    return NewKey(f"new-{number}", vector_D, f"text {number}", metadata={"group": f"g{number % NUM_GROUPS}"})


def measure(directory: Path, num_keys: int, width: int, findings: Findings) -> Manifest:
    """Everything, with the index in a directory."""
    drawn = ClusteredVectors(num_keys, width)
    index_dir = IndexDirectory(directory / "index")
    findings.add("storing keys", f"{num_keys / fill(index_dir, drawn, num_keys, width):,.0f} keys/s")
    started_s = time.perf_counter()
    options = FoldOptions(targets=Targets())
    manifest = publish_built(index_dir, Provenance(), options, step_lines(plain_console()))
    findings.add("folding: files, structure chosen and measured", f"{time.perf_counter() - started_s:,.0f} s")
    queries_QD = drawn.draw(NUM_QUERIES)
    started_s = time.perf_counter()
    with FaissIndex.open(index_dir.path) as index:
        opened_s = time.perf_counter() - started_s
        index.search(queries_QD[:1], 10)
        findings.add("opening", f"{opened_s:.2f} s; {time.perf_counter() - started_s:.2f} s to the first hits", "2 s")
        measure_search(index, queries_QD, findings)
        words, _ = alone_ms(lambda _, n: index.get(f"key-{n * 97}"), queries_QD)
        findings.add("one key's payload by name", words, "10 hits in 1 ms")
    measure_changes(index_dir.path, drawn, queries_QD, findings)
    sizes = {name: file.size_bytes / 2**20 for name, file in manifest.files.items()}
    findings.add("files, MiB", ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items() if size >= 1))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    findings.add("peak memory of the process, mapped files included", f"{peak_gib:.1f} GiB")
    return manifest


def page(arguments: argparse.Namespace, manifest: Manifest, findings: Findings) -> str:
    """The report."""
    structure = manifest.structure
    assert structure is not None
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, FAISS {faiss.__version__}"
    tried = "".join(
        f"| {point.factory} | {point.search.probes} | {point.search.rerank} | {point.recall_at_10:.4f} "
        f"| {point.latency_p50_ms:.2f} | {point.memory_bytes / 2**20:,.0f} |\n"
        for point in structure.front
    )
    return (
        f"# Speed of an index\n\n`make perf-index`: {arguments.num_keys:,} keys with clustered unit vectors of width "
        f"{arguments.width} (float32), three metadata fields each, through `FaissIndex`; {machine}.\n\n"
        f"Chosen structure: `{structure.factory}`, {structure.search.probes} probes, {structure.search.rerank} "
        f"re-ranked; {structure.memory_bytes / 2**20:,.0f} MiB, built in {structure.build_seconds:.0f} s.\n\n"
        f"{findings.table()}\n"
        "## What was tried\n\nThe Pareto front of recall, latency and memory on the queries for tuning.\n\n"
        f"| structure | probes | re-ranked | recall@10 | p50 ms | MiB |\n|---|---|---|---|---|---|\n{tried}"
    )


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description="Measures a whole index.")
    parser.add_argument("--num-keys", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--directory", type=Path, help="where the index is made; a temporary place when absent")
    parser.add_argument("--output", type=Path, help="Markdown file for the findings")
    arguments = parser.parse_args()
    findings = Findings()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        manifest = measure(Path(directory), arguments.num_keys, arguments.width, findings)
    if arguments.output:
        arguments.output.write_text(page(arguments, manifest, findings), encoding="utf-8")


if __name__ == "__main__":
    main()
