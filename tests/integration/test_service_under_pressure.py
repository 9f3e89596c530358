"""Overload, impatience and failure over HTTP: quick refusals, nothing hangs, and the service recovers."""

import gzip
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import IndexInfo
from anykey.service.app import create_app
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.logs import JsonFormatter
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import (
    WAIT_S,
    GatedEncoder,
    MemoryIndex,
    build_real_index,
    counters,
    make_settings,
    running,
    serving,
    stored,
    until,
)

KEYS = [stored("red", Item(images=(png(),))), stored("note", Item(text="a note"))]


@pytest.fixture
def encoder() -> Iterator[GatedEncoder]:
    encoder = GatedEncoder()
    yield encoder
    encoder.gate.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def make_index(encoder: GatedEncoder) -> MemoryIndex:
    index = MemoryIndex(encoder, KEYS)
    encoder.wait_until_entered()
    return index


def ask(client: httpx.Client, text: str) -> httpx.Response:
    return client.post("/search", json={"text": text})


def block(client: httpx.Client, pool: ThreadPoolExecutor, encoder: GatedEncoder) -> Future[httpx.Response]:
    """Occupies the encoder with one query until the gate is set."""
    encoder.gate.clear()
    future = pool.submit(ask, client, "blocker")
    encoder.wait_until_entered()
    return future


