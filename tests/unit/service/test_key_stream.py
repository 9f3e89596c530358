"""Protects streams of keys: an outcome for each line while others arrive, bounded memory, and an end that is told."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.keys.stream import MAX_AHEAD, Lines
from tests.service_inputs import as_base64, png
from tests.serving import WAIT_S, GatedEncoder, build_real_index, serving, stored, until

NDJSON = {"Content-Type": "application/x-ndjson"}
MAX_BODY_BYTES = 100_000


@pytest.fixture(scope="module")
def encoder() -> GatedEncoder:
    return GatedEncoder()


@pytest.fixture(scope="module")
def whole(encoder: GatedEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    keys = [stored("kept", Item(text="a key of the build"))]
    directory = build_real_index(tmp_path_factory.mktemp("stream"), encoder, keys)
    with (
        FaissIndex.open(directory) as index,
        serving(encoder, index, writable=True, max_body_bytes=MAX_BODY_BYTES, body_deadline_ms=2000) as client,
    ):
        yield client


@pytest.fixture
def client(whole: httpx.Client, encoder: GatedEncoder) -> Iterator[httpx.Client]:
    yield whole
    encoder.gate.set()
    until(lambda: whole.get("/info").json()["counters"]["batcher"]["later_places_taken"] == 0, "the queue is empty")
    whole.post("/keys/delete", json={"exclude": ["kept"]}).raise_for_status()


def put(client: httpx.Client, lines: list[Any], parameters: str = "", **headers: str) -> list[dict[str, Any]]:
    body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    response = client.put(f"/keys{parameters}", content=body, headers={**NDJSON, **headers})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def num_keys(client: httpx.Client) -> int:
    return int(client.post("/keys/count", json={}).json()["num_keys"])


def test_each_line_has_its_outcome_in_order_and_a_summary_ends_them(client: httpx.Client) -> None:
    lines: list[Any] = [{"key": f"k{n}", "text": f"text {n}"} for n in range(700)]
    lines[3] = {"key": "k3", "image": as_base64(b"no image")}
    lines[5] = b"{no json"
    lines[7] = b"  "
    lines[11] = {"key": "long", "text": "x" * MAX_BODY_BYTES}
    lines[13] = {"key": "with image", "image": as_base64(png((1, 2, 3)))}
    *outcomes, summary = put(client, lines)
    assert [outcome["line"] for outcome in outcomes] == [n for n in range(1, 701) if n != 8]
    failed = {outcome["line"]: outcome["error"]["type"] for outcome in outcomes if outcome["error"]}
    assert failed == {4: "undecodable_image", 6: "invalid_request", 12: "item_too_large"}
    assert [outcome["key"] for outcome in outcomes][3:6] == ["k3", "k4", None]
    numbers = [outcome["seq"] for outcome in outcomes if outcome["seq"] is not None]
    assert numbers == sorted(numbers)
    assert summary == {
        "done": True,
        "num_lines": 699,
        "num_stored": 696,
        "num_failed": 3,
        "seq": numbers[-1],
        "error": None,
    }
    assert num_keys(client) == 697
    assert client.get("/keys/k699").json()["payload"]["text"] == "text 699"


def test_a_later_line_of_the_same_key_counts(client: httpx.Client) -> None:
    put(client, [{"key": "x", "text": f"text {n}"} for n in range(50)])
    assert client.get("/keys/x").json()["payload"]["text"] == "text 49"
    *outcomes, summary = put(client, [{"key": "y", "text": "a", "if_seq": 0}, {"key": "y", "text": "b", "if_seq": 0}])
    assert [outcome["status"] for outcome in outcomes] == ["stored", "failed"]
    assert outcomes[1]["error"]["type"] == "precondition_failed"
    assert (summary["num_stored"], summary["num_failed"]) == (1, 1)


def test_only_failures_are_told_where_that_is_asked_for(client: httpx.Client) -> None:
    lines = [{"key": f"k{n}", "text": "t"} for n in range(30)] + [b"[]"]
    answer = put(client, lines, "?outcomes=failed")
    assert [line["line"] for line in answer if "line" in line] == [31]
    progress = [line for line in answer if "line" not in line]
    assert [line["done"] for line in progress] == [False] * (len(progress) - 1) + [True]
    assert progress[-1]["num_stored"] == 30


@pytest.mark.parametrize("parts", [1, 3])
def test_a_stream_may_be_compressed(client: httpx.Client, parts: int) -> None:
    body = b"".join(
        gzip.compress(b"".join(b'{"key": "k%d-%d", "text": "t"}\n' % (part, n) for n in range(100)))
        for part in range(parts)
    )
    response = client.put("/keys", content=body, headers={**NDJSON, "Content-Encoding": "gzip"})
    assert json.loads(response.text.splitlines()[-1])["num_stored"] == 100 * parts


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"no gzip", "not what its Content-Encoding says"),
        (gzip.compress(b'{"key": "a", "text": "b"}\n' * 9)[:-9], "cut"),
    ],
    ids=["no gzip", "cut"],
)
def test_a_stream_that_breaks_off_says_why(client: httpx.Client, body: bytes, words: str) -> None:
    response = client.put("/keys", content=body, headers={**NDJSON, "Content-Encoding": "gzip"})
    summary = json.loads(response.text.splitlines()[-1])
    assert (summary["done"], summary["error"]["type"]) == (False, "invalid_request")
    assert words in summary["error"]["message"]


@pytest.mark.parametrize(
    ("parameters", "headers", "status"),
    [
        ("?outcomes=some", {}, 400),
        ("?atomic=true", {}, 400),
        ("", {"Idempotency-Key": "a"}, 400),
        ("", {"If-Match": '"1"'}, 400),
        ("", {"Content-Encoding": "deflate"}, 415),
        ("", {"Content-Type": "application/x-ndjson; charset=latin1"}, 415),
    ],
)
def test_what_a_stream_does_not_take_is_refused(
    client: httpx.Client, parameters: str, headers: dict[str, str], status: int
) -> None:
    response = client.put(f"/keys{parameters}", content=b"{}", headers={**NDJSON, **headers})
    assert response.status_code == status


class Sender:
    """The client's side of one stream, byte by byte."""

    def __init__(self, client: httpx.Client) -> None:
        host, port = client.base_url.host, client.base_url.port
        assert port is not None
        self.connection = socket.create_connection((host, port), timeout=WAIT_S)
        head = (
            "PUT /keys HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.connection.sendall(head.encode())
        self.received = b""

    def send(self, *lines: Any) -> None:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self.connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.connection.sendall(b"0\r\n\r\n")

    def read_until(self, expected: bytes) -> None:
        while expected not in self.received:
            piece = self.connection.recv(65536)
            assert piece, f"the connection was closed after {self.received[-300:]!r}"
            self.received += piece


@contextmanager
def sending(client: httpx.Client) -> Iterator[Sender]:
    sender = Sender(client)
    with sender.connection:
        yield sender


def test_outcomes_come_while_lines_are_still_to_be_sent(client: httpx.Client) -> None:
    with sending(client) as sender:
        for number in range(3):
            sender.send({"key": f"k{number}", "text": "t"})
            sender.read_until(b'"key":"k%d","status":"stored"' % number)
            assert client.get(f"/keys/k{number}").status_code == 200
        sender.end()
        sender.read_until(b'"done":true')


def test_a_client_that_goes_away_stops_its_stream(client: httpx.Client, encoder: GatedEncoder) -> None:
    before = num_keys(client)
    encoder.gate.clear()
    with sending(client) as sender:
        sender.send(*({"key": f"k{n}", "text": "t"} for n in range(200)))
        until(lambda: client.get("/info").json()["counters"]["batcher"]["later_queued"] > 30, "keys wait")
    for _ in range(5):  # the service has seen by then that the connection is closed
        client.get("/livez")
    encoder.gate.set()
    until(lambda: client.get("/info").json()["counters"]["batcher"]["later_places_taken"] == 0, "the queue is empty")
    assert num_keys(client) < before + 200


def test_a_client_that_was_answered_does_not_count_as_gone(client: httpx.Client) -> None:
    answered = 'anykey_requests_total{index="default",method="PUT",route="/keys",status="200"}'

    def num_answered() -> float:
        counts = (line.split()[1] for line in client.get("/metrics").text.splitlines() if line.startswith(answered))
        return float(next(counts, 0))

    before = num_answered()
    for body in (b'{"key": "a", "text": "b"}\n', b"[]\n", b'{"key": '):
        assert client.put("/keys", content=body, headers=NDJSON).status_code == 200
    until(lambda: num_answered() == before + 3, "they count as answered")


def test_no_more_is_read_than_the_model_takes(client: httpx.Client, encoder: GatedEncoder) -> None:
    encoder.gate.clear()
    with sending(client) as sender:
        sender.connection.settimeout(1.0)
        num_sent = 0
        with suppress(TimeoutError):
            while num_sent < 100_000:
                sender.send(*({"key": f"k{n}", "text": "t" * 1000} for n in range(num_sent, num_sent + 100)))
                num_sent += 100
        assert MAX_AHEAD // 10 < num_sent < 100_000  # what is more than is held lies in buffers of the system


def test_a_client_that_stops_sending_is_told_so(client: httpx.Client) -> None:
    with sending(client) as sender:
        sender.send({"key": "x", "text": "t"})
        sender.read_until(b'"error":{"type":"deadline_exceeded"')
        assert b'"key":"x","status":"stored"' in sender.received


def test_millions_of_blank_lines_take_no_time_of_others(client: httpx.Client) -> None:
    body = gzip.compress(b"\n" * 10_000_000 + b'{"key": "x", "text": "t"}\n' + b" \t\r\n" * 200_000, 1)
    started_s = time.process_time()
    answer = client.put("/keys", content=body, headers={**NDJSON, "content-encoding": "gzip"})
    assert time.process_time() - started_s < 2.0
    outcome, summary = map(json.loads, answer.text.splitlines())
    assert (outcome["line"], outcome["status"], summary["num_lines"]) == (10_000_001, "stored", 1)


def test_lines_are_split_alike_however_they_arrive() -> None:
    text = b"one\n\ntwo is too long\nthree\r\n" + b"x" * 50 + b"\nfour"
    expected = [(1, b"one"), (3, None), (4, b"three\r"), (5, None), (6, b"four")]
    for size in (1, 2, 3, 7, 100):
        lines = Lines(10)
        found = [line for start in range(0, len(text), size) for line in lines.feed(text[start : start + size])]
        assert [*found, *lines.finish()] == expected
