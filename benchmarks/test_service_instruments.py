"""The instruments of the measurement of the service: what is sent, what is counted, and what the page says of it."""

import base64
import io
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anykey.benchmark.load.stored_answer import stored_answer
from benchmarks.encoder_speed import photo
from benchmarks.recorded import Recorded
from benchmarks.service_inputs import new_photos, texts
from benchmarks.service_load import Target, at_rate, crowd, one_answer
from benchmarks.service_page import GOALS, growth, write_page
from benchmarks.service_speed import PARTS, main, share_answered

BODIES = (b"{}" for _ in itertools.count())


class Refusing(BaseHTTPRequestHandler):
    """Refuses every other request."""

    protocol_version = "HTTP/1.1"
    numbers: Iterator[int]

    def do_POST(self) -> None:
        """200 and 429 in turn."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(429 if next(self.numbers) % 2 else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def refusing() -> Iterator[str]:
    Refusing.numbers = itertools.count()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_answers_and_refusals_are_told_apart() -> None:
    with refusing() as url:
        outcome = at_rate(Target("x", url, "/any", BODIES), rate=100, duration_s=0.5, is_even=True, num_kept=3)
    assert outcome.due == 50
    assert outcome.answered + outcome.errors["429"] == outcome.sent == 50
    assert outcome.latency.count == outcome.answered
    assert outcome.refusals.count == outcome.errors["429"] > 10
    assert len(outcome.bodies) == 3
    assert set(outcome.facts()["refusal_ms"]) == {"p50", "p90", "p99", "max"}


def test_a_crowd_asks_again_as_soon_as_it_is_answered() -> None:
    with stored_answer(b'{"hits":[]}') as url:
        target = Target("x", url, "/any", BODIES)
        outcome = crowd(target, 4, 0.3)
        assert one_answer(target) == {"hits": []}
    assert outcome.answered == outcome.due > 20
    assert outcome.facts()["refusal_ms"] == {}


def test_another_status_ends_the_first_question() -> None:
    with refusing() as url:
        outcome = crowd(Target("x", url, "/any", BODIES), 1, 0.05)
        if outcome.due % 2 == 0:  # the next one is answered
            one_answer(Target("x", url, "/any", BODIES))
        with pytest.raises(RuntimeError, match="x answered 429 to /any"):
            one_answer(Target("x", url, "/any", BODIES))


def test_no_text_and_no_photo_is_sent_twice_and_all_can_be_read() -> None:
    assert len(set(itertools.islice(texts(), 100))) == 100
    sent = list(itertools.islice(new_photos([photo(random.Random(0))]), 3))
    assert len(set(sent)) == 3
    for encoded in sent:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            image.load()
            assert image.size == (512, 384)


def test_what_client_and_service_take_of_the_machine_is_told() -> None:
    with stored_answer(b'{"hits":[]}') as url:
        began_s = time.monotonic()
        target = Target("x", url, "/any", BODIES, processor_s=lambda: 1.5 * (time.monotonic() - began_s))
        cores = crowd(target, 4, 0.3).facts()["cores"]
    assert cores["service"] == pytest.approx(1.5, rel=0.1)  # the clocks are read a moment apart
    assert 0 < cores["client"] <= 1.1


def times(p50: float) -> dict[str, float]:
    return {"p50": p50, "p90": 2 * p50, "p99": 3 * p50, "max": 4 * p50}


def point(rate: float, p50: float, **more: Any) -> dict[str, Any]:
    """What is recorded of one rate."""
    counts = {"due": 100, "answered": 90, "answered_per_s": 0.9 * rate, "not_sent": 4, "late": 0, "errors": {"429": 6}}
    return {"rate": rate, "latency_ms": times(p50), "refusal_ms": times(3.0), **counts, **more}


def compared(other: str) -> dict[str, Any]:
    return {
        "most_per_s": {"AnyKey": [60.0, 50.0], other: [10.0, 10.0]},
        "light_rate": 5.0,
        "at_light": {"AnyKey": [point(5, 10)], other: [point(5, 40)]},
        "curves": {"AnyKey": [point(10, 10), point(50, 20)], other: [point(5, 40)]},
    }


FOUND: dict[str, dict[str, Any]] = {
    "text": compared("clip-retrieval"),
    "image": compared("clip-retrieval") | {"most_per_s": {"AnyKey": [20.0], "clip-retrieval": [10.0]}},
    "embed-text": compared("infinity"),
    "embed-image": compared("infinity"),
    "saturation": {
        "way": "bf16 by torch",
        "text": {"alone": [{"8": 80.0, "32": 100.0}], "single": [60.0], "batched": [95.0]},
        "image": {
            "alone": [{"8": 40.0, "32": 30.0}, {"8": 40.0, "32": 90.0}, {"8": 40.0, "32": 30.0}],
            "single": [38.0, 38.0, 38.0],
            "batched": [37.0, 37.0, 37.0],
            "cores": [{"service": 1.8, "client": 0.1}],
        },
    },
    "overhead": {"service": [9.5, 9.0], "encoder": [7.0, 7.0], "index": [0.5, 0.5], "rate": 8, "stages": {"read": 0.1}},
    "cached": {"rate": 1000.0, "runs": [point(1000, 1.5)], "most_per_s": [1200.0]},
    "overload": point(400, 900, memory_bytes=[2**30] * 7 + [2**30 + 2**20], most_per_s=40.0, hits_after=10),
    "client": {"known": {"most_per_s": 9000.0, "client_ms": 0.05}, "image": {"most_per_s": 2000.0, "client_ms": 0.3}},
}
assert set(FOUND) == set(PARTS)


def test_page_says_what_was_reached_and_what_was_not(tmp_path: Path) -> None:
    output = tmp_path / "service.md"
    recorded = Recorded(tmp_path / "service")
    for name, found in FOUND.items():
        recorded.write(name, {"machine": "Z80", "num_keys": 100_000, **found})
    main(["--parts", "", "--output", str(output)])
    page = output.read_text()
    assert "| searches by text: throughput over clip-retrieval's | >= 5 | **5.5** | reached |" in page
    assert "| their p50 over clip-retrieval's, at the same rate | <= 0.5 | **0.25** | reached |" in page
    assert "| searches by photo: throughput over clip-retrieval's | >= 3 | **2** | **not reached** |" in page
    assert page.count("| >= 0.9 | **0.95** | reached |") == 2, "one round in which another size was better counts once"
    assert "For single photos, the service took 1.80 cores, and the client 0.10." in page
    assert "| p50 beyond encoder and index | <= 2 ms | **1.75 ms** | reached |" in page
    assert "| 10x overload: p99 of refusals | <= 20 ms | **9 ms** | reached |" in page
    assert page.count("reached |") + page.count("reached** |") == len(GOALS)
    assert (tmp_path / "service" / "text.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_of_some_parts_says_nothing_of_others(tmp_path: Path) -> None:
    write_page(tmp_path / "service.md", {"cached": {"machine": "Z80", "num_keys": 10, **FOUND["cached"]}})
    page = (tmp_path / "service.md").read_text()
    assert "at 1,000/s" in page
    assert "clip-retrieval's" not in page


def test_queries_of_a_batch_count_only_where_they_are_answered() -> None:
    bodies = [b'{"answers": [{"hits": []}, {"error": {}}, {"error": {}}]}', b'{"answers": [{"hits": [{}]}]}']
    assert share_answered(bodies) == 0.5
    assert share_answered([]) == 0


def test_memory_that_grows_is_seen() -> None:
    assert growth({"memory_bytes": [100, 100, 150, 200]}) == 2
