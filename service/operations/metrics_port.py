"""A port of its own for metrics, apart from what the service serves, and from who may ask that."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socket import socket
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from anykey.service.logs import LogEvent

if TYPE_CHECKING:
    from anykey.service.operations.collecting import MetricsCollector

ANSWER_S = 10.0  # longest time for metrics, and for a request to come
METHODS = ("GET", "HEAD")

logger = logging.getLogger(__name__)


class _Handler(WSGIRequestHandler):
    timeout = ANSWER_S

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests for metrics are not worth a line each."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: whoever asked has gone, or was too slow."""


@contextmanager
def metrics_port(metrics: "MetricsCollector", loop: asyncio.AbstractEventLoop, listener: socket) -> Iterator[None]:
    """Serves `/metrics` and `/metrics-summary` on a port, in threads of its own, for the length of the block.

    Args:
        metrics: The service's.
        loop: Its event loop.
        listener: Listens on the port; closed at the end.
    """
    answers: dict[str, Callable[[str], Any]] = {"/metrics": metrics.exposition, "/metrics-summary": metrics.summary}

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        told = answers.get(environ["PATH_INFO"])
        if told is None or environ["REQUEST_METHOD"] not in METHODS:
            start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"expected GET /metrics or GET /metrics-summary\n"]
        try:
            asked = asyncio.run_coroutine_threadsafe(told(environ.get("HTTP_ACCEPT", "")), loop)
            content, media_type = asked.result(ANSWER_S)
        except (TimeoutError, RuntimeError):  # the loop hangs, or is over
            start("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"the metrics could not be read in time\n"]
        start("200 OK", [("Content-Type", media_type), ("Content-Length", str(len(content)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else content]

    host, port = listener.getsockname()[:2]
    server = _Server((host, port), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_name, server.server_port = host, port  # which binding an address would have noted
    server.setup_environ()
    server.set_app(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
    thread.start()
    logger.info(
        "metrics on %s port %s", host, port, extra={"event": LogEvent.METRICS_LISTENING, "host": host, "port": port}
    )
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
