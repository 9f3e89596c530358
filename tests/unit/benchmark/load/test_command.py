"""Load is sent when it is due whatever the service does, and everything that becomes of it is counted.

The services here are real servers whose pauses are known. Bounds are wide: a busy machine is slow.
"""

import asyncio
import base64
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import SearchClient
from tests.html_pages import Page
from tests.unit.benchmark.fake_service import FakeService, serving

HITS = [("1:1", 0.9, "image"), ("1:2", 0.5, "text")]


def service() -> FakeService:
    return FakeService(lambda body: HITS, {}, 2)


def log_of(folder: Path, *rows: Mapping[str, Any]) -> Path:
    path = folder / "searches.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def load(url: str, output: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Runs the command, and gives its load.json."""
    given = ["--url", url, "--output", str(output), "--warm-up-s", "0", "--ceiling-s", "0", "--arrivals", "uniform"]
    assert main(["load", *given, *arguments]) == code
    return json.loads((output / "load.json").read_text(encoding="utf-8"))


def percentile_ms(rate: Mapping[str, Any], percent: float) -> float:
    """A percentile of the latencies from the histogram, however few lie beyond."""
    bins_ms = [end_ms for end_ms, count in rate["histogram_ms"] for _ in range(count)]
    return bins_ms[math.ceil(percent / 100 * len(bins_ms)) - 1]


class Stall:
    """Holds searches up from 0.1 s after the second until 0.6 s; the first is the one that tries the service out."""

    def __init__(self) -> None:
        self._is_tried = False
        self._start_s: float | None = None

    def __call__(self, body: Mapping[str, Any]) -> None:
        if not self._is_tried:
            self._is_tried = True
            return
        self._start_s = self._start_s or time.monotonic()
        passed_s = time.monotonic() - self._start_s
        if 0.1 <= passed_s < 0.6:
            time.sleep(0.6 - passed_s)


def test_a_stall_shows_that_a_closed_loop_hides(tmp_path: Path) -> None:
    log = log_of(tmp_path, {"text": "a"})
    with serving(service()) as fake:
        fake.before = Stall()
        (rate,) = load(fake.url, tmp_path / "out", "--log", str(log), "--rates", "100", "--duration-s", "0.8")["rates"]
        fake.before = Stall()
        closed_s = sorted(asyncio.run(ask_one_by_one(fake.url, 40)))
    assert rate["due"] == rate["sent"] == rate["answered"] == 80
    assert percentile_ms(rate, 99) > 400
    assert percentile_ms(rate, 60) > 100, "of 80, those that were due in 0.4 s of the stall"
    assert rate["latency_ms"]["p99"] is None, "to a reader, two requests say nothing"
    assert rate["latency_ms"]["beyond"] == {"p50": 40, "p90": 8, "p99": 0, "p99.9": 0}
    assert closed_s[-1] > 0.3
    assert closed_s[-4] < 0.3, "to a closed loop, nearly all was well"


async def ask_one_by_one(url: str, num_searches: int) -> list[float]:
    """Latencies as a client sees them that asks 100 times in a second, but never before it has the answer."""
    latencies_s = []
    async with SearchClient(url) as client:
        for _ in range(num_searches):
            latencies_s.append((await client.search("a", {"text": "a", "k": 2})).latency_s)
            await asyncio.sleep(max(0.0, 0.01 - latencies_s[-1]))
    return latencies_s


def test_every_outcome_is_counted_by_its_class(tmp_path: Path) -> None:
    texts = ["well", "crowded", "broken", "garbled", "silent", "ended", "well"]
    log = log_of(tmp_path, *({"text": text} for text in texts))

    def before(body: Mapping[str, Any]) -> None:
        if body["text"] == "silent":
            time.sleep(2)
        if body["text"] == "ended":
            raise ConnectionAbortedError

    fake = service()
    fake.before = before
    fake.failures = {
        "crowded": (429, {"error": {"type": "overloaded", "message": "no place"}}),
        "broken": (500, "no JSON object"),
        "garbled": (200, {"hits": 3}),
    }
    with serving(fake):
        given = ["--log", str(log), "--rates", "20", "--duration-s", "0.7", "--timeout-s", "1.2"]
        (rate,) = load(fake.url, tmp_path / "out", *given)["rates"]
    assert rate["errors"] == {
        "429 overloaded": 2,
        "500": 2,
        "200 without a search's answer": 2,
        "timeout": 2,
        "broken connection": 2,
    }
    assert (rate["due"], rate["sent"], rate["answered"], rate["unfinished"]) == (14, 14, 4, 0)
    assert len(fake.bodies) == 15, "nothing is sent again, and one search tries the service out"
    page = (tmp_path / "out/load.md").read_text(encoding="utf-8")
    assert "| 20 | 429 overloaded | 2 |" in page


