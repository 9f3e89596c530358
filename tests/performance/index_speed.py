"""Measures a whole index on this machine: `python -m tests.performance.index_speed --output docs/results/index.md`.

Clustered unit vectors with metadata are stored as keys, folded into a version with a structure chosen by measurement,
and searched through `FaissIndex` as an application does: payload included.

Shape legend: Q = queries, D = width.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from encoder.item import Modality
from encoder.program import plain_console
from index.embedded.folding import Provenance, publish_built
from index.embedded.manifest import EncoderFacts
from index.embedded.options import FoldOptions
from index.embedded.records import Record
from index.embedded.store import Store
from index.embedded.versions import STORE_NAME, IndexDirectory
from index.faiss_index import FaissIndex
from index.filtering.conditions import Equals
from index.key_index import NewKey, Scope
from index.progress import step_lines
from index.vectors.targets import Targets
from tests.performance import embedding_speed, search_peers
from tests.performance.index_report import write_report
from tests.performance.search_speed import ClusteredVectors, overlap
from tests.performance.speed_report import processor

PARTS = ("search", "embedding", "peers")
MIB = 2**20
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
        self.rows: list[list[str]] = []
        self._console = plain_console()

    def add(self, what: str, found: str, goal: str = "") -> None:
        """One row."""
        self.rows.append([what, found, goal])
        self._console.print(f"{what}: {found}{f' (goal: {goal})' if goal else ''}")


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


def measure_reading(index_dir: Path, drawn: ClusteredVectors, findings: Findings) -> None:
    """Opening, search, payload; the queries of each row are new, so that no row finds its hits in memory already."""
    queries_QD = drawn.draw(EXACT_QUERIES)
    started_s = time.perf_counter()
    with FaissIndex.open(index_dir) as index:
        opened_s = time.perf_counter() - started_s
        index.search(queries_QD[:1], 10)
        findings.add("opening", f"{opened_s:.2f} s; {time.perf_counter() - started_s:.2f} s to the first hits", "2 s")
        exact, found = (index.search(queries_QD, 10, exact=is_exact) for is_exact in (True, False))
        keys = [np.array([[int(hit.key[4:]) for hit in hits] for hits in results]) for results in (found, exact)]
        findings.add("recall@10, fresh queries", f"{overlap(*keys):.4f}", "0.98")
        measure_latency(index, drawn, findings)
        queries_QD = drawn.draw(NUM_QUERIES)
        ratios = [throughput_ratio(index, queries_QD) for _ in range(ROUNDS)]
        shown = f"{np.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
        findings.add(f"queries/s over exact search, {len(queries_QD)} at once", shown, "20x")
        rows = np.random.default_rng(1).integers(1, index.count(), (NUM_QUERIES, 10)).tolist()
        words, _ = alone_ms(lambda _, number: payload(index, rows[number]), queries_QD)
        findings.add("payload of 10 keys anywhere", words, "1 ms")


def measure_latency(index: FaissIndex, drawn: ClusteredVectors, findings: Findings) -> None:
    """One query after the other: of all keys, of all exactly, and of the keys that a condition holds for."""
    words, unfiltered_ms = alone_ms(lambda query_1D, _: index.search(query_1D, 10), drawn.draw(NUM_QUERIES))
    findings.add("one query, 10 hits with payload", words)
    words, exact_ms = alone_ms(lambda query_1D, _: index.search(query_1D, 10, exact=True), drawn.draw(10))
    findings.add("the same, exact", words)
    findings.add("queries/s over exact search, one at a time", f"{exact_ms / unfiltered_ms:.0f}x", "20x")
    search = filtered(index, [Scope(condition=Equals(("group",), f"g{number}")) for number in range(NUM_GROUPS)])
    for what in ("a condition that holds for 1 %, first use", "the same condition again"):
        words, filtered_ms = alone_ms(search, drawn.draw(NUM_GROUPS))
        findings.add(f"{what}, exact", f"{words}, {filtered_ms / unfiltered_ms:.2f}x unfiltered", "2x")


def payload(index: FaissIndex, rows: list[int]) -> object:
    """The payload of some rows, as a search takes it for its hits."""
    with index._moment() as (snapshot, _):
        return snapshot.records(rows)


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


def measure_changes(index_dir: Path, drawn: ClusteredVectors, found: Findings) -> None:
    """Changes of a live index, and search with many of them."""
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        words, _ = alone_ms(lambda vector_1D, n: index.upsert([new_key(vector_1D[0], n)]), drawn.draw(NUM_UPSERTS))
        found.add("upsert of one key, on disk", words, "p50 10 ms")
        index.upsert([new_key(vector_D, NUM_UPSERTS + n) for n, vector_D in enumerate(drawn.draw(RECENT_KEYS))])
        index.search(drawn.draw(1), 10)
        words, _ = alone_ms(lambda query_1D, _: index.search(query_1D, 10), drawn.draw(NUM_QUERIES))
        found.add(f"one query with {RECENT_KEYS:,} recent keys", words)


def new_key(vector_D: NDArray[np.float32], number: int) -> NewKey:
    """A key to be stored live."""
    return NewKey(f"new-{number}", vector_D, f"text {number}", metadata={"group": f"g{number % NUM_GROUPS}"})


def measure_index(directory: Path, num_keys: int, width: int) -> dict[str, Any]:
    """Everything of an index that is made in a directory."""
    findings = Findings()
    drawn = ClusteredVectors(num_keys, width)
    index_dir = IndexDirectory(directory / "index")
    findings.add("storing keys", f"{num_keys / fill(index_dir, drawn, num_keys, width):,.0f} keys/s")
    started_s = time.perf_counter()
    options = FoldOptions(targets=Targets())
    manifest = publish_built(index_dir, Provenance(), options, step_lines(plain_console()))
    findings.add("folding: files, structure chosen and measured", f"{time.perf_counter() - started_s:,.0f} s")
    measure_reading(index_dir.path, drawn, findings)
    measure_changes(index_dir.path, drawn, findings)
    sizes = {name: file.size_bytes / MIB for name, file in manifest.files.items()}
    sizes["store.sqlite"] = index_dir.store_path(manifest.store).stat().st_size / MIB
    findings.add("files, MiB", ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items() if size >= 1))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    findings.add("peak memory of the process, mapped files included", f"{peak_gib:.1f} GiB")
    assert manifest.structure is not None
    return {
        "num_keys": num_keys,
        "width": width,
        "machine": f"{processor()}, {os.cpu_count()} cores, no GPU, FAISS {faiss.__version__}",
        "rows": findings.rows,
        "structure": manifest.structure.model_dump(mode="json"),
    }


def run_part(name: str, arguments: argparse.Namespace, folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """One part of the measurement, with its files in a folder."""
    if name == "search":
        return measure_index(folder, arguments.num_keys, arguments.width)
    if name == "peers":
        python = arguments.peers / "autofaiss" / "bin" / "python"
        return search_peers.measure(folder, parts["search"], python, arguments.milvus_keys, arguments.peer_timeout_s)
    python = arguments.peers / "clip-retrieval" / "bin" / "python"
    if not python.exists():
        return {"not_run": "clip-retrieval is not installed; make peers"}
    return embedding_speed.measure(folder, arguments.num_images, python)


def main() -> None:
    """Measures, prints, writes; what was measured before and is not asked for is taken as it was."""
    parser = argparse.ArgumentParser(description="Measures a whole index, and others beside it.")
    parser.add_argument("--num-keys", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=PARTS, help="parts to measure; none: the page is made again"
    )
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="environments that make peers made")
    parser.add_argument("--peer-timeout-s", type=float, default=1200, help="longest time for one peer")
    parser.add_argument("--milvus-keys", type=int, default=100_000, help="keys for Milvus Lite")
    parser.add_argument("--num-images", type=int, default=512)
    parser.add_argument("--directory", type=Path, help="where files are made; a temporary place when absent")
    parser.add_argument(
        "--output", type=Path, required=True, help="Markdown file; raw numbers go to a folder beside it"
    )
    arguments = parser.parse_args()
    folder = arguments.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Any]] = {}
    for name in PARTS:
        path = folder / f"{name}.json"
        if name in arguments.only:
            with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
                found = run_part(name, arguments, Path(scratch), parts)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if path.exists():
            parts[name] = json.loads(path.read_bytes())
    write_report(arguments.output, parts)


if __name__ == "__main__":
    main()
