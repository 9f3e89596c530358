"""Protects traces: what a receiver is sent of requests and batches, how they belong together, and what is not in it."""

import ast
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from anykey.client import Client
from anykey.index.faiss_index import FaissIndex
from anykey.service.errors import StartupError
from anykey.service.logs import JsonFormatter
from anykey.service.operations import traces
from anykey.service.operations.records import Trace
from anykey.service.operations.traces import Tracer, are_wanted
from tests.fakes import FakeEncoder
from tests.guards.test_layering import imported_names
from tests.serving import GatedEncoder, make_settings, serving, until

SECRET = "zebracrossing"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@contextmanager
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """A collector of traces: its address, and the spans that it was sent."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


@pytest.fixture(scope="module")
def sent(wire_index: FaissIndex) -> list[Any]:
    """The spans of a traced search, of two that share a batch, and of an error."""
    encoder = GatedEncoder()
    with receiver() as (url, spans):
        with serving(encoder, wire_index, traces_url=url) as client:
            answer = client.post("/search", json={"text": SECRET}, headers={"traceparent": TRACEPARENT})
            assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
            assert answer.headers["traceparent"].endswith("-01")
            assert PARENT not in answer.headers["traceparent"]
            own = client.post("/search", json={"text": f"{SECRET} 2", "k": -1}).headers["traceparent"]
            assert TRACE not in own
            encoder.wait_until_entered()
            encoder.gate.clear()
            asking = [
                threading.Thread(target=client.post, args=("/search",), kwargs={"json": {"text": f"{SECRET} {number}"}})
                for number in range(3, 6)
            ]
            asking[0].start()
            encoder.wait_until_entered()
            for one in asking[1:]:
                one.start()
            until(lambda: client.get("/info").json()["counters"]["batcher"]["queued"] == 2, "two wait")
            encoder.gate.set()
            for one in asking:
                one.join()
        until(lambda: bool(spans), "spans came")
    return spans


def of(spans: list[Any], name: str) -> list[Any]:
    return [span for span in spans if span.name == name]


def test_a_request_goes_on_with_the_trace_that_it_came_with(sent: list[Any]) -> None:
    (request,) = [span for span in of(sent, "POST /search") if span.trace_id.hex() == TRACE]
    assert request.parent_span_id.hex() == PARENT
    children = [span for span in sent if span.parent_span_id == request.span_id]
    assert {span.name for span in children} == {"read", "queue", "encode", "search", "write", "decode"}
    for child in children:
        assert child.trace_id == request.trace_id
        assert request.start_time_unix_nano <= child.start_time_unix_nano + 10_000_000
        assert child.start_time_unix_nano <= child.end_time_unix_nano <= request.end_time_unix_nano + 10_000_000
    facts = attributes(request)
    assert (facts["http.route"], facts["http.response.status_code"], facts["anykey.index"]) == (
        "/search",
        200,
        "default",
    )
    (search,) = of(children, "search")
    assert attributes(search)["anykey.search.structure"] == "exact"


def test_a_batch_is_linked_with_the_requests_that_share_it(sent: list[Any]) -> None:
    (batch,) = [span for span in of(sent, "batch") if attributes(span)["anykey.batch.items"] == 2]
    requests = {span.span_id: span for span in of(sent, "POST /search")}
    assert len(batch.links) == 2
    for link in batch.links:
        request = requests[link.span_id]
        assert request.trace_id == link.trace_id
        (encode,) = [span for span in of(sent, "encode") if span.parent_span_id == request.span_id]
        assert [one.span_id for one in encode.links] == [batch.span_id]


def test_what_went_wrong_is_told(sent: list[Any]) -> None:
    (failed,) = [span for span in of(sent, "POST /search") if attributes(span).get("error.type")]
    assert attributes(failed)["error.type"] == "invalid_request"
    assert attributes(failed)["http.response.status_code"] == 400


def test_nothing_of_a_user_is_sent(sent: list[Any]) -> None:
    assert SECRET not in "".join(map(str, sent))
    assert "127.0.0.1" not in "".join(map(str, sent))


def test_log_lines_carry_the_trace(wire_index: FaissIndex, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(FakeEncoder(), wire_index) as client:
        assert client.get("/info", headers={"traceparent": TRACEPARENT}).headers["traceparent"][3:35] == TRACE
        assert "traceparent" not in client.get("/info").headers
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [line.get("trace_id") for line in lines if line.get("route") == "/info"] == [TRACE, None]


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACEPARENT.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{TRACEPARENT}-more",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_what_is_no_traceparent_is_left_alone(header: str) -> None:
    assert Trace.read(header.encode()) is None


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known() -> None:
    trace = Trace.read(f"01-{TRACE}-{PARENT}-01-more".encode())
    assert trace is not None
    assert (trace.trace, trace.parent_id) == (TRACE, int(PARENT, 16))


def test_they_are_wanted_where_somebody_says_where_they_go() -> None:
    assert are_wanted("http://collector:4318", {})
    assert are_wanted(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert not are_wanted(None, {})
    assert not are_wanted("http://collector:4318", {"OTEL_SDK_DISABLED": "true"})


def test_a_receiver_that_is_away_holds_nobody_up(wire_index: FaissIndex) -> None:
    with serving(FakeEncoder(), wire_index, traces_url="http://127.0.0.1:9") as client:
        assert client.post("/search", json={"text": "a page"}).status_code == 200


def test_nothing_of_the_library_is_loaded_without_them() -> None:
    """FastAPI loads it where it finds it; our modules name it within functions alone."""
    statements = ast.parse(Path(traces.__file__).read_text(encoding="utf-8")).body
    loaded = [statement for statement in statements if isinstance(statement, ast.Import | ast.ImportFrom)]
    names = [name for statement in loaded for name in imported_names(statement)]
    assert "logging" in names
    assert not [name for name in names if name.startswith("opentelemetry")]


def test_a_wrong_variable_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-4")
    with pytest.raises(StartupError):
        Tracer("http://127.0.0.1:9")
    assert make_settings(traces_url="https://collector").traces_url == "https://collector"


def test_our_client_goes_on_with_the_trace_of_its_program(wire_index: FaissIndex) -> None:
    with receiver() as (url, spans):
        with serving(FakeEncoder(), wire_index, traces_url=url) as client, Client(str(client.base_url)) as ours:
            tracer = TracerProvider().get_tracer("program")
            with tracer.start_as_current_span("program") as span:
                ours.search(text="a page")
            theirs = span.get_span_context()
        until(lambda: bool(of(spans, "POST /search")), "the span came")
    (request,) = of(spans, "POST /search")
    assert int.from_bytes(request.trace_id, "big") == theirs.trace_id
    assert int.from_bytes(request.parent_span_id, "big") == theirs.span_id