def test_a_service_that_is_gone_is_no_connection(tmp_path: Path) -> None:
    fake, log = service(), log_of(tmp_path, {"text": "a"})
    with serving(fake):
        fake.before = lambda body: None if len(fake.bodies) < 4 else fake.stop()
        (rate,) = load(fake.url, tmp_path / "out", "--log", str(log), "--rates", "20", "--duration-s", "1")["rates"]
    assert rate["due"] == rate["sent"] == 20
    assert rate["errors"]["no connection"] >= 5


def test_requests_that_find_too_many_under_way_are_counted_and_not_sent(tmp_path: Path) -> None:
    fake, log = service(), log_of(tmp_path, {"text": "a"})
    fake.before = lambda body: time.sleep(0.2)
    with serving(fake):
        given = ["--log", str(log), "--rates", "50", "--duration-s", "0.6", "--max-in-flight", "2"]
        (rate,) = load(fake.url, tmp_path / "out", *given)["rates"]
    assert rate["due"] == rate["sent"] + rate["not_sent"] == 30
    assert 2 <= rate["sent"] <= 12
    assert rate["answered"] == rate["sent"]


@pytest.mark.slow
def test_the_capacity_of_one_worker_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake, log, worker = service(), log_of(tmp_path, {"text": "a"}), threading.Lock()

    def before(body: Mapping[str, Any]) -> None:
        with worker:
            time.sleep(0.005)  # 200 in a second at best

    fake.before = before
    with serving(fake):
        given = ["--log", str(log), "--find-saturation", "--rates", "80", "--duration-s", "0.2", "--limit-ms", "100"]
        found = load(fake.url, tmp_path / "out", *given)["saturation"]
    assert 4 <= found["held"] <= 320  # a busy machine gives way long before
    assert found["held"] < found["gave_way"] <= 640
    said = f"is {found['held']:.4g}/s. At {found['gave_way']:.4g}/s, {found['reasons'][0]}"
    assert said in capsys.readouterr().out


def test_a_log_is_replayed_in_its_order_and_pace(tmp_path: Path) -> None:
    times_s = [7.0, 7.6, 7.6, 8.4, 9.2]
    log = log_of(tmp_path, *({"text": str(n), "at_s": at_s} for n, at_s in enumerate(times_s)))
    fake, came_s = service(), []
    fake.before = lambda body: came_s.append((body["text"], time.monotonic()))
    with serving(fake):
        report = load(fake.url, tmp_path / "out", "--log", str(log), "--speed", "2")
    (_, *texts), (_, *moments_s) = zip(*came_s, strict=True)  # the first tries the service out
    assert sorted(texts[1:3]) == ["1", "2"], "due at the same moment"
    assert [texts[0], *texts[3:]] == ["0", "3", "4"]
    for moment_s, due_s in zip(moments_s, (0, 0.3, 0.3, 0.7, 1.1), strict=True):
        assert -0.1 < moment_s - moments_s[0] - due_s < 0.4
    assert not any("at_s" in body for body in fake.bodies)
    assert report["rates"][0]["answered"] == 5
    assert "the log's pace, 2 times as fast" in (tmp_path / "out/load.md").read_text(encoding="utf-8")


def test_a_log_that_is_shorter_than_the_warm_up_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(tmp_path, {"text": "a", "at_s": 0}, {"text": "b", "at_s": 3})
    assert main(["load", "--log", str(log), "--url", "http://127.0.0.1:1"]) == 2
    assert "lasts 3 s, of which the first 5 are not counted: lower --warm-up-s" in capsys.readouterr().err


def test_queries_of_a_dataset_are_sent_once_each_before_any_again(shapesworld_dir: Path, tmp_path: Path) -> None:
    fake = service()
    with serving(fake):
        given = ["--dataset", str(shapesworld_dir), "--rates", "80", "--duration-s", "0.6", "--warm-up-s", "0.2"]
        report = load(fake.url, tmp_path / "out", *given)
    (rate,) = report["rates"]
    sent = [json.dumps(body, sort_keys=True) for body in fake.bodies[1:]]
    assert report["traffic"]["num_queries"] == 32
    assert len(set(sent[:32])) == len(set(sent)) == 32
    assert (len(sent), rate["due"]) == (64, 48), "what is sent to warm up is not counted"
    assert all(body["k"] == 10 and "pool" not in body for body in fake.bodies)
    assert {(body.get("text") is None, body.get("image") is None) for body in fake.bodies} == {
        (False, True),
        (True, False),
        (False, False),
    }
    assert rate["repeat_share"] == pytest.approx(32 / 48)
    assert rate["cached_share"] == 0
    assert "query's vector" not in " ".join(report["warnings"]), "it knew none, though queries came again"
    assert rate["stages_ms"]["encode"]["mean"] == pytest.approx(2.0)


