"""The instruments of the measurement of an index and its peers: what is counted, and what the page says of it."""

import json
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.index.publish.directory import WritableDirectory
from anykey.index.store.manifest import FoldOptions
from anykey.index.store.store_reader import StoreReader
from anykey.index.vectors.structure_facts import SearchParameters
from benchmarks import index_speed, own_search
from benchmarks.index_report import best_point, shown_points, write_report
from benchmarks.index_speed import fill, publish_staged
from benchmarks.recorded import Recorded
from benchmarks.search_peers import Peer, measure, plan, run_peer, write_vectors
from benchmarks.setting import NUM_QUERIES, Setting
from benchmarks.step_times import StepTimes
from benchmarks.timed_search import in_words
from tests.engines import needs_milvus

SETTING = Setting.here(num_keys=2000, width=16)
SIZE = ["--num-keys", "2000", "--width", "16"]


def point(recall: float, p50_ms: float, parameters: str = "nprobe=1", tuned: bool = False) -> dict[str, Any]:
    times = {"p50_ms": p50_ms, "p99_ms": 9.0, "at_once_ms": 0.5}
    return {"parameters": parameters, "recall_at_10": recall, **times, "tuned": tuned}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small index and one peer, as the command makes it; not to be changed."""
    output = tmp_path_factory.mktemp("measured") / "page.md"
    index_speed.main(["--output", str(output), "--only", "search", "faiss", *SIZE])
    return output


@pytest.fixture(scope="module")
def search(measured: Path) -> dict[str, Any]:
    """What is measured of a small index."""
    found: dict[str, Any] = json.loads((measured.with_suffix("") / "search.json").read_bytes())
    return found


def test_the_whole_measurement_of_an_index_runs(search: dict[str, Any]) -> None:
    rows = {row[0]: row[1] for row in search["rows"]}
    assert float(rows["recall@10, fresh queries"]) > 0.9
    assert "x unfiltered" in rows["a condition that holds for 1 %, first use, exact"]
    assert {"opening", "payload of 10 keys anywhere", "upsert of one key, on disk"} <= rows.keys()
    ours = search["alone"]
    assert ours["points"][0]["tuned"]
    assert 0 < ours["tuning_s"] < ours["build_s"]
    assert ours["files_bytes"] > 4 * SETTING.num_keys * SETTING.width


def test_index_and_peers_get_the_same_keys_and_queries(tmp_path: Path) -> None:
    drawn, directory = SETTING.draw(), WritableDirectory(tmp_path / "index")

    fill(directory, drawn, SETTING, batch_size=700, commit_keys=300)
    write_vectors(tmp_path, SETTING, batch_size=700)

    manifest = publish_staged(directory, FoldOptions(structure="exact"))
    path = directory.store_path(manifest.store)
    with closing(StoreReader(path)) as reader, reader.transaction() as transaction:
        stored_ND = np.concatenate(list(transaction.vectors(1000)))
    np.testing.assert_array_equal(stored_ND, np.load(tmp_path / "vectors" / "vectors.npy"))
    np.testing.assert_array_equal(drawn.draw(NUM_QUERIES), np.load(tmp_path / "queries.npy"))


def test_page_holds_all_peers_and_what_was_not_measured(tmp_path: Path, search: dict[str, Any]) -> None:
    sizes = {"memory_bytes": 2**20, "files_bytes": 2**21}
    flat = {"factory": "FLAT", "build_s": 2.0, "points": [{**point(1.0, 4.0, "exact"), "filtered_p50_ms": 3.0}]}
    graph = {"factory": "HNSW", "build_s": 9.0, "points": [point(0.99, 9.0, "efSearch=2", True), point(0.98, 2.0)]}
    peers = {
        "FAISS alone": {"factory": "Flat", "build_s": 3.0, "tuning_s": 0.0, **sizes, "points": [point(0.7, 1.0)]},
        "autofaiss": {"not_run": "it was stopped after 9 s"},
        "autofaiss with more": {**graph, "memory_limit": "9MB"},
        "Milvus Lite": {"structures": [flat], "num_keys": 100, "note": "on a Monday"},
    }
    peers = {name: {"setting": search["setting"], **found} for name, found in peers.items()}
    peers["Flood"] = {"setting": SETTING.facts() | {"width": 4}, "factory": "F", "build_s": 1, "points": []}

    write_report(tmp_path / "index.md", {"search": search, "peers": peers})

    page = (tmp_path / "index.md").read_text()
    assert "| FAISS alone | Flat | nprobe=1 | 0.7000 | 1.00 ms | 0.500 ms | 3 s, none | 1 MiB | 2 MiB |" in page
    assert "| autofaiss | not measured: it was stopped after 9 s |" in page
    assert "| autofaiss with more (9MB) | HNSW | efSearch=2, as tuned | 0.9900 | 9.00 ms |" in page
    assert "| autofaiss with more (9MB) | HNSW | nprobe=1 | 0.9800 | 2.00 ms | 0.500 ms | 9 s, not told apart |" in page
    assert "| Milvus Lite, 100 keys with payload | FLAT | exact | 1.0000 | 4.00 ms; 3.0 ms with a 1 % filter |" in page
    assert "- **Milvus Lite**: on a Monday." in page
    assert f"- Left out: Flood was measured with 2,000 keys of width 4 (seed 0) on {SETTING.machine}." in page
    assert "| Flood" not in page
    assert (tmp_path / "index" / "recall-latency.png").read_bytes().startswith(b"\x89PNG")


def test_every_row_has_all_columns(tmp_path: Path, search: dict[str, Any]) -> None:
    unmeasured = {**search, "alone": {**search["alone"], "points": []}}
    peers = {"autofaiss": {"setting": search["setting"], "not_run": "it failed"}}
    for number, ours in enumerate((search, unmeasured)):
        write_report(tmp_path / f"{number}.md", {"search": ours, "peers": peers})
        lines = (tmp_path / f"{number}.md").read_text().split("## Beside others")[1].split("## What")[0].splitlines()
        assert {line.count("|") for line in lines if line.startswith("|")} == {10}
    assert "| AnyKey, without payload | exact | next run |" in (tmp_path / "1.md").read_text()


def test_best_point_is_the_fastest_with_enough_recall_or_the_one_with_most() -> None:
    assert best_point([point(0.99, 3.0), point(0.985, 2.0), point(0.9, 1.0)])["p50_ms"] == 2.0
    assert best_point([point(0.5, 3.0), point(0.9, 9.0)])["p50_ms"] == 9.0


def test_what_was_tuned_is_shown_beside_the_best_point_once() -> None:
    tuned, fast = point(0.99, 3.0, tuned=True), point(0.99, 1.0)
    assert shown_points([tuned, fast]) == [tuned, fast]
    assert shown_points([tuned, point(0.99, 4.0)]) == [tuned]
    assert shown_points([]) == []


def test_peers_are_measured_beside_the_same_setting_or_refused(
    tmp_path: Path, measured: Path, search: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.md"

    def run(*flags: str) -> None:
        index_speed.main(["--output", str(output), *flags])

    for flags in (["--only", "faiss"], ["--only"]):
        with pytest.raises(SystemExit, match="2"):
            run(*flags)
        assert f"there is no {tmp_path / 'page' / 'search.json'}: measure search first" in capsys.readouterr().err
    shutil.copytree(measured.with_suffix(""), output.with_suffix(""))
    with pytest.raises(SystemExit, match="2"):
        run("--only", "faiss", "--num-keys", "2000", "--width", "32")
    assert "is of 2,000 keys of width 16 (seed 0) on " in capsys.readouterr().err
    run("--only")
    assert output.read_text() == measured.read_text()
    assert "| FAISS alone | Flat |" in measured.read_text()
    other = Setting.here(1600, 16)
    Recorded(output.with_suffix("")).write("search", {**search, "setting": other.facts()})
    run("--only")
    assert "- Left out: FAISS alone was measured with 2,000 keys of width 16" in output.read_text()


def test_p99_needs_a_hundred_times() -> None:
    assert in_words([1.0] * 99) == "p50 1.00 ms"
    assert in_words([1.0] * 100) == "p50 1.00 ms, p99 1.00 ms"


def test_steps_last_from_their_first_report_to_their_last() -> None:
    shown: list[tuple[str, int, int]] = []
    times = StepTimes(lambda *report: shown.append(report), clock=iter([0.0, 1.0, 5.0, 7.0, 9.0]).__next__)
    reports = [("measuring A", 0, 2), ("measuring A", 2, 2), ("building B", 0, 1), ("measuring B", 0, 1)]
    for report in (*reports, ("measuring B", 1, 1)):
        times.report(*report)
    assert times.seconds("measuring ", "searching exactly") == 1.0 + 2.0
    assert shown[:4] == reports


@pytest.mark.parametrize(
    ("factory", "names"), [("IVF16,Flat", "nprobe="), ("HNSW32", "efSearch="), ("IVF4_HNSW32,SQ8", "nprobe=")]
)
def test_own_searches_are_named_as_peers_searches_are(factory: str, names: str) -> None:
    assert own_search.in_words(factory, SearchParameters(probes=6, rerank=200)) == f"{names}6, 200 re-ranked"


@pytest.mark.slow
def test_own_structure_is_searched_with_what_was_tuned_and_with_its_front(tmp_path: Path) -> None:
    directory, drawn = WritableDirectory(tmp_path), (setting := Setting(10_100, 16, "here")).draw()
    fill(directory, drawn, setting)
    publish_staged(directory, FoldOptions(structure="IVF64,PQ8x4fs"))
    first, *others = own_search.measure(tmp_path, drawn.draw(100))["points"]
    assert first["tuned"]
    assert first["recall_at_10"] > 0.9
    assert len({point["parameters"] for point in (first, *others)}) == 1 + len(others) > 1
    assert not any(point["tuned"] for point in others)


def run_instrument(tmp_path: Path, setting: Setting, module: str, *flags: str) -> dict[str, Any]:
    """What an instrument finds with few queries."""
    write_vectors(tmp_path, setting)
    for name in ("queries.npy", "best.npy"):
        np.save(tmp_path / name, np.load(tmp_path / name)[:60])
    found = run_peer(Peer("", sys.executable, module, flags).command(tmp_path, tmp_path / "out"), tmp_path / "out", 150)
    assert "not_run" not in found, found
    return found


@pytest.mark.parametrize(
    ("factory", "parameters"),
    [("IVF16,PQ8x4fs,RFlat", "nprobe=2, 200 re-ranked"), ("HNSW8", "efSearch=16"), ("Flat", "as FAISS makes it")],
)
def test_faiss_is_measured_alone(tmp_path: Path, factory: str, parameters: str) -> None:
    found = run_instrument(tmp_path, Setting(2000, 16, "here"), "faiss_peer", "--factory", factory)
    assert found["factory"] == factory
    assert best_point(found["points"])["recall_at_10"] > 0.9
    assert parameters in [point["parameters"] for point in found["points"]]
    assert found["files_bytes"] > 2000


@pytest.mark.slow
@needs_milvus
def test_milvus_lite_is_measured(tmp_path: Path) -> None:
    found = run_instrument(tmp_path, Setting(1500, 16, "here"), "milvus_peer", "--num-keys", "1000")
    assert [structure["factory"] for structure in found["structures"]] == ["FLAT", "IVF_FLAT", "HNSW"]
    assert all(best_point(structure["points"])["recall_at_10"] > 0.95 for structure in found["structures"])
    assert all(structure["files_bytes"] > 1000 * 16 * 4 for structure in found["structures"])


def test_plan_has_the_peers_that_are_wanted() -> None:
    structure = {"factory": "IVF4,SQ8", "memory_bytes": 5_000_000}
    setting = Setting(1_000_000, 512, "here")
    peers = list(plan(structure, setting, ["faiss", "milvus", "autofaiss"], Path("python"), milvus_keys=50))
    assert [peer.flags for peer in peers] == [
        ["--factory", "IVF4,SQ8,RFlat"],
        ["--num-keys", "50"],
        ["--autofaiss", "5MB"],
        ["--autofaiss", "2053MB"],
    ]
    assert [peer.name for peer in plan(structure, setting, ["faiss"], Path("python"), 50)] == ["FAISS alone"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("exact", "Flat"), ("HNSW32", "HNSW32"), ("IVF4_HNSW8,SQ8", "IVF4_HNSW8,SQ8,RFlat")]
)
def test_faiss_alone_gets_our_structure_with_vectors(ours: str, theirs: str) -> None:
    structure = {"factory": ours, "memory_bytes": 1}
    (peer,) = plan(structure, Setting(10, 4, "here"), ["faiss"], Path("python"), milvus_keys=5)
    assert peer.flags == ["--factory", theirs]


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
    setting = Setting(300, 16, "here")
    peers = [
        Peer("bad", sys.executable, "faiss_peer", ["--factory", "IVF4,NoSuch"]),
        Peer("good", sys.executable, "faiss_peer", ["--factory", "Flat"]),
    ]
    found = measure(tmp_path, setting, peers, timeout_s=120)
    assert "IVF4,NoSuch" in found["bad"]["not_run"]
    assert found["good"]["factory"] == "Flat"
    assert [Setting.of(measured) for measured in found.values()] == [setting, setting]
