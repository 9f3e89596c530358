"""A real HTTP server that embeds as OpenAI, vLLM, infinity and Cohere do, with vectors that anyone can compute."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.http_handlers import handled

WIDTH = 16
Said = tuple[str | None, tuple[bytes, ...]]  # an item as the server understood it


def vector_of(said: Said) -> NDArray[np.float64]:
    """A vector that has nothing to do with any other item's, and any length."""
    text, images = said
    digest = hashlib.sha256(repr((text, [hashlib.sha256(image).hexdigest() for image in images])).encode())
    return np.random.default_rng(int.from_bytes(digest.digest()[:8], "big")).normal(size=WIDTH) * 3


class Answering(Protocol):
    """What can be served."""

    url: str

    def post(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, Any]:
        """Status and body of a POST."""


Server = TypeVar("Server", bound=Answering)


class EmbeddingServer:
    """What the server answers.

    Attributes:
        requests: Path, body and key of every request that arrived.
        said: Every item that was embedded.
        turned_away: How many further requests are refused with 429.
        spoil: Changes the vectors of an answer.
        fails_from: From which request on all are refused with 500; None for never.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.said: list[Said] = []
        self.turned_away = 0
        self.spoil: Callable[[Sequence[Said], list[Any]], list[Any]] = lambda said, vectors: vectors
        self.fails_from: int | None = None
        self.url = ""
        self._lock = threading.Lock()

    def post(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, Any]:
        """Status and body of a POST."""
        with self._lock:
            self.requests.append((path, body, key))
            self.turned_away -= 1
            if self.turned_away >= 0:
                return 429, {"error": {"message": "too many", "type": "rate_limit"}}
            if self.fails_from is not None and len(self.requests) > self.fails_from:
                return 500, {"error": {"message": "boom", "type": "internal"}}
        read = {"/v1/embeddings": openai_items, "/embeddings": openai_items, "/v2/embed": cohere_items}
        said = read[path](body)
        vectors = self.spoil(said, [vector_of(each).tolist() for each in said])
        with self._lock:
            self.said += said
        if path == "/v2/embed":
            return 200, {"id": "1", "embeddings": {"float": vectors}, "response_type": "embeddings_by_type"}
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return 200, {"object": "list", "model": body["model"], "data": data[::-1], "usage": {"total_tokens": 1}}


def openai_items(body: Mapping[str, Any]) -> list[Said]:
    assert body["model"] == "m"
    assert body["encoding_format"] == "float"
    if "messages" in body:
        (message,) = body["messages"]
        assert message["role"] == "user"
        return [_content(message["content"])]
    if body.get("modality") == "image":
        return [(None, (_data(uri),)) for uri in body["input"]]
    return [(text, ()) for text in body["input"]]


def cohere_items(body: Mapping[str, Any]) -> list[Said]:
    assert body["model"] == "m"
    assert body["input_type"] in ("search_query", "search_document")
    assert body["embedding_types"] == ["float"]
    assert ("texts" in body) != ("inputs" in body)
    return (
        [(text, ()) for text in body["texts"]] if "texts" in body else [_content(i["content"]) for i in body["inputs"]]
    )


def _content(parts: Sequence[Mapping[str, Any]]) -> Said:
    texts = [part["text"] for part in parts if part["type"] == "text"]
    images = tuple(_data(part["image_url"]["url"]) for part in parts if part["type"] == "image_url")
    assert len(texts) + len(images) == len(parts)
    return (texts[0] if texts else None), images


def _data(uri: str) -> bytes:
    head, data = uri.split(";base64,")
    assert head.startswith("data:image/")
    return base64.b64decode(data)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Serves on a free port of 127.0.0.1 until the block ends; `server.url` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = server.post(
                self.path, body, self.headers.get("Authorization") or self.headers.get("api-key")
            )
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), "Retry-After": "0", "Connection": "close"}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # a run that fails gives up the others
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with handled(Handler) as server.url:
        yield server
