"""A real HTTP server that speaks the service's wire format with answers a test chooses."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Hits = list[tuple[str, float, str]]  # key, score, modality
VERSION, FINGERPRINT = "7", "sha256:feed"


class FakeService:
    """What the server answers.

    Attributes:
        answer: Body of POST /search to hits, best first.
        pools: Pool sizes for GET /info.
        num_keys: Size of the whole corpus.
        version: Index version of an answer.
        info_version: Index version for GET /info.
        turned_away: How many further searches are refused with 429.
        failures: Query text to (status, body) for searches that fail for good.
        cached: Whether answers say that the query's vector was known.
        before: Called with a search's body before it is answered: may wait, or raise `ConnectionAbortedError`, which
            ends the connection.
        stop: Closes the server's port, while it is serving.
        bodies: Every search body that arrived.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any]], Hits], pools: dict[str, int], num_keys: int) -> None:
        self.answer, self.pools, self.num_keys = answer, pools, num_keys
        self.turned_away = 0
        self.ready_after = 0
        self.failures: dict[str, tuple[int, Any]] = {}
        self.version: str | None = VERSION
        self.info_version: str | None = VERSION
        self.before: Callable[[Mapping[str, Any]], None] = lambda body: None
        self.cached = False
        self.bodies: list[dict[str, Any]] = []
        self.stop: Callable[[], None] = lambda: None
        self.url = ""
        self._lock = threading.Lock()

    def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of a GET."""
        if path == "/readyz":
            with self._lock:
                self.ready_after -= 1
                waiting = self.ready_after >= 0
            return (503, _error("not_ready", "loading"), {}) if waiting else (200, {"status": "ready"}, {})
        index = {
            "version": self.info_version,
            "num_keys": self.num_keys,
            "modalities": {"text": 1},
            "pools": self.pools,
        }
        model = {"name": "fake", "fingerprint": FINGERPRINT, "width": 8, "fusion": "raw"}
        return 200, {"name": "fake", "index": index, "model": model, "limits": {"max_k": 100}}, {}

    def post(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of POST /search."""
        with self._lock:
            self.bodies.append(body)
            self.turned_away -= 1
            if self.turned_away >= 0:
                return 429, _error("overloaded", "no place in the queue"), {"Retry-After": "0"}
        self.before(body)
        if body.get("text") in self.failures:
            return *self.failures[body["text"]], {}
        hits = [
            {"key": key, "score": score, "rank": rank, "modality": modality, "payload": {}}
            for rank, (key, score, modality) in enumerate(self.answer(body)[: body.get("k", 10)], start=1)
        ]
        timings = {"encode": 2.0, "search": 1.0, "total": 3.0}
        answer = {"hits": hits, "query_modality": "text", "cached": self.cached, "index_version": self.version}
        return 200, {**answer, "model_fingerprint": FINGERPRINT, "timings_ms": timings}, {}


@contextmanager
def serving(service: FakeService) -> Iterator[FakeService]:
    """Serves on a free port of 127.0.0.1 until the block ends; `service.url` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(*service.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                self._send(*service.post(body))
            except ConnectionError:  # also one that the client ended
                self.close_connection = True

        def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data)), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 512  # connections that come at once

    def stop() -> None:
        server.shutdown()
        server.socket.close()

    with Server(("127.0.0.1", 0), Handler) as server:
        service.stop = stop
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, "request_id": "1"}}