def test_answers_from_a_cache_are_counted_and_warned_of(tmp_path: Path) -> None:
    fake, log = service(), log_of(tmp_path, {"text": "a"}, {"text": "b"})
    fake.cached = True
    with serving(fake):
        report = load(fake.url, tmp_path / "out", "--log", str(log), "--rates", "20", "--duration-s", "0.3")
    assert report["rates"][0]["cached_share"] == 1
    assert report["warnings"][1].startswith("for 100% of the answers the service knew the query's vector")
    assert "(of 2 different queries)" in report["warnings"][1]


def test_tasks_and_pools_are_chosen_as_for_quality(shapesworld_dir: Path, tmp_path: Path) -> None:
    fake = service()
    fake.pools = {"mbeir_shapesworld_task0": 2}
    with serving(fake):
        given = ["--dataset", str(shapesworld_dir), "--tasks", "0", "--pools", "local", "--search", "exact", "-k", "3"]
        load(fake.url, tmp_path / "out", *given, "--rates", "50", "--duration-s", "0.1")
        fake.pools = {}
        given += ["--url", fake.url, "--output", str(tmp_path / "other")]
        assert main(["load", *given]) == 1, "the index has no such pool"
    assert {(body["pool"], body["exact"], body["k"]) for body in fake.bodies} == {("mbeir_shapesworld_task0", True, 3)}


def test_a_rate_near_the_clients_own_limit_is_marked(tmp_path: Path) -> None:
    fake, log = service(), log_of(tmp_path, {"text": "a"})
    with serving(fake):
        given = ["--log", str(log), "--rates", "20,30000", "--duration-s", "0.05", "--max-in-flight", "1"]
        report = load(fake.url, tmp_path / "out", *given, "--ceiling-s", "0.3")
    assert 50 < report["ceiling_per_s"] < 30_000
    assert not [why for why in report["rates"][0]["limited_by_client"] if "ceiling" in why]
    assert report["rates"][1]["limited_by_client"][0] == "above 70% of the client's ceiling"
    assert "30000/s is limited by the client: above 70% of the client's ceiling" in " ".join(report["warnings"])
    assert "| limited by |" in (tmp_path / "out/load.md").read_text(encoding="utf-8")


def test_an_interrupted_run_reports_what_it_measured(tmp_path: Path) -> None:
    fake, log = service(), log_of(tmp_path, {"text": "a"})
    with serving(fake):
        given = ["--url", fake.url, "--output", str(tmp_path), "--log", str(log), "--rates", "50", "--ceiling-s", "0"]
        command = [sys.executable, "-m", "anykey.benchmark", "load", *given, "--warm-up-s", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            while len(fake.bodies) < 20 and client.poll() is None:
                time.sleep(0.01)
            client.send_signal(signal.SIGINT)
            printed, _ = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "Stopped before the end" in printed
    report = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    (rate,) = report["rates"]
    assert report["is_stopped"] is True
    assert 15 <= rate["answered"] == rate["sent"] - rate["unfinished"] <= len(fake.bodies)
    assert rate["duration_s"] < 25
    assert rate["answered_per_s"] == pytest.approx(40, abs=35)


def test_a_service_that_does_not_answer_the_first_search_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, log = service(), log_of(tmp_path, {"text": "a"})
    fake.turned_away = 1
    with serving(fake):
        assert main(["load", "--url", fake.url, "--log", str(log), "--output", str(tmp_path)]) == 1
    assert "the first query was answered with 429 overloaded" in capsys.readouterr().err
    assert len(fake.bodies) == 1
    assert not (tmp_path / "load.json").exists()


def test_the_report_holds_parameters_environment_service_and_picture(tmp_path: Path) -> None:
    log = log_of(tmp_path, {"text": "a"})
    with serving(service()) as fake:
        report = load(fake.url, tmp_path / "out", "--log", str(log), "--rates", "20,100", "--duration-s", "0.3")
    assert report["parameters"]["rates"] == [20, 100]
    assert report["service"]["model"]["fingerprint"] == "sha256:feed"
    assert report["environment"]["python"]
    assert [rate["rate"] for rate in report["rates"]] == [20, 100]
    assert report["rates"][1]["latency_ms"]["p50"] > 0
    assert report["rates"][1]["lag_ms"]["beyond"]["p50"] == 15
    picture = (tmp_path / "out/latency.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    page = Page((tmp_path / "out/load.html").read_text(encoding="utf-8"))
    assert page.loads == [f"data:image/png;base64,{base64.b64encode(picture).decode()}"]
    assert page.open == []
    assert {"20", "100", report["warnings"][0]} <= {" ".join(word.split()) for word in page.words}
    assert "processor time from it" in report["warnings"][0], "the service is on this machine"
