"""Measures what others do on the vectors that the index was measured with: FAISS alone, autofaiss, Milvus Lite.

Every peer is a process of its own; all read the same file of vectors.

Shape legend: N = vectors, D = width, Q = queries.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index.vectors.exact import ExactVectors, write_exact
from anykey.index.vectors.structure_facts import EXACT
from anykey.program.settings import plain_console
from benchmarks.own_search import is_graph
from benchmarks.search_speed import BATCH_SIZE
from benchmarks.setting import NUM_QUERIES, Setting

PEERS = ("faiss", "milvus", "autofaiss")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Peer:
    """One thing to measure.

    Attributes:
        name: What the page calls it.
        python: The interpreter of its environment.
        module: What measures it.
        flags: What it is told.
    """

    name: str
    python: str | Path
    module: str
    flags: Sequence[str]

    def command(self, folder: Path, output: Path) -> list[str | Path]:
        """What measures it on the vectors in a folder."""
        return [self.python, "-m", f"benchmarks.peers.{self.module}", folder, output, *self.flags]


def plan(
    structure: Mapping[str, Any], setting: Setting, wanted: Collection[str], autofaiss_python: Path, milvus_keys: int
) -> Iterator[Peer]:
    """The peers to measure beside a search structure.

    Args:
        structure: What the index chose.
        setting: What it was measured with.
        wanted: Some of `PEERS`.
        autofaiss_python: The interpreter of autofaiss' environment.
        milvus_keys: Most keys that Milvus Lite gets.
    """
    if "faiss" in wanted:
        yield Peer("FAISS alone", sys.executable, "faiss_peer", ["--factory", _same_of_faiss(structure["factory"])])
    if "milvus" in wanted:
        num_keys = min(milvus_keys, setting.num_keys)
        yield Peer("Milvus Lite", sys.executable, "milvus_peer", ["--num-keys", str(num_keys)])
    if "autofaiss" in wanted:
        vectors_bytes = 4 * setting.num_keys * setting.width
        budgets = {"our structure": 0, "our structure and vectors": vectors_bytes}
        for what, more_bytes in budgets.items():
            flags = ["--autofaiss", f"{(structure['memory_bytes'] + more_bytes) / 1e6:.0f}MB"]
            yield Peer(f"autofaiss, memory of {what}", autofaiss_python, "faiss_peer", flags)


def _same_of_faiss(factory: str) -> str:
    """What FAISS calls a structure of ours with its exact vectors."""
    if factory == EXACT:
        return "Flat"
    return factory if is_graph(factory) else f"{factory},RFlat"


def measure(folder: Path, setting: Setting, peers: Collection[Peer], timeout_s: float) -> dict[str, Any]:
    """Runs peers, one after the other.

    Args:
        folder: For the vectors and all that the peers write.
        setting: What they are measured with.
        peers: Which.
        timeout_s: The longest time for one peer.

    Returns:
        By name of the peer, its setting and what it measured, or `not_run` with the reason.
    """
    write_vectors(folder, setting)
    found = {}
    for number, peer in enumerate(peers):
        started_s = time.perf_counter()
        output = folder / f"peer-{number}.json"
        measured = run_peer(peer.command(folder, output), output, timeout_s)
        found[peer.name] = {"setting": setting.facts(), **measured}
        said = measured.get("not_run", "measured")
        plain_console().print(f"{peer.name}: {said}, {time.perf_counter() - started_s:,.0f} s")
    return found


def write_vectors(folder: Path, setting: Setting, batch_size: int = BATCH_SIZE) -> None:
    """The drawn vectors, fresh queries, and each query's exactly best vectors, as NumPy files."""
    drawn = setting.draw()
    (folder / "vectors").mkdir(parents=True)
    path = folder / "exact.faiss"
    batches = drawn.batches(setting.num_keys, batch_size)
    write_exact(path, _written(batches, setting, folder / "vectors" / "vectors.npy"), setting.width, "float32")
    queries_QD = drawn.draw(NUM_QUERIES)
    _, best_QK = ExactVectors.open(path).search(queries_QD, 10)
    path.unlink()
    np.save(folder / "queries.npy", queries_QD)
    np.save(folder / "best.npy", best_QK)


def _written(batches: Iterator[NDArray[np.float32]], setting: Setting, path: Path) -> Iterator[NDArray[np.float32]]:
    """Hands the keys' vectors on, and writes each batch on its way."""
    shape = (setting.num_keys, setting.width)
    vectors_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    start = 0
    for vectors_BD in batches:
        vectors_ND[start : start + len(vectors_BD)] = vectors_BD
        start += len(vectors_BD)
        yield vectors_BD
    vectors_ND.flush()


def run_peer(command: Sequence[str | Path], output: Path, timeout_s: float) -> dict[str, Any]:
    """What a peer measured and wrote, or `not_run` with the reason."""
    try:
        subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    except subprocess.TimeoutExpired:
        return {"not_run": f"it was stopped after {timeout_s:,g} s"}
    except subprocess.CalledProcessError as error:
        return {"not_run": f"it failed: {(error.stderr.strip().splitlines() or [f'exit code {error.returncode}'])[-1]}"}
    except OSError as error:
        return {"not_run": f"it could not be started: {error.strerror}"}
    found: dict[str, Any] = json.loads(output.read_bytes())
    return found