def test_a_full_queue_answers_429_with_retry_after_at_once(encoder: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    with serving(encoder, make_index(encoder), max_queue_items=2, retry_after_s=7) as client:
        accepted = [block(client, pool, encoder)]
        accepted += [pool.submit(ask, client, f"waiting {n}") for n in range(2)]
        until(lambda: counters(client, "batcher")["queued"] == 2, "both places are taken")
        refused = ask(client, "one too many")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        assert refused.json()["error"]["type"] == "overloaded"
        encoder.gate.set()
        assert [future.result().status_code for future in accepted] == [200] * 3
        assert ask(client, "now there is room").status_code == 200


def test_refusals_take_a_share_of_the_processors_however_fast_is_asked(
    encoder: GatedEncoder, pool: ThreadPoolExecutor
) -> None:
    body = b'{"text": "one too many"}'
    request = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    def ask_ever_again(url: httpx.URL) -> bytes:
        answers = b""
        with socket.create_connection((url.host, url.port or 0), timeout=WAIT_S) as connection:
            connection.sendall(150 * (request % (len(body), body)) + last)
            while more := connection.recv(2**16):
                answers += more
        return answers

    with serving(encoder, make_index(encoder), max_queue_items=1) as client:
        ask(client, "asked before")
        encoder.wait_until_entered()
        waiting = [block(client, pool, encoder), pool.submit(ask, client, "takes the only place")]
        until(lambda: counters(client, "batcher")["queued"] == 1, "the place is taken")
        began_s, cpu_s = time.monotonic(), time.process_time()
        impatient = [pool.submit(ask_ever_again, client.base_url) for _ in range(20)]
        assert ask(client, "asked before").json()["cached"] is True
        answers = [future.result() for future in impatient]
        cores = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
        encoder.gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
    assert [answer.count(b" 429 ") for answer in answers] == [150] * 20
    assert cores < 0.95, "a quarter to a half of a core is theirs, and the clients here take some"


def test_a_cached_query_is_answered_while_the_queue_is_full(encoder: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    with serving(encoder, make_index(encoder), max_queue_items=1) as client:
        ask(client, "asked before")
        encoder.wait_until_entered()
        block(client, pool, encoder)
        pool.submit(ask, client, "takes the only place")
        until(lambda: counters(client, "batcher")["queued"] == 1, "the place is taken")
        assert ask(client, "asked before").json()["cached"] is True
        encoder.gate.set()


def test_a_query_that_waits_too_long_is_answered_504_and_never_encoded(
    encoder: GatedEncoder, pool: ThreadPoolExecutor
) -> None:
    with serving(encoder, make_index(encoder), request_deadline_ms=4000) as client:
        blocked = block(client, pool, encoder)
        late = ask(client, "late")  # waits in the batcher well before its time is up, on a busy machine too
        assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline_exceeded")
        assert blocked.result().status_code == 504
        encoder.gate.set()
        until(lambda: 1 in map(counters(client, "batcher").get, ("dropped", "expired")), "the late query is dropped")
        assert ask(client, "in time").status_code == 200
    assert encoder.batches == [2, 1, 1], "the corpus, the blocker, the one in time"


def test_a_query_whose_client_left_is_dropped(
    encoder: GatedEncoder, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="anykey.service")
    with serving(encoder, make_index(encoder)) as client:
        blocked = block(client, pool, encoder)
        body = b'{"text": "impatient"}'
        head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
            connection.sendall(head % len(body) + body)
            until(lambda: counters(client, "batcher")["queued"] == 1, "the query waits")
        until(
            lambda: any(getattr(r, "error_type", "") == "client_gone" for r in caplog.records),
            "the server learns that the client left",
        )
        encoder.gate.set()
        until(lambda: counters(client, "batcher")["dropped"] == 1, "the query is dropped")
        assert blocked.result().status_code == 200


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
def test_bodies_that_take_too_much_together_are_refused_and_room_is_made_again(
    encoder: GatedEncoder, pool: ThreadPoolExecutor, encoding: str
) -> None:
    compressions: dict[str, Callable[[bytes], bytes]] = {
        "identity": bytes,
        "gzip": gzip.compress,
        "deflate": zlib.compress,
    }
    headers = {"content-type": "application/json", "content-encoding": encoding}

    def send(text: str) -> httpx.Response:
        body = json.dumps({"text": text, "exclude": [" " * 3_000]}).encode()
        return client.post("/search", content=compressions[encoding](body), headers=headers)

    with serving(encoder, make_index(encoder), max_body_bytes=5_000, max_bodies_bytes=5_000) as client:
        for text in ("the same", "another"):
            encoder.gate.clear()
            waiting = pool.submit(send, text)
            encoder.wait_until_entered()
            refused = send(text)
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
            assert "retry-after" in refused.headers
            encoder.gate.set()
            assert waiting.result().status_code == 200
        assert send("another").status_code == 200


def test_bodies_that_do_not_arrive_make_room_again(encoder: GatedEncoder) -> None:
    limits = {"max_body_bytes": 5_000, "max_bodies_bytes": 5_000, "body_deadline_ms": 1500}
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    with (
        serving(encoder, make_index(encoder), **limits) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=WAIT_S) as stalled,
    ):
        stalled.sendall(head + b" " * 4_990)
        until(lambda: ask(client, "a note").status_code == 429, "the body takes all the room")
        answer = stalled.recv(100_000)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"no whole body within 1500 ms" in answer
        assert ask(client, "a note").status_code == 200


@contextmanager
def occupied(threads: BoundedThreads, num_calls: int) -> Iterator[None]:
    """Keeps threads busy for the length of the block."""
    gate = threading.Event()
    calls = [threads.submit(gate.wait, WAIT_S) for _ in range(num_calls)]
    try:
        yield
    finally:
        gate.set()
        assert all(call.result(WAIT_S) for call in calls), "the test never opened the gate"


def post_padded(client: httpx.Client, text: str) -> httpx.Response:
    """A query that is too long to be parsed in the event loop."""
    padded = json.dumps({"text": text}).encode() + b" " * 2**18
    return client.post("/search", content=padded, headers={"Content-Type": "application/json"})


def test_a_body_that_waits_to_be_parsed_has_a_deadline_and_a_short_one_does_not_wait(encoder: GatedEncoder) -> None:
    settings = make_settings(decode_threads=1, request_deadline_ms=200)
    app = create_app(settings, encoder=encoder, index=make_index(encoder))
    with running(app) as client:
        assert ask(client, "known").status_code == 200
        with occupied(app.state.lifecycle.parts().body_threads, 1):
            short, behind = ask(client, "known"), post_padded(client, "known")
        assert (short.status_code, short.json()["cached"]) == (200, True)
        assert (behind.status_code, behind.json()["error"]["type"]) == (504, "deadline_exceeded")
        assert post_padded(client, "known").status_code == 200


def test_no_body_waits_for_images_that_are_decoded(encoder: GatedEncoder) -> None:
    app = create_app(make_settings(decode_threads=1), encoder=encoder, index=make_index(encoder))
    with running(app) as client:
        assert post_padded(client, "known").status_code == 200
        with occupied(app.state.lifecycle.parts().decode_threads, 3):
            assert post_padded(client, "known").json()["cached"] is True


class OneAtATime(GatedEncoder):
    """An encoder with a tokenizer that takes one text at a time, and a long one for as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = threading.Lock()
        self.has_long, self.is_over = threading.Event(), threading.Event()
        self.prepared_in: list[str] = []

    def prepare(self, item: Item, *options: Any) -> Any:
        """Waits for the tokenizer."""
        with self.tokenizer:
            self.prepared_in.append(threading.current_thread().name)
            if len(item.text or "") > 1000:
                self.has_long.set()
                assert self.is_over.wait(WAIT_S), "the test never ended the long text"
            return super().prepare(item, *options)


def test_short_texts_need_no_thread_and_long_ones_hold_up_nobody_else(pool: ThreadPoolExecutor) -> None:
    encoder = OneAtATime()
    with serving(encoder, make_index(encoder)) as client:
        encoder.prepared_in.clear()
        assert ask(client, "short").status_code == 200
        assert not encoder.prepared_in[0].startswith("decode")
        long = pool.submit(ask, client, "long " * 500)
        assert encoder.has_long.wait(WAIT_S)
        behind = pool.submit(ask, client, "behind it")
        until(lambda: counters(client, "batcher")["places_taken"] == 2, "it waits for the tokenizer, not the loop")
        assert ask(client, "short").json()["cached"] is True
        encoder.is_over.set()
        assert [one.result().status_code for one in (long, behind)] == [200] * 2
        assert all(name.startswith("decode") for name in encoder.prepared_in[1:])


def test_short_texts_do_not_wait_in_the_event_loop_for_keys_that_are_stored(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    encoder = OneAtATime()
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, KEYS)) as index,
        serving(encoder, index, writable=True) as client,
    ):
        long = pool.submit(client.put, "/keys/long", json={"text": "long " * 500})
        assert encoder.has_long.wait(WAIT_S)
        behind = pool.submit(ask, client, "behind it")
        until(lambda: counters(client, "batcher")["places_taken"] == 1, "it waits for the tokenizer, not the loop")
        encoder.is_over.set()
        assert [one.result().status_code for one in (long, behind)] == [200] * 2


def test_a_long_body_is_not_even_read_where_neither_the_encoder_nor_a_thread_has_room(
    encoder: GatedEncoder, pool: ThreadPoolExecutor
) -> None:
    settings = make_settings(decode_threads=1, max_queue_items=2)
    app = create_app(settings, encoder=encoder, index=make_index(encoder))
    with running(app) as client:
        assert ask(client, "known").status_code == 200
        encoder.wait_until_entered()
        accepted = [block(client, pool, encoder)]
        accepted += [pool.submit(ask, client, f"waiting {n}") for n in range(2)]
        until(lambda: counters(client, "batcher")["queued"] == 2, "both places are taken")
        assert post_padded(client, "known").json()["cached"] is True, "a thread sees that it needs no encoder"
        assert post_padded(client, "new").status_code == 429
        with occupied(app.state.lifecycle.parts().body_threads, 2):
            connection = HTTPConnection(client.base_url.host, client.base_url.port, timeout=WAIT_S)
            connection.putrequest("POST", "/search")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", "50000")
            connection.endheaders()
            refused = connection.getresponse()
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            refused.read()
            assert ask(client, "known").json()["cached"] is True, "a short one is looked into all the same"
            connection.send(b" " * 50_000)  # which is passed over
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
            connection.close()
        encoder.gate.set()
        assert [future.result().status_code for future in accepted] == [200] * 3


class SlowAtFirst(GatedEncoder):
    """An encoder that takes its time until it is told not to."""

    seconds = 0.1

    def encode_prepared(self, prepared: Sequence[Any]) -> Any:
        """Sleeps, then encodes."""
        time.sleep(self.seconds)
        return super().encode_prepared(prepared)


def test_what_would_be_late_is_refused_at_once_though_there_are_places(pool: ThreadPoolExecutor) -> None:
    encoder = SlowAtFirst()
    with serving(encoder, make_index(encoder), request_deadline_ms=20_000) as client:
        for number in range(6):  # from which it is seen that a token takes a tenth of a second
            assert ask(client, f"{number}").status_code == 200
            encoder.wait_until_entered()
        encoder.seconds = 0.0
        waiting = [block(client, pool, encoder)]
        while not (latest := wait_or_end(client, pool, len(waiting))).done():  # each is six seconds' work, or more
            waiting.append(latest)
        refused = latest.result()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "too long to be answered in time" in refused.json()["error"]["message"]
        assert 1 < len(waiting) < 5
        counted = counters(client, "batcher")
        assert (counted["hopeless"], counted["rejected"]) == (1, 0)
        assert ask(client, "0").json()["cached"] is True
        encoder.gate.set()
        assert [each.result().status_code for each in waiting] == [200] * len(waiting)
        assert ask(client, "afterwards").status_code == 200


def wait_or_end(client: httpx.Client, pool: ThreadPoolExecutor, number: int) -> Future[httpx.Response]:
    """A query of sixty words that waits as the so many-eth, or has been answered."""
    asked = pool.submit(ask, client, f"{number} " * 60)
    until(lambda: asked.done() or counters(client, "batcher")["queued"] == number, "it waits, or is refused")
    return asked


def test_a_query_that_many_send_at_once_is_encoded_once(encoder: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    query = {"text": "the same", "image": as_base64(png())}
    with serving(encoder, make_index(encoder), max_batch_items=1) as client:
        blocked = block(client, pool, encoder)
        answers = [pool.submit(client.post, "/search", json=query) for _ in range(30)]
        until(lambda: all(answer.running() for answer in answers), "all are on their way")
        until(lambda: counters(client, "batcher")["queued"] == 1, "one of them is decoded and waits")
        encoder.gate.set()
        assert blocked.result().status_code == 200
        answered = [answer.result().json() for answer in answers]
        assert all(answer["hits"] == answered[0]["hits"] for answer in answered)
        assert counters(client, "batcher")["encoded"] == 2, "the first, and one for the thirty"
        for answer in answered:
            *stages, total = answer["timings_ms"].values()
            assert min(stages) >= 0
            assert sum(stages) <= total + 0.01
        assert client.post("/search", json=query).json()["cached"]


def test_a_shared_failure_is_told_to_those_who_waited_and_to_nobody_else(
    encoder: GatedEncoder, pool: ThreadPoolExecutor
) -> None:
    with serving(encoder, make_index(encoder), max_batch_items=1) as client:
        blocked = block(client, pool, encoder)
        encoder.failures = [None, *[RuntimeError("out of memory")] * 2]  # and again when it is tried once more
        answers = [pool.submit(ask, client, "the same") for _ in range(10)]
        until(lambda: counters(client, "batcher")["queued"] == 1, "one of them waits")
        encoder.gate.set()
        statuses = {answer.result().status_code for answer in answers}
        assert blocked.result().status_code == 200
        assert statuses <= {200, 500}
        assert 500 in statuses
        assert counters(client, "batcher")["failed"] == 1
        assert ask(client, "the same").status_code == 200


def test_a_failing_batch_is_500_for_all_in_it_and_the_next_works(
    encoder: GatedEncoder, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(encoder, make_index(encoder)) as client:
        encoder.failures = [None, *[RuntimeError("device lost")] * 5]  # of the batch, its halves, and theirs
        blocked = block(client, pool, encoder)
        unlucky = [pool.submit(ask, client, f"unlucky {n}") for n in range(3)]
        until(lambda: counters(client, "batcher")["queued"] == 3, "all wait")
        encoder.gate.set()
        for response in (future.result() for future in unlucky):
            assert response.status_code == 500
            assert response.json()["error"]["type"] == "internal"
            assert "device lost" not in response.text
        assert blocked.result().status_code == 200
        assert ask(client, "afterwards").status_code == 200
    assert "device lost" in caplog.text, "the log keeps the traceback"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_makes_the_service_unready_and_hangs_nobody(encoder: GatedEncoder) -> None:
    with serving(encoder, make_index(encoder), retry_after_s=3) as client:
        assert client.get("/readyz").status_code == 200
        encoder.failures = [SystemExit()]
        assert ask(client, "fatal").status_code == 503
        for response in (client.get("/readyz"), ask(client, "after")):
            assert (response.status_code, response.headers["retry-after"]) == (503, "3")
            assert "worker has died" in response.json()["error"]["message"]
        assert client.get("/livez").status_code == 200


def test_an_unforeseen_failure_is_500_with_a_request_id_and_a_traceback_in_the_log(
    encoder: GatedEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenIndex(MemoryIndex):
        def search(self, *args: Any, **options: Any) -> Any:
            raise KeyError("a bug of ours")

    with serving(encoder, BrokenIndex(encoder, KEYS)) as client:
        response = client.post("/search", json={"text": "a"}, headers={"x-request-id": "trace-me"})
        assert response.status_code == 500
        error = response.json()["error"]
        assert (error["type"], error["request_id"]) == ("internal", "trace-me")
        assert "a bug of ours" not in response.text
        assert client.get("/livez").status_code == 200
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "request_failed"]
    line = json.loads(JsonFormatter().format(record))
    assert line["request_id"] == "trace-me"
    assert "a bug of ours" in line["traceback"]


class SlowToCount(MemoryIndex):
    """An index that waits in `info` until the test lets it go."""

    gate = threading.Event()

    def info(self) -> IndexInfo:
        assert self.gate.wait(WAIT_S), "the test never opened the gate"
        return super().info()


def test_keys_that_take_too_long_to_count_hold_up_nothing_else(encoder: GatedEncoder) -> None:
    with serving(encoder, SlowToCount(encoder, KEYS), request_deadline_ms=2000) as client:
        refused = client.get("/info")
        assert (refused.status_code, refused.json()["error"]["type"]) == (504, "deadline_exceeded")
        assert ask(client, "a note").status_code == 200
        assert client.get("/readyz").status_code == 200
        SlowToCount.gate.set()
        until(lambda: client.get("/info").status_code == 200, "the keys have been counted")


def test_log_lines_are_json_and_hold_nothing_a_user_sent(
    encoder: GatedEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="anykey.service")
    secret = "confidential"
    with serving(encoder, MemoryIndex(encoder, KEYS)) as client:
        client.post("/search", json={"text": f"{secret} plans", "exclude": [secret]})
        client.post("/search", json={"text": "a", "pool": secret})
        client.post("/search", json={"text": "a", secret: 1})
        client.post("/search", json={"image": as_base64(secret.encode())})
        client.get(f"/keys/{secret}?{secret}=1")
        client.get(f"/keys/{secret}")
        client.get(f"/{secret}", headers={"user-agent": secret})
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("anykey.service")]
    assert secret not in "".join(lines)
    requests = [line for line in map(json.loads, lines) if line.get("event") == "request"]
    assert [line["status"] for line in requests] == [200, 400, 400, 422, 400, 404, 404]
    first = requests[0]
    assert (first["method"], first["route"], first["num_hits"], first["query_modality"]) == (
        "POST",
        "/search",
        2,
        "text",
    )
    assert first["timings_ms"]["total"] >= 0
    assert [line.get("error_type") for line in requests[1:3]] == ["invalid_request", "invalid_request"]
    assert requests[4]["route"] == "/keys/{key:path}"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"fingerprint": "sha256:other"}, ["sha256:other", FakeEncoder().fingerprint]),
        ({"width": 16}, ["16", "8"]),
        ({"fusion": "unit"}, ["unit", "raw"]),
    ],
    ids=["fingerprint", "width", "fusion"],
)
def test_an_encoder_and_an_index_that_do_not_match_never_become_ready(
    facts: dict[str, Any], expected: list[str]
) -> None:
    encoder = FakeEncoder()
    with serving(encoder, MemoryIndex(encoder, KEYS, **facts)) as client:
        for response in (client.get("/readyz"), ask(client, "a"), client.get("/info"), client.get("/keys/red")):
            assert response.status_code == 503
            assert "retry-after" in response.headers
            assert response.json()["error"]["type"] == "not_ready"
            assert all(value in response.json()["error"]["message"] for value in expected)
        assert client.get("/livez").status_code == 200


def test_an_image_of_another_type_is_never_sent() -> None:
    encoder = FakeEncoder()
    index = MemoryIndex(encoder, KEYS)
    index.replace_image("red", b"<script>alert(1)</script>")
    with serving(encoder, index) as client:
        response = client.get("/keys/red/image")
        assert response.status_code == 404
        assert "script" not in response.text


def test_chosen_origins_may_call_from_a_browser() -> None:
    encoder = FakeEncoder()
    with serving(encoder, MemoryIndex(encoder, KEYS), cors_origins=["http://shop.example"]) as client:
        allowed = client.get("/livez", headers={"origin": "http://shop.example"})
        assert allowed.headers["access-control-allow-origin"] == "http://shop.example"
        refused = client.get("/livez", headers={"origin": "http://else.example"})
        assert "access-control-allow-origin" not in refused.headers
