"""Builds and sweeps a FAISS index as FAISS alone does it, or as autofaiss chooses it; a process of its own.

    python -m benchmarks.peers.faiss_peer FOLDER OUTPUT.json --factory IVF4096,PQ256x4fs,RFlat
    python -m benchmarks.peers.faiss_peer FOLDER OUTPUT.json --autofaiss 145MB

Imports nothing of AnyKey but what times a search, since autofaiss needs another environment. The folder holds
`vectors/vectors.npy` [N, D], `queries.npy` [Q, D] and `best.npy` [Q, 10], the positions of each query's exactly best
vectors.

Shape legend: N = vectors, D = width, Q = queries, K = results per query.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.timed_search import timed

STEPS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512)
LEAST_QUEUE = 10  # of a graph's search for 10 results
LEAST_COARSE_QUEUE = 64  # of the search for the nearest lists, where a graph finds them
RERANKED = 200  # candidates whose exact scores decide, where the index re-ranks
ENOUGH_RECALL = 0.9995  # looking further is not swept
TRAINING_SEED = 0
ADD_BATCH = 65_536


@dataclass(frozen=True)
class Built:
    """An index that is built, and written.

    Attributes:
        index: It.
        facts: Its factory string, what building it took, and its size.
        parameters: How it searches as it comes.
        is_tuned: Whether that was tuned.
    """

    index: Any
    facts: dict[str, Any]
    parameters: str
    is_tuned: bool = False


def build(folder: Path, factory: str) -> Built:
    """Trains, fills and writes an index from a factory string."""
    path = folder / "faiss.index"
    started_s = time.perf_counter()
    vectors_ND = np.load(folder / "vectors" / "vectors.npy", mmap_mode="r")
    index = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    num_lists = getattr(faiss.extract_index_ivf(index), "nlist", 0) if "IVF" in factory else 0
    count = min(len(vectors_ND), max(100_000, 40 * num_lists))
    chosen = np.random.default_rng(TRAINING_SEED).choice(len(vectors_ND), count, replace=False)
    index.train(np.ascontiguousarray(vectors_ND[np.sort(chosen)]))
    for start in range(0, len(vectors_ND), ADD_BATCH):
        index.add(np.ascontiguousarray(vectors_ND[start : start + ADD_BATCH]))
    faiss.write_index(index, str(path))
    facts = {"factory": factory, "build_s": time.perf_counter() - started_s, "tuning_s": 0.0}
    return Built(index, {**facts, **sizes(path)}, "as FAISS makes it")


def choose(folder: Path, memory: str) -> Built:
    """Lets autofaiss choose, build, tune and write an index for an amount of memory."""
    from autofaiss import build_index

    path, infos_path = folder / "autofaiss.index", folder / "autofaiss.json"
    started_s = time.perf_counter()
    build_index(
        str(folder / "vectors"),
        index_path=str(path),
        index_infos_path=str(infos_path),
        max_index_memory_usage=memory,
        current_memory_available="16GB",
        metric_type="ip",
        nb_cores=faiss.omp_get_max_threads(),
        verbose=logging.WARNING,
    )
    built_s = time.perf_counter() - started_s
    infos = json.loads(infos_path.read_text())
    facts = {"factory": infos["index_key"], "build_s": built_s, "memory_limit": memory, **sizes(path)}
    return Built(faiss.read_index(str(path)), facts, infos["index_param"], is_tuned=True)


def sizes(path: Path) -> dict[str, int]:
    """Of an index that was written, and that searches hold in memory as it is."""
    size_bytes = path.stat().st_size
    return {"memory_bytes": size_bytes, "files_bytes": size_bytes}


def sweep(built: Built, queries_QD: Any, best_QK: Any) -> Iterator[dict[str, Any]]:
    """Recall, latency and throughput, first as the index comes, and at ever wider searches."""

    def point(name: str, parameters: Any) -> dict[str, Any]:
        return timed(name, lambda some_QD: built.index.search(some_QD, 10, params=parameters)[1], queries_QD, best_QK)

    yield {**point(built.parameters, None), "tuned": built.is_tuned}
    for step in STEPS:
        name, parameters = wider(built.index, step)
        if parameters is None:
            continue
        found = point(name, parameters)
        yield found
        if found["recall_at_10"] > ENOUGH_RECALL:
            break


def wider(index: Any, step: int) -> tuple[str, Any]:
    """Parameters of a search that looks at so many lists, or has a queue so long, and what they are called.

    They are `None` where the index has no such thing, or not so few or so many of it.
    """
    if isinstance(index, faiss.IndexPreTransform):
        name, inner = wider(faiss.downcast_index(index.index), step)
        return name, inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        name, inner = wider(faiss.downcast_index(index.base_index), step)
        refined = inner and faiss.IndexRefineSearchParameters(k_factor=RERANKED / 10, base_index_params=inner)
        return f"{name}, {RERANKED} re-ranked", refined
    if isinstance(index, faiss.IndexIVF):
        return wider_lists(index, step)
    if isinstance(index, faiss.IndexHNSW) and step >= LEAST_QUEUE:
        return f"efSearch={step}", faiss.SearchParametersHNSW(efSearch=step)
    return "", None


def wider_lists(index: Any, step: int) -> tuple[str, Any]:
    """The same of inverted lists."""
    if step > index.nlist:
        return "", None
    kinds = (faiss.IndexIVFRaBitQ, faiss.IndexIVFRaBitQFastScan)
    kind = faiss.IVFRaBitQSearchParameters if isinstance(index, kinds) else faiss.SearchParametersIVF
    if not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
        return f"nprobe={step}", kind(nprobe=step)
    queue = max(LEAST_COARSE_QUEUE, 2 * step)
    coarse = faiss.SearchParametersHNSW(efSearch=queue)
    return f"nprobe={step}, quantizer_efSearch={queue}", kind(nprobe=step, quantizer_params=coarse)


def main() -> None:
    """Builds, measures, writes."""
    parser = argparse.ArgumentParser(description="Measures FAISS alone, or what autofaiss chooses.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--factory")
    parser.add_argument("--autofaiss", metavar="MEMORY")
    arguments = parser.parse_args()
    folder = arguments.folder
    built = choose(folder, arguments.autofaiss) if arguments.autofaiss else build(folder, arguments.factory)
    points = list(sweep(built, np.load(folder / "queries.npy"), np.load(folder / "best.npy")))
    found = {**built.facts, "faiss": faiss.__version__, "points": points}
    arguments.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
