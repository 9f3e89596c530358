"""Measures what others do on the vectors that the index was measured with: FAISS alone, autofaiss, Milvus Lite.

Every peer is a process of its own; all read the same file of vectors.

Shape legend: N = vectors, D = width, Q = queries.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encoder.program import plain_console
from index.vectors.exact import ExactVectors, write_exact
from tests.performance.search_speed import ClusteredVectors

NUM_QUERIES = 300
WRITE_BATCH = 50_000
FAISS_PEER = Path(__file__).parent / "peers" / "faiss_peer.py"


def measure(
    folder: Path,
    facts: dict[str, Any],
    autofaiss_python: Path,
    milvus_keys: int,
    timeout_s: float,
) -> dict[str, Any]:
    """Runs all peers, one after the other.

    Args:
        folder: For the vectors and all that the peers write.
        facts: What was measured of the index: `num_keys`, `width` and `structure`.
        autofaiss_python: The interpreter of autofaiss' environment.
        milvus_keys: Keys that Milvus Lite gets.
        timeout_s: The longest time for one peer.

    Returns:
        By name of the peer, what it measured, or `not_run` with the reason.
    """
    write_vectors(folder, facts["num_keys"], facts["width"])
    structure = facts["structure"]
    exact_bytes = 4 * facts["num_keys"] * facts["width"]
    budgets = {
        "autofaiss, memory of our structure": structure["memory_bytes"],
        "autofaiss, memory of our structure and vectors": structure["memory_bytes"] + exact_bytes,
    }
    factory = "Flat" if structure["factory"] == "exact" else f"{structure['factory']},RFlat"
    peers: dict[str, tuple[list[str | Path], list[str]]] = {  # what starts it, and its flags
        "FAISS alone": ([sys.executable, FAISS_PEER], ["--factory", factory])
    }
    milvus_flags = ["--num-keys", str(min(milvus_keys, facts["num_keys"]))]
    peers["Milvus Lite"] = [sys.executable, "-m", "tests.performance.peers.milvus_peer"], milvus_flags
    for name, num_bytes in budgets.items():
        peers[name] = [autofaiss_python, FAISS_PEER], ["--autofaiss", f"{num_bytes / 1e6:.0f}MB"]
    return dict(_run_all(peers, folder, timeout_s))


def write_vectors(folder: Path, num_keys: int, width: int) -> None:
    """The drawn vectors, fresh queries, and each query's exactly best vectors, as NumPy files."""
    drawn = ClusteredVectors(num_keys, width)
    (folder / "vectors").mkdir(parents=True)
    vectors_ND = np.lib.format.open_memmap(
        folder / "vectors" / "vectors.npy", mode="w+", dtype=np.float32, shape=(num_keys, width)
    )
    for start in range(0, num_keys, WRITE_BATCH):
        batch = vectors_ND[start : start + WRITE_BATCH]
        batch[:] = drawn.draw(len(batch))
    vectors_ND.flush()
    queries_QD = drawn.draw(NUM_QUERIES)
    path = folder / "exact.faiss"
    write_exact(
        path, (vectors_ND[start : start + WRITE_BATCH] for start in range(0, num_keys, WRITE_BATCH)), width, "float32"
    )
    _, best_QK = ExactVectors.open(path).search(queries_QD, 10)
    path.unlink()
    np.save(folder / "queries.npy", queries_QD)
    np.save(folder / "best.npy", best_QK)


def _run_all(
    peers: Mapping[str, tuple[list[str | Path], list[str]]], folder: Path, timeout_s: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, (name, (program, flags)) in enumerate(peers.items()):
        started_s = time.perf_counter()
        output = folder / f"peer-{number}.json"
        found = run_peer([*program, folder, output, *flags], output, timeout_s)
        plain_console().print(f"{name}: {found.get('not_run', 'measured')}, {time.perf_counter() - started_s:,.0f} s")
        yield name, found


def run_peer(command: list[str | Path], output: Path, timeout_s: float) -> dict[str, Any]:
    """What a peer measured and wrote, or `not_run` with the reason."""
    try:
        subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout_s, check=True)
    except subprocess.TimeoutExpired:
        return {"not_run": f"it was stopped after {timeout_s:,g} s"}
    except subprocess.CalledProcessError as error:
        return {"not_run": f"it failed: {(error.stderr.strip().splitlines() or [f'exit code {error.returncode}'])[-1]}"}
    except OSError as error:
        return {"not_run": f"it could not be started: {error.strerror}"}
    found: dict[str, Any] = json.loads(output.read_bytes())
    return found
