"""The instruments of the measurement of an index and its peers: what is counted, and what the page says of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines import needs_milvus
from tests.live_index import unit_vectors
from tests.performance import embedding_speed
from tests.performance.embedding_speed import keys_per_s, require_same, their_vectors
from tests.performance.index_report import best_point, write_report
from tests.performance.index_speed import measure_index
from tests.performance.search_peers import FAISS_PEER, run_peer, write_vectors


def point(recall: float, p50_ms: float) -> dict[str, Any]:
    return {"parameters": "1", "recall_at_10": recall, "p50_ms": p50_ms, "p99_ms": 9.0, "at_once_ms": 0.5}


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is measured of a small index."""
    return measure_index(tmp_path_factory.mktemp("index"), num_keys=3000, width=16)


def test_the_whole_measurement_of_an_index_runs(search: dict[str, Any]) -> None:
    rows = {row[0]: row[1] for row in search["rows"]}
    assert float(rows["recall@10, fresh queries"]) > 0.9
    assert "x unfiltered" in rows["a condition that holds for 1 %, first use, exact"]
    assert {"opening", "payload of 10 keys anywhere", "upsert of one key, on disk"} <= rows.keys()


def test_page_holds_all_parts_and_what_was_not_measured(tmp_path: Path, search: dict[str, Any]) -> None:
    times = {"seconds": [30.0, 32.0], "start_seconds": [10.0, 12.0]}
    runs = {"AnyKey": times, "clip-retrieval": {"seconds": [50.0, 50.0], "start_seconds": [10.0, 10.0]}}
    embedding = {"num_keys": 264, "num_few": 64, "architecture": "A", "batch_size": 8, "least_cosine": 0.99999}
    peers = {
        "FAISS alone": {"factory": "Flat", "build_s": 1.0, "index_bytes": 2**20, "points": [point(0.7, 1.0)]},
        "autofaiss": {"not_run": "it was stopped after 9 s"},
        "Milvus Lite": {
            "structures": [
                {"factory": "FLAT", "build_s": 2.0, "points": [{**point(1.0, 4.0), "filtered_p50_ms": 3.0}]}
            ],
            "num_keys": 100,
        },
    }

    write_report(
        tmp_path / "index.md", {"search": search, "peers": peers, "embedding": {**embedding, "work": {"images": runs}}}
    )

    page = (tmp_path / "index.md").read_text()
    assert "| autofaiss | not measured: it was stopped after 9 s |" in page
    assert "| Milvus Lite, 100 keys with payload | FLAT | 1.0000 | 4.00 ms; 3.0 ms with a 1 % filter |" in page
    assert "| images | 10.0 keys/s | 5.0 keys/s | 2.00 (2.00 to 2.00) | 31 s, 50 s |" in page
    assert (tmp_path / "index" / "recall-latency.png").read_bytes().startswith(b"\x89PNG")
    write_report(tmp_path / "less.md", {"search": search, "embedding": {"not_run": "no clip-retrieval"}})
    assert "Not measured: no clip-retrieval." in (tmp_path / "less.md").read_text()


def test_best_point_is_the_fastest_with_enough_recall_or_the_one_with_most() -> None:
    assert best_point([point(0.99, 3.0), point(0.985, 2.0), point(0.9, 1.0)])["p50_ms"] == 2.0
    assert best_point([point(0.5, 3.0), point(0.9, 9.0)])["p50_ms"] == 9.0


def test_rate_is_without_the_start() -> None:
    times = {"seconds": [20.0], "start_seconds": [10.0]}
    assert keys_per_s(times, 100 + embedding_speed.NUM_FEW) == [10.0]


def test_same_vectors_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_ND = unit_vectors(6)
    assert require_same(vectors_ND, 3 * vectors_ND) == pytest.approx(1)
    with pytest.raises(RuntimeError, match="the vectors differ"):
        require_same(vectors_ND, vectors_ND[::-1].copy())
    with pytest.raises(RuntimeError, match="gave vectors"):
        require_same(vectors_ND, vectors_ND[:5])


def test_vectors_of_two_workers_are_put_into_the_corpus_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_speed, "BATCH_SIZE", 2)
    (tmp_path / "img_emb").mkdir()
    in_turns = [0, 1, 5, 6, 2, 3, 7, 8, 4, 9]  # shards of 0 to 4 and 5 to 9, two at a time
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.array(in_turns, np.float16)[:, None])
    assert their_vectors(tmp_path)[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("factory", ["IVF16,PQ8x4fs,RFlat", "HNSW8", "Flat"])
def test_faiss_is_measured_alone(tmp_path: Path, factory: str) -> None:
    write_vectors(tmp_path / "data", 2000, 16)
    command = [sys.executable, FAISS_PEER, tmp_path / "data", tmp_path / "out.json", "--factory", factory]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["factory"] == factory
    assert best_point(found["points"])["recall_at_10"] > 0.9


@needs_milvus
def test_milvus_lite_is_measured(tmp_path: Path) -> None:
    write_vectors(tmp_path / "data", 1500, 16)
    module = "tests.performance.peers.milvus_peer"
    command = [sys.executable, "-m", module, tmp_path / "data", tmp_path / "out.json", "--num-keys", "1000"]
    subprocess.run(list(map(str, command)), check=True, timeout=150, cwd=Path(__file__).parents[2])
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert [structure["factory"] for structure in found["structures"]] == ["FLAT", "IVF_FLAT", "HNSW"]
    assert all(best_point(structure["points"])["recall_at_10"] > 0.95 for structure in found["structures"])


@pytest.mark.parametrize(
    ("program", "timeout_s", "reason"),
    [
        (
            [sys.executable, "-c", "raise ValueError('no such structure')"],
            60,
            "it failed: ValueError: no such structure",
        ),
        ([sys.executable, "-c", "raise SystemExit(3)"], 60, "it failed: exit code 3"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], 0.5, "it was stopped after 0.5 s"),
        (["no/such/python"], 60, "it could not be started: No such file or directory"),
    ],
)
def test_peer_that_fails_or_is_not_there_is_told(
    tmp_path: Path, program: list[str | Path], timeout_s: float, reason: str
) -> None:
    assert run_peer(program, tmp_path / "out.json", timeout_s) == {"not_run": reason}


def test_peer_that_measures_is_told(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    program: list[str | Path] = [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('{\"a\": 1}')", output]
    assert run_peer(program, output, timeout_s=60) == {"a": 1}


def test_structure_that_faiss_does_not_know_fails_alone(tmp_path: Path) -> None:
    write_vectors(tmp_path, 300, 16)
    command = [sys.executable, FAISS_PEER, tmp_path, tmp_path / "out.json", "--factory", "IVF4,NoSuch"]
    assert "IVF4,NoSuch" in run_peer(command, tmp_path / "out.json", timeout_s=120)["not_run"]
