"""Fills and searches Milvus Lite through pymilvus alone; a process of its own.

    python -m tests.performance.peers.milvus_peer FOLDER OUTPUT.json --num-keys 100000

The folder holds `vectors/vectors.npy` [N, D] and `queries.npy` [Q, D]. The answers are compared with exact search
among the keys that Milvus Lite got.

Shape legend: N = vectors, D = width, Q = queries, K = results per query.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

INSERT_BATCH = 5_000
NUM_GROUPS = 100  # a filter on one of them holds for 1 % of the keys
STRUCTURES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "FLAT": ({}, [{}]),
    "IVF_FLAT": ({"nlist": 1024}, [{"nprobe": probes} for probes in (8, 32, 128)]),
    "HNSW": ({"M": 32, "efConstruction": 100}, [{"ef": queue} for queue in (32, 128)]),
}


def fill(client: MilvusClient, name: str, structure: str, build: dict[str, Any], vectors_ND: Any) -> float:
    """Makes a collection with a structure, its keys on disk; gives the seconds it took."""
    schema = client.create_schema(auto_id=False)
    schema.add_field("key", DataType.VARCHAR, max_length=64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors_ND.shape[1])
    schema.add_field("group", DataType.VARCHAR, max_length=16)
    schema.add_field("text", DataType.VARCHAR, max_length=256)
    index = client.prepare_index_params()
    index.add_index("vector", index_type=structure, metric_type="COSINE", params=build)
    started_s = time.perf_counter()
    client.create_collection(name, schema=schema, index_params=index)
    for start in range(0, len(vectors_ND), INSERT_BATCH):
        batch = enumerate(vectors_ND[start : start + INSERT_BATCH], start)
        client.insert(
            name,
            [
                {"key": f"key-{n}", "vector": vector_D, "group": f"g{n % NUM_GROUPS}", "text": f"text of key {n}"}
                for n, vector_D in batch
            ],
        )
    client.flush(name)
    client.load_collection(name)
    return time.perf_counter() - started_s


def measure(client: MilvusClient, name: str, queries_QD: Any, best_QK: Any, search: dict[str, Any]) -> dict[str, Any]:
    """One way to search, measured with payload and filter."""

    def ask(some_QD: Any, condition: str = "") -> list[list[int]]:
        answers = client.search(
            name,
            data=list(some_QD),
            limit=10,
            filter=condition,
            output_fields=["text", "group"],
            search_params={"params": search},
        )
        return [[int(hit["key"][4:]) for hit in hits] for hits in answers]

    found_QK = ask(queries_QD)
    started_s = time.perf_counter()
    ask(queries_QD)
    at_once_s = (time.perf_counter() - started_s) / len(queries_QD)
    times_ms = alone_ms(lambda number: ask(queries_QD[number : number + 1]), len(queries_QD))
    filtered_ms = alone_ms(lambda number: ask(queries_QD[number : number + 1], f'group == "g{number}"'), 20)
    hits = [len(np.intersect1d(found_K, best_K)) / 10 for found_K, best_K in zip(found_QK, best_QK, strict=True)]
    return {
        "parameters": json.dumps(search),
        "recall_at_10": float(np.mean(hits)),
        "p50_ms": float(np.percentile(times_ms, 50)),
        "p99_ms": float(np.percentile(times_ms, 99)),
        "at_once_ms": 1e3 * at_once_s,
        "filtered_p50_ms": float(np.percentile(filtered_ms, 50)),
    }


def alone_ms(ask: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of single calls, one after another."""
    times_ms = []
    for number in range(count):
        started_s = time.perf_counter()
        ask(number)
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    return times_ms


def main() -> None:
    """Fills, measures, writes."""
    parser = argparse.ArgumentParser(description="Measures Milvus Lite.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--num-keys", type=int, required=True)
    arguments = parser.parse_args()
    vectors_ND = np.load(arguments.folder / "vectors" / "vectors.npy", mmap_mode="r")[: arguments.num_keys]
    queries_QD = np.load(arguments.folder / "queries.npy")[:100]
    best_QK = np.argsort(-(queries_QD @ vectors_ND.T), axis=1)[:, :10]
    found = []
    for structure, (build, searches) in STRUCTURES.items():
        client = MilvusClient(str(arguments.folder / f"{structure}.db"))
        build_s = fill(client, "keys", structure, build, vectors_ND)
        points = [measure(client, "keys", queries_QD, best_QK, search) for search in searches]
        found.append({"factory": structure, "build_s": build_s, "points": points})
        client.close()
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arguments.output.write_text(
        json.dumps({"structures": found, "num_keys": len(vectors_ND), "peak_bytes": peak_bytes}, indent=1)
    )


if __name__ == "__main__":
    main()
