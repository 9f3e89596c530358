"""Measures what a build and a fold hold in memory: `python -m benchmarks.build_memory --output docs/results/memory.md`.

A corpus of small keys is built, built again with some rows changed, some new and some gone, and folded after live
changes; each number of keys in a process of its own. Vectors are drawn, so that no encoder is in memory. What is
counted is the process's own memory (`RssAnon`): files that are mapped or cached can be given back at any time.

The search structure is `exact`, which is a file: what FAISS holds of any other grows with the number of keys.
"""

import argparse
import hashlib
import json
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from anykey.encoder.item import Item
from anykey.encoder.protocol import ItemEncoder
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.build import build_index
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.key_index import NewKey
from anykey.index.settings import BuildSettings
from anykey.index.store.manifest import EncoderFacts
from anykey.program.progress import quietly
from anykey.program.settings import plain_console
from benchmarks.setting import processor

WIDTH = 16
LIVE_KEYS = 10_000
STEPS = ("first build", "build of a tenth changed", "fold of live changes")


class DrawnPrepared:
    """A text on its way to a drawn vector."""

    is_text_cut = False

    def __init__(self, text: str) -> None:
        self.seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class DrawnVectors(EncoderSource):
    """Unit vectors that are drawn from the texts, in the place of an encoder."""

    def fingerprint(self) -> str:
        """Of no encoder."""
        return "sha256:drawn"

    def width(self) -> int:
        """Length of a vector."""
        return WIDTH

    def load(self) -> ItemEncoder:
        """There is none; raises `RuntimeError`."""
        raise RuntimeError("no encoder made these vectors: they are drawn")

    def facts(self) -> EncoderFacts:
        """What the index says of them."""
        return EncoderFacts(name="drawn", fingerprint=self.fingerprint(), width=WIDTH, fusion="raw")

    def prepare(self, item: Item, row: int | None = None) -> Any:
        """What a vector is drawn by."""
        return DrawnPrepared(item.text or "")

    def encode(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Unit vectors `[B, D]`."""
        seeds = np.array([one.seed for one in prepared], np.uint64)
        drawn_BD = np.stack([drawn(seed) for seed in seeds])
        unit_BD: NDArray[np.float32] = (drawn_BD / np.linalg.norm(drawn_BD, axis=1, keepdims=True)).astype(np.float32)
        return unit_BD


def drawn(seed: int) -> NDArray[np.float64]:
    """A vector `[D]`, neither zero nor slow to make."""
    steps = np.arange(1, WIDTH + 1, dtype=np.float64)
    return np.sin(steps * (float(seed % 1_000_003) + 1.0)) + 1e-3


class Peak:
    """The most memory of its own that the process has had since it was asked last."""

    def __init__(self) -> None:
        self._most_kib = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._most_kib = max(self._most_kib, own_memory_kib())
            time.sleep(0.05)

    @contextmanager
    def measured(self, found: dict[str, Any], step: str) -> Iterator[None]:
        """Notes the peak of a block, above what there was before it, and its seconds."""
        before, started_s = own_memory_kib(), time.perf_counter()
        self._most_kib = before
        yield
        found[step] = {"mib": (self._most_kib - before) / 1024, "seconds": time.perf_counter() - started_s}


def own_memory_kib() -> int:
    """Memory of this process that is no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise OSError("the system does not tell RssAnon")


def write_corpus(path: Path, num_keys: int, *, is_changed: bool = False) -> None:
    """Rows with a short text each; or the same with one row in twenty changed, one in twenty gone, and as many new."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_keys):
            kind = number % 20 if is_changed else -1
            name = f"new-{number}" if kind == 0 else f"key-{number}"
            text = f"changed text {number}" if kind == 1 else f"text {number}"
            file.write(json.dumps({"key": name, "text": text}) + "\n")


def measure(num_keys: int, folder: Path, live_keys: int = LIVE_KEYS) -> dict[str, Any]:
    """The steps' peaks and times with so many keys."""
    corpus, index_dir, found, peak = folder / "corpus.jsonl", folder / "index", dict[str, Any](), Peak()
    settings = BuildSettings(
        corpus=(str(corpus),), checkpoint="drawn", output=index_dir, structure="exact", batch_size=512
    )
    console = Console(quiet=True)
    write_corpus(corpus, num_keys)
    with peak.measured(found, STEPS[0]):
        build_index(settings, DrawnVectors(), console)
    write_corpus(corpus, num_keys, is_changed=True)
    with peak.measured(found, STEPS[1]):
        report = build_index(settings, DrawnVectors(), console)
    assert (report.num_embedded, report.num_removed) == (2 * -(-num_keys // 20), -(-num_keys // 20))
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        vectors_BD = DrawnVectors().encode([DrawnPrepared(f"live {number}") for number in range(live_keys)])
        index.upsert([NewKey(f"live-{number}", vector_D, text="live") for number, vector_D in enumerate(vectors_BD)])
        with peak.measured(found, STEPS[2]):
            index.compact(None, quietly)
    return found


def table(found: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| step | " + " | ".join(f"{num_keys:,} keys" for num_keys in found) + " |"
    yield "|---|" + "---:|" * len(found)
    for step in STEPS:
        cells = [f"{run[step]['mib']:,.0f} MiB, {run[step]['seconds']:,.0f} s" for run in found.values()]
        yield f"| {step} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path, help="where there is room for the indexes")
    arguments = parser.parse_args()
    console, found = plain_console(), {}
    for num_keys in arguments.keys:
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[num_keys] = pool.apply(measure, (num_keys, folder))
        finally:
            shutil.rmtree(folder)
        console.print(f"{num_keys:,} keys: {json.dumps(found[num_keys])}")
    lines = "\n".join(table(found))
    console.print(lines)
    if arguments.output is not None:
        arguments.output.write_text(PAGE.format(table=lines, machine=processor()), encoding="utf-8")


PAGE = """# Memory of a build and of a fold

What the process itself holds at most during a step, above what it held before it, and the step's time. Keys are short
texts with drawn vectors of width 16, and the search structure is `exact`: any other is built in memory by FAISS, and
grows with the number of keys as `docs/scale.md` says. Files that are mapped or cached are not counted.

{table}

`make perf-build-memory` on {machine}.
"""


if __name__ == "__main__":
    main()
