"""What builds and calls of an index cost in two checkouts, measured in turns on one machine.

    python -m benchmarks.index_cost --before ../older --checkpoint runs/demo/best

Each turn is a process of its own: a first build of rows with a text and a field, whose vectors are drawn, the same
build again, and calls of the index. What is counted is the processor time of a process that may use one thread, so that
other work on the machine matters little. Both compute by torch in float32, whatever was found to be fastest: what an
encoder takes to start is no cost of an index.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np

from anykey.encoder.description import description_of
from anykey.program.settings import plain_console

NUM_KEYS = 20_000
# A program of its own, that imports nothing of this checkout before the other's path comes first.
PROGRAM = """
import importlib, json, sys
from pathlib import Path
from statistics import median
from time import process_time
import numpy as np

source, package, folder, checkpoint, output, width = *sys.argv[1:3], Path(sys.argv[3]), *sys.argv[4:]
sys.path.insert(0, source)
load = lambda name: importlib.import_module(package + "index." + name)
FaissIndex, parse = load("faiss_index").FaissIndex, load("filtering.filters").parse_condition
NewKey, Scope = load("key_index").NewKey, load("key_index").Scope
found = {}

def timed(name, call, times=1):
    costs = []
    for turn in range(times):
        began = process_time()
        call(turn)
        costs.append(process_time() - began)
    found[name] = median(costs) * 1000

flags = ["--corpus", str(folder / "corpus.jsonl"), "--faiss", str(folder / "vectors.faiss"), "--checkpoint", checkpoint]
flags = ["build", *flags, "--output", output, "--structure", "exact"]
main = load("__main__").main
for name in ("first build", "build of the same again"):
    timed(name, lambda turn: main(flags) and sys.exit("the build failed"))
vectors = np.random.default_rng(0).standard_normal((400, int(width)), np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
part = Scope(condition=parse({"field": "part", "eq": 7}))
with FaissIndex.open(Path(output), writable=True, compact_after=0) as index:
    timed("search, 10 hits with payload", lambda turn: index.search(vectors[turn : turn + 1], 10), 200)
    timed("the same, exact", lambda turn: index.search(vectors[turn : turn + 1], 10, exact=True), 100)
    timed("with a condition that holds for 1 %", lambda turn: index.search(vectors[turn : turn + 1], 10, part), 200)
    timed("store one key", lambda turn: index.upsert([NewKey(f"new-{turn}", vectors[turn], "new")]), 100)
    timed("delete one key", lambda turn: index.delete([f"new-{turn}"]), 100)
sys.stdout.write("\\nCOSTS " + json.dumps(found) + "\\n")
"""


def write_corpus(folder: Path, width: int, num_keys: int = NUM_KEYS) -> None:
    """Rows with a text and a field, and a FAISS file of their vectors."""
    rows = ({"key": f"k{n}", "text": f"text {n}", "metadata": {"part": n % 100}} for n in range(num_keys))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vectors_ND = np.random.default_rng(1).standard_normal((num_keys, width), np.float32)
    exact: Any = faiss.IndexFlatIP(width)
    exact.add(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))
    faiss.write_index(exact, str(folder / "vectors.faiss"))


def measure(checkout: Path, folder: Path, checkpoint: Path, output: Path) -> dict[str, float]:
    """Milliseconds of processor time of each step, in one checkout."""
    is_part_of_anykey = (checkout / "src" / "anykey").is_dir()
    source, package = (checkout / "src", "anykey.") if is_part_of_anykey else (checkout, "")
    arguments = [source, package, folder, checkpoint, output, description_of(checkpoint)["width"]]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    plain_encoder = {"ANYKEY_INDEX_BACKEND": "torch", "ANYKEY_INDEX_PRECISION": "fp32"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **plain_encoder}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    costs: dict[str, float] = json.loads(done.stdout.rpartition("COSTS ")[2])
    return costs


def main() -> None:
    """Measures both in turns; every other turn begins with the other one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="root of the other checkout")
    parser.add_argument("--checkpoint", type=Path, required=True, help="an encoder that both can load")
    parser.add_argument("--turns", type=int, default=5, help="how often each is measured")
    parser.add_argument("--folder", type=Path, help="where the indexes are made; in memory, disks matter less")
    arguments = parser.parse_args()
    roots = {"before": arguments.before.resolve(), "now": Path(__file__).resolve().parents[1]}
    console = plain_console()
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
    checkpoint = arguments.checkpoint.resolve()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        write_corpus(folder, description_of(checkpoint)["width"])
        for turn in range(arguments.turns):
            for name in sorted(roots, reverse=bool(turn % 2)):
                costs[name].append(measure(roots[name], folder, checkpoint, folder / f"{name}-{turn}"))
            console.print(f"turn {turn + 1} of {arguments.turns} is over")
    console.print(
        "| call | before, ms | now, ms | ratio of the least | median of the ratios |\n|---|---:|---:|---:|---:|"
    )
    for step in costs["now"][0]:
        before_ms, now_ms = ([cost[step] for cost in costs[name]] for name in ("before", "now"))
        ratios = [now / before for before, now in zip(before_ms, now_ms, strict=True)]
        least = min(now_ms) / min(before_ms)
        cells = f"{min(before_ms):.3g} | {min(now_ms):.3g} | {least:.2f} | {median(ratios):.2f}"
        console.print(f"| {step} | {cells} |")


if __name__ == "__main__":
    main()
