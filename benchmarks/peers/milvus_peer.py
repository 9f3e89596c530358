"""Fills and searches Milvus Lite through pymilvus alone; a process of its own.

    python -m benchmarks.peers.milvus_peer FOLDER OUTPUT.json --num-keys 100000

The folder holds `vectors/vectors.npy` [N, D] and `queries.npy` [Q, D]. The answers are compared with exact search
among the keys that Milvus Lite got.

Shape legend: N = vectors, D = width, Q = queries, K = results per query.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from benchmarks.timed_search import alone_ms, timed

INSERT_BATCH = 5_000
NUM_GROUPS = 100  # a filter on one of them holds for 1 % of the keys
FILTERED = 20  # queries with a filter, each with another one
EXACT = "exact"  # in the place of parameters
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

    parameters = ", ".join(f"{name}={value}" for name, value in search.items()) or EXACT
    found = timed(parameters, ask, queries_QD, best_QK)
    filtered_ms = alone_ms(lambda number: ask(queries_QD[number : number + 1], f'group == "g{number}"'), FILTERED)
    return {**found, "filtered_p50_ms": float(np.percentile(filtered_ms, 50))}


def files_bytes(path: Path) -> int:
    """Size of a database, be it a file or a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Fills, measures, writes."""
    parser = argparse.ArgumentParser(description="Measures Milvus Lite.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--num-keys", type=int, required=True)
    arguments = parser.parse_args()
    vectors_ND = np.load(arguments.folder / "vectors" / "vectors.npy", mmap_mode="r")[: arguments.num_keys]
    queries_QD = np.load(arguments.folder / "queries.npy")
    best_QK = np.argsort(-(queries_QD @ vectors_ND.T), axis=1)[:, :10]
    found = []
    for structure, (build, searches) in STRUCTURES.items():
        path = arguments.folder / f"{structure}.db"
        client = MilvusClient(str(path))
        build_s = fill(client, "keys", structure, build, vectors_ND)
        points = [measure(client, "keys", queries_QD, best_QK, search) for search in searches]
        client.close()
        facts = {"factory": structure, "build_s": build_s, "tuning_s": 0.0, "files_bytes": files_bytes(path)}
        found.append({**facts, "points": points})
    arguments.output.write_text(json.dumps({"structures": found, "num_keys": len(vectors_ND)}, indent=1))


if __name__ == "__main__":
    main()
