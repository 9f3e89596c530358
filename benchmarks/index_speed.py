"""Measures a whole index on this machine: `python -m benchmarks.index_speed --output docs/results/index.md`.

Clustered unit vectors with metadata are stored as keys, folded into a version with a structure chosen by measurement,
and searched through `FaissIndex` as an application does: payload included.

Shape legend: Q = queries, D = width.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.faiss_index import FaissIndex
from anykey.index.filtering.conditions import Equals
from anykey.index.key_index import NewKey, Scope
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, publish_with_changes
from anykey.index.search.version_files import STRUCTURE_NAME, VECTORS_NAME
from anykey.index.store.manifest import EncoderFacts, FoldOptions, Manifest
from anykey.index.store.records import Record
from anykey.index.store.store import Store
from anykey.index.vectors.structure_facts import DEFAULT_RECALL, Targets
from anykey.program.progress import Report, open_progress, quietly
from anykey.program.settings import plain_console
from benchmarks import own_search, search_peers
from benchmarks.index_report import write_report
from benchmarks.recorded import NotComparableError, Recorded
from benchmarks.search_speed import BATCH_SIZE, ClusteredVectors, overlap
from benchmarks.setting import NUM_QUERIES, Setting
from benchmarks.step_times import StepTimes
from benchmarks.timed_search import alone_ms, in_words

PARTS = ("search", *search_peers.PEERS)
PAGE_PARTS = ("search", "peers")  # as they are recorded
MIB = 2**20
COMMIT_KEYS = 10_000
NUM_GROUPS = 100  # a condition on one of them holds for 1 % of the keys
EXACT_QUERIES = 256  # at once; FAISS needs many for its matrix products to be fast
EXACT_ALONE = 100  # one after the other, which takes its time
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


def fill(
    directory: WritableDirectory,
    drawn: ClusteredVectors,
    setting: Setting,
    batch_size: int = BATCH_SIZE,
    commit_keys: int = COMMIT_KEYS,
) -> float:
    """Stages keys in a new store, as a build would; gives the seconds it took, drawing left out."""
    store = Store(directory.begin_store())
    encoder = EncoderFacts(name="drawn", fingerprint="sha256:drawn", width=setting.width, fusion="raw")
    store.staging.begin(encoder.fingerprint)
    store.staging.note_encoder(encoder)
    numbers = count()
    took_s = 0.0
    for vectors_BD in drawn.batches(setting.num_keys, batch_size):
        started_s = time.perf_counter()
        for start in range(0, len(vectors_BD), commit_keys):
            store.staging.add(list(records(vectors_BD[start : start + commit_keys], numbers)))
        took_s += time.perf_counter() - started_s
    store.close()
    return took_s


def records(vectors_BD: NDArray[np.float32], numbers: Iterator[int]) -> Iterator[Record]:
    """Text keys with metadata such as a shop has."""
    for vector_D, number in zip(vectors_BD, numbers, strict=False):
        metadata = f'{{"group": "g{number % NUM_GROUPS}", "price": {number % 9973 / 10}, "sku": "s{number}"}}'
        yield Record(f"key-{number}", Modality.TEXT, f"text of key {number}", metadata, (), (), vector_D)


def measure_reading(
    index_dir: Path, drawn: ClusteredVectors, queries_QD: NDArray[np.float32], findings: Findings
) -> None:
    """Opening, search, payload; the queries of each row are new, so that no row finds its hits in memory already."""
    started_s = time.perf_counter()
    with FaissIndex.open(index_dir) as index:
        opened_s = time.perf_counter() - started_s
        index.search(queries_QD[:1], 10)
        findings.add("opening", f"{opened_s:.2f} s; {time.perf_counter() - started_s:.2f} s to the first hits", "2 s")
        exact, found = (index.search(queries_QD, 10, exact=is_exact) for is_exact in (True, False))
        keys = [np.array([[int(hit.key[4:]) for hit in hits] for hits in results]) for results in (found, exact)]
        findings.add("recall@10, fresh queries", f"{overlap(*keys):.4f}", f"{DEFAULT_RECALL}")
        measure_latency(index, drawn, findings)
        queries_QD = drawn.draw(NUM_QUERIES)
        ratios = [throughput_ratio(index, queries_QD) for _ in range(ROUNDS)]
        shown = f"{np.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
        findings.add(f"queries/s over exact search, {len(queries_QD)} at once", shown, "20x")
        rows = np.random.default_rng(1).integers(1, index.count(), (NUM_QUERIES, 10)).tolist()
        times_ms = alone_ms(lambda number: payload(index, rows[number]), NUM_QUERIES)
        findings.add("payload of 10 keys anywhere", in_words(times_ms), "1 ms")


def measure_latency(index: FaissIndex, drawn: ClusteredVectors, findings: Findings) -> None:
    """One query after the other: of all keys, of all exactly, and of the keys that a condition holds for."""
    times_ms = each_ms(lambda query_1D, _: index.search(query_1D, 10), drawn.draw(NUM_QUERIES))
    findings.add("one query, 10 hits with payload", in_words(times_ms))
    exact_ms = each_ms(lambda query_1D, _: index.search(query_1D, 10, exact=True), drawn.draw(EXACT_ALONE))
    findings.add("the same, exact", in_words(exact_ms))
    faster = np.median(exact_ms) / np.median(times_ms)
    findings.add("queries/s over exact search, one at a time", f"{faster:.0f}x", "20x")
    search = filtered(index, [Scope(condition=Equals(("group",), f"g{number}")) for number in range(NUM_GROUPS)])
    for what in ("a condition that holds for 1 %, first use", "the same condition again"):
        filtered_ms = each_ms(search, drawn.draw(NUM_GROUPS))
        ratio = np.median(filtered_ms) / np.median(times_ms)
        findings.add(f"{what}, exact", f"{in_words(filtered_ms)}, {ratio:.2f}x unfiltered", "2x")


def each_ms(ask: Callable[[NDArray[np.float32], int], object], vectors_QD: NDArray[np.float32]) -> list[float]:
    """Milliseconds of what is asked with one vector after the other."""
    return alone_ms(lambda number: ask(vectors_QD[number : number + 1], number), len(vectors_QD))


def payload(index: FaissIndex, rows: list[int]) -> object:
    """The payload of some rows, as a search takes it for its hits."""
    with index.moment() as moment:
        return moment.transaction.records(rows)


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
        times_ms = each_ms(lambda vector_1D, n: index.upsert([new_key(vector_1D[0], n)]), drawn.draw(NUM_UPSERTS))
        found.add("upsert of one key, on disk", in_words(times_ms), "p50 10 ms")
        index.upsert([new_key(vector_D, NUM_UPSERTS + n) for n, vector_D in enumerate(drawn.draw(RECENT_KEYS))])
        index.search(drawn.draw(1), 10)
        times_ms = each_ms(lambda query_1D, _: index.search(query_1D, 10), drawn.draw(NUM_QUERIES))
        found.add(f"one query with {RECENT_KEYS:,} recent keys", in_words(times_ms))


def new_key(vector_D: NDArray[np.float32], number: int) -> NewKey:
    """A key to be stored live."""
    return NewKey(f"new-{number}", vector_D, f"text {number}", metadata={"group": f"g{number % NUM_GROUPS}"})


def measure_index(directory: Path, setting: Setting) -> dict[str, Any]:
    """Everything of an index that is made in a directory."""
    findings = Findings()
    drawn = setting.draw()
    index_dir = WritableDirectory(directory / "index")
    findings.add("storing keys", f"{setting.num_keys / fill(index_dir, drawn, setting):,.0f} keys/s")
    queries_QD = drawn.draw(NUM_QUERIES)  # right after the keys, as peers have them
    manifest, facts = fold(index_dir, findings)
    measure_reading(index_dir.path, drawn, queries_QD, findings)
    found = own_search.measure(index_dir.path, queries_QD)
    measure_changes(index_dir.path, drawn, findings)
    sizes = {name: file.size_bytes / MIB for name, file in manifest.files.items()}
    sizes["store.sqlite"] = index_dir.store_path(manifest.store).stat().st_size / MIB
    findings.add("files, MiB", ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items() if size >= 1))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    findings.add("peak memory of the process, mapped files included", f"{peak_gib:.1f} GiB")
    assert manifest.structure is not None
    return {
        "setting": setting.facts(),
        "faiss": faiss.__version__,
        "rows": findings.rows,
        "structure": manifest.structure.model_dump(mode="json"),
        "alone": {**facts, **found},
    }


def fold(index_dir: WritableDirectory, findings: Findings) -> tuple[Manifest, dict[str, Any]]:
    """Publishes a version; gives its manifest, and what its structure took, as peers tell it of theirs."""
    with open_progress(plain_console()) as display:
        times = StepTimes(display.report)
        started_s = time.perf_counter()
        manifest = publish_staged(index_dir, FoldOptions(targets=Targets()), times.report)
        took_s = time.perf_counter() - started_s
    findings.add("folding: files, structure chosen and measured", f"{took_s:,.0f} s")
    structure = manifest.structure
    assert structure is not None
    others = [candidate for candidate in structure.candidates if candidate.factory != structure.factory]
    measuring_s = times.seconds("searching exactly", "measuring ")
    searched = (file.size_bytes for name, file in manifest.files.items() if name in (VECTORS_NAME, STRUCTURE_NAME))
    return manifest, {
        "factory": structure.factory,
        "build_s": took_s,
        "tuning_s": measuring_s + sum(candidate.build_seconds or 0.0 for candidate in others),
        "memory_bytes": structure.memory_bytes,
        "files_bytes": sum(searched),
    }


def publish_staged(directory: WritableDirectory, options: FoldOptions, report: Report = quietly) -> Manifest:
    """Publishes the keys that `fill` staged."""
    (name,) = directory.unfinished_store_names()
    with closing(Store(directory.store_path(name))) as store:

        def changes() -> bool:
            store.move_in()
            return True

        manifest = publish_with_changes(directory, store, changes, Provenance(), options, report)
    assert manifest is not None
    return manifest


def measure_peers(
    arguments: argparse.Namespace, setting: Setting, recorded: Recorded, wanted: Collection[str], folder: Path
) -> None:
    """Measures peers beside the search that is recorded, and records them in place of what they were before."""
    parts = recorded.parts(PAGE_PARTS)
    python = arguments.peers / "autofaiss" / "bin" / "python"
    peers = search_peers.plan(parts["search"]["structure"], setting, wanted, python, arguments.milvus_keys)
    found = search_peers.measure(folder, setting, list(peers), arguments.peer_timeout_s)
    recorded.write("peers", parts.get("peers", {}) | found)


def measure_all(arguments: argparse.Namespace, recorded: Recorded) -> None:
    """Measures and records the parts that are asked for.

    Raises:
        NotComparableError: they would stand beside something else, or beside nothing.
    """
    setting = Setting.here(arguments.num_keys, arguments.width)
    peers = [name for name in search_peers.PEERS if name in arguments.only]
    if "search" not in arguments.only:
        recorded.require_search(beside=setting if peers else None)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        if "search" in arguments.only:
            recorded.write("search", measure_index(Path(scratch, "search"), setting))
            shutil.rmtree(Path(scratch, "search"))  # peers need the room
        if peers:
            measure_peers(arguments, setting, recorded, peers, Path(scratch, "peers"))


def main(argv: Sequence[str] | None = None) -> None:
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
    parser.add_argument("--directory", type=Path, help="where files are made; a temporary place when absent")
    parser.add_argument(
        "--output", type=Path, required=True, help="Markdown file; raw numbers go to a folder beside it"
    )
    arguments = parser.parse_args(argv)
    recorded = Recorded(arguments.output.with_suffix(""))
    try:
        measure_all(arguments, recorded)
    except NotComparableError as error:
        parser.error(str(error))
    write_report(arguments.output, recorded.parts(PAGE_PARTS))


if __name__ == "__main__":
    main()
