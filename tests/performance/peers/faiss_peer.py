"""Builds and sweeps a FAISS index as FAISS alone does it, or as autofaiss chooses it; a process of its own.

    python faiss_peer.py FOLDER OUTPUT.json --factory IVF4096,PQ256x4fs,RFlat
    python faiss_peer.py FOLDER OUTPUT.json --autofaiss 145MB

Imports nothing of AnyKey, since autofaiss needs another environment. The folder holds `vectors/vectors.npy` [N, D],
`queries.npy` [Q, D] and `best.npy` [Q, 10], the positions of each query's exactly best vectors.

Shape legend: N = vectors, D = width, Q = queries, K = results per query.
"""

import argparse
import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

STEPS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512)
RERANKED = 200  # candidates whose exact scores decide, where the index re-ranks
TRAINING_SEED = 0
ADD_BATCH = 65_536


def build(folder: Path, factory: str) -> tuple[Any, str]:
    """Trains and fills an index from a factory string; gives it and its name."""
    vectors_ND = np.load(folder / "vectors" / "vectors.npy", mmap_mode="r")
    index = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    num_lists = getattr(faiss.extract_index_ivf(index), "nlist", 0) if "IVF" in factory else 0
    count = min(len(vectors_ND), max(100_000, 40 * num_lists))
    chosen = np.random.default_rng(TRAINING_SEED).choice(len(vectors_ND), count, replace=False)
    index.train(np.ascontiguousarray(vectors_ND[np.sort(chosen)]))
    for start in range(0, len(vectors_ND), ADD_BATCH):
        index.add(np.ascontiguousarray(vectors_ND[start : start + ADD_BATCH]))
    return index, factory


def choose(folder: Path, memory: str) -> tuple[Any, str]:
    """Lets autofaiss choose, build and tune an index for an amount of memory; gives it and its factory string."""
    from autofaiss import build_index

    path, facts = folder / "autofaiss.index", folder / "autofaiss.json"
    build_index(
        str(folder / "vectors"),
        index_path=str(path),
        index_infos_path=str(facts),
        max_index_memory_usage=memory,
        current_memory_available="16GB",
        metric_type="ip",
        nb_cores=faiss.omp_get_max_threads(),
        verbose=logging.WARNING,
    )
    found = json.loads(facts.read_text())
    return faiss.read_index(str(path)), f"{found['index_key']} ({found['index_param']})"


def sweep(index: Any, queries_QD: Any, best_QK: Any) -> list[dict[str, Any]]:
    """Recall, latency and throughput at ever wider searches, and first as the index comes."""
    points = [point("as it comes", index, queries_QD, best_QK, None)]
    for step in STEPS:
        parameters = wider(index, step)
        if parameters is None:
            break
        points.append(point(str(step), index, queries_QD, best_QK, parameters))
        if points[-1]["recall_at_10"] > 0.9995:
            break
    return points


def wider(index: Any, step: int) -> Any:
    """Parameters of a search that looks at so many lists, or has a queue so long; `None` where it has no such thing."""
    if isinstance(index, faiss.IndexPreTransform):
        inner = wider(faiss.downcast_index(index.index), step)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = wider(faiss.downcast_index(index.base_index), step)
        return inner and faiss.IndexRefineSearchParameters(k_factor=RERANKED / 10, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        kinds = (faiss.IndexIVFRaBitQ, faiss.IndexIVFRaBitQFastScan)
        kind = faiss.IVFRaBitQSearchParameters if isinstance(index, kinds) else faiss.SearchParametersIVF
        quantizer = faiss.downcast_index(index.quantizer)
        if isinstance(quantizer, faiss.IndexHNSW):
            coarse = faiss.SearchParametersHNSW(efSearch=max(64, 2 * step))
            return kind(nprobe=step, quantizer_params=coarse) if step <= index.nlist else None
        return kind(nprobe=step) if step <= index.nlist else None
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(10, step))
    return None


def point(name: str, index: Any, queries_QD: Any, best_QK: Any, parameters: Any) -> dict[str, Any]:
    """One way to search, measured."""

    def search(some_QD: Any) -> Any:
        return index.search(some_QD, 10, params=parameters)[1]

    found_QK = search(queries_QD)
    times_ms = []
    for query_D in queries_QD:
        started_s = time.perf_counter()
        search(query_D[None])
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    started_s = time.perf_counter()
    for _ in range(3):
        search(queries_QD)
    at_once_s = (time.perf_counter() - started_s) / 3 / len(queries_QD)
    hits = [
        len(np.intersect1d(found_K, best_K)) / len(best_K) for found_K, best_K in zip(found_QK, best_QK, strict=True)
    ]
    return {
        "parameters": name,
        "recall_at_10": float(np.mean(hits)),
        "p50_ms": float(np.percentile(times_ms, 50)),
        "p99_ms": float(np.percentile(times_ms, 99)),
        "at_once_ms": 1e3 * at_once_s,
    }


def main() -> None:
    """Builds, measures, writes."""
    parser = argparse.ArgumentParser(description="Measures FAISS alone, or what autofaiss chooses.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--factory")
    parser.add_argument("--autofaiss", metavar="MEMORY")
    arguments = parser.parse_args()
    folder = arguments.folder
    started_s = time.perf_counter()
    index, factory = choose(folder, arguments.autofaiss) if arguments.autofaiss else build(folder, arguments.factory)
    built_s = time.perf_counter() - started_s
    built_peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size_path = folder / "size.index"
    faiss.write_index(index, str(size_path))
    size_bytes = size_path.stat().st_size
    size_path.unlink()
    found = {
        "factory": factory,
        "build_s": built_s,
        "index_bytes": size_bytes,
        "build_peak_bytes": built_peak_bytes,
        "points": sweep(index, np.load(folder / "queries.npy"), np.load(folder / "best.npy")),
    }
    arguments.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
