"""Protects images by their addresses: which hosts, which addresses at every step, and bounds on what comes."""

import asyncio
import contextlib
import ipaddress
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.errors import ServiceError
from anykey.service.queries.image_addresses import encoded_image
from anykey.service.requests.image_hosts import AllowedHost, is_public
from anykey.service.requests.image_urls import ImageFetcher
from tests.fakes import FakeEncoder
from tests.http_handlers import handled
from tests.service_inputs import as_base64, png
from tests.serving import build_real_index, serving, stored

RED = png((250, 0, 0))
MAX_BYTES = 200_000
asked: list[str] = []


class Images(BaseHTTPRequestHandler):
    """Serves images, and what only pretends to be some."""

    def do_GET(self) -> None:
        asked.append(self.path)
        path = urlsplit(self.path).path
        if path == "/slow":
            time.sleep(1)
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        body = {"/large": b"x" * (MAX_BYTES + 1), "/heavy": RED.ljust(MAX_BYTES * 3 // 4, b"x")}.get(path, RED)
        self.send_response(404 if path == "/absent" else 200)
        self.send_header("content-type", "text/html" if path == "/page" else "image/png")
        if path != "/large":  # whose end is the end of the connection
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"" if path == "/empty" else body)

    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@pytest.fixture(scope="module")
def images() -> Iterator[str]:
    with handled(Images) as address:
        yield address


@pytest.fixture(scope="module")
def fetching(images: str, wire_encoder: FakeEncoder, wire_index: FaissIndex) -> Iterator[httpx.Client]:
    with serving(
        wire_encoder,
        wire_index,
        image_urls=[images],
        image_url_networks=["127.0.0.1/32"],
        image_url_timeout_ms=500,
        max_image_bytes=MAX_BYTES,
        max_image_urls=3,
    ) as client:
        yield client


def test_an_address_is_as_good_as_the_image(fetching: httpx.Client, images: str) -> None:
    url = f"{images}/red.png?size=2"
    plain = fetching.post("/search", json={"image": as_base64(RED), "k": 3}).json()["hits"]
    for body in ({"image": url}, {"parts": [{"image": url}]}, {"image": f"{images}/to//red.png"}):
        answer = fetching.post("/search", json={**body, "k": 3})
        assert answer.status_code == 200, answer.text
        assert [hit["key"] for hit in answer.json()["hits"]] == [hit["key"] for hit in plain]
    asked.clear()
    again = [fetching.post("/search", json={"image": url, "k": 3}).json()["hits"] for _ in range(2)]
    assert [[hit["key"] for hit in hits] for hits in again] == [[hit["key"] for hit in plain]] * 2
    assert len(asked) == 2, "what is at an address may change, so that it is fetched each time"
    embedded = fetching.post("/embed", json={"items": [{"image": as_base64(RED)}, {"image": url}]}).json()["items"]
    assert embedded[0]["vector"] == embedded[1]["vector"]
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    assert fetching.post("/v1/embeddings", json={"messages": chat}).status_code == 200
    assert fetching.post("/knn-service", json={"image_url": url, "modality": "image"}).status_code == 200
    batch = fetching.post("/search/batch", json={"queries": [{"image": url}, {"image": f"{images}/absent"}]}).json()
    assert [one.get("error", {}) and one["error"]["type"] for one in batch["answers"]] in (
        [{}, "image_not_reached"],
        [None, "image_not_reached"],
    )


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/absent", 502, "answered 404"),
        ("/page", 422, "no image"),
        ("/large", 413, "more than 200000 bytes"),
        ("/empty", 502, "cannot be reached, or fails"),
        ("/slow", 502, "not there within 0.5 s"),
        ("/to//to//to//to//to//red.png", 502, "more than 3 times"),
        ("/to/https://192.0.2.1/x", 400, "not fetched from this scheme, host and port"),
        ("/to/file:///etc/passwd", 400, "not fetched"),
        ("/to/gopher://127.0.0.1/x", 400, "not fetched"),
    ],
)
def test_what_cannot_be_had_says_why(fetching: httpx.Client, images: str, path: str, status: int, words: str) -> None:
    answer = fetching.post("/search", json={"image": images + path})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert fetching.post("/search", json={"text": "a"}).status_code == 200


def test_a_wrong_request_fetches_nothing(fetching: httpx.Client, client: httpx.Client, images: str) -> None:
    asked.clear()
    url = f"{images}/red.png"
    for body in ({"image": url, "k": 0}, {"image": [url + str(number) for number in range(4)]}, {"image": "http://"}):
        assert fetching.post("/search", json=body).status_code in (400, 413)
    for other in ("http://localhost/x", f"{images.replace('127.0.0.1', 'u:p@127.0.0.1')}/x", "https://127.0.0.1/x"):
        assert fetching.post("/search", json={"image": other}).status_code == 400
    off = client.post("/search", json={"image": url})
    assert (off.status_code, "addresses are not fetched" in off.json()["error"]["message"]) == (400, True)
    assert asked == []


def test_lines_of_a_stream_name_images_each_for_itself(images: str, tmp_path: Path, wire_encoder: FakeEncoder) -> None:
    directory = build_real_index(tmp_path, wire_encoder, [stored("kept", Item(text="a key of the build"))])
    settings: dict[str, Any] = {"max_body_bytes": MAX_BYTES + 50_000, "max_image_bytes": MAX_BYTES, "max_image_urls": 3}
    settings |= {"image_urls": [images], "image_url_networks": ["127.0.0.1/32"], "image_url_timeout_ms": 500}
    lines = [{"key": f"k{n}", "image": f"{images}/{('red', 'heavy')[n % 2]}?{n}"} for n in range(60)]
    lines[7] = {"key": "absent", "image": f"{images}/absent"}
    lines[9] = {"key": "two", "image": [f"{images}/red", f"{images}/to//red"]}
    lines[11] = {"key": "too heavy", "image": [f"{images}/heavy?{n}" for n in range(3)]}
    lines[13] = {"key": "many", "image": [f"{images}/{n}" for n in range(4)]}
    lines[15] = {"key": "wrong", "image": f"{images}/red?wrong", "colour": "red"}
    lines[17] = {"key": "elsewhere", "image": "https://127.0.0.1/x"}
    lines[19] = {"key": "text", "text": "no image"}
    asked.clear()
    with FaissIndex.open(directory) as index, serving(wire_encoder, index, writable=True, **settings) as client:
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        answer = client.put("/keys", content=body, headers={"content-type": "application/x-ndjson"})
        *outcomes, summary = map(json.loads, answer.text.splitlines())
        hits = client.post("/search", json={"image": as_base64(RED), "k": 1}).json()["hits"]
        assert client.get("/keys/two/image").content == RED
    failed = {outcome["key"]: outcome["error"]["type"] for outcome in outcomes if outcome["error"]}
    assert failed == {
        "absent": "image_not_reached",
        "too heavy": "item_too_large",
        "many": "item_too_large",
        "wrong": "invalid_request",
        "elsewhere": "invalid_request",
    }
    assert (summary["done"], summary["num_stored"], summary["num_failed"]) == (True, 55, 5)
    assert [outcome["line"] for outcome in outcomes] == list(range(1, 61))
    assert hits[0]["score"] > 0.999
    assert not [path for path in asked if "wrong" in path]


def fetch(url: str, hosts: list[str], resolve: Any, networks: tuple[str, ...] = ()) -> Any:
    """What becomes of an address where names are looked up so."""

    async def run(read: Any) -> Any:
        return read()

    async def fetched() -> Any:
        fetcher = ImageFetcher(hosts, networks, max_images=3, max_bytes=MAX_BYTES, timeout_s=5, resolve=resolve)
        try:
            return await fetcher.read(lambda: encoded_image(url, "image", MAX_BYTES), run, lambda _: None)
        except ServiceError as error:
            return error

    return asyncio.run(fetched())


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1",
     "100.64.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "224.0.0.1", "2001::1"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14", address]  # one that is public beside it changes nothing

    said = fetch("https://images.example/x", ["images.example"], resolve)
    assert "not public" in said.message


def test_a_name_that_changes_its_address_leads_nowhere_else(images: str) -> None:
    """The first look-up is checked and used; the second, of a redirect to the same host, is checked anew."""
    port = urlsplit(images).port
    lookups: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"] if len(lookups) == 1 else ["127.0.0.2"]

    host = f"http://rebinding.example:{port}"
    asked.clear()
    assert fetch(f"{host}/red.png", [host], resolve, ("127.0.0.1/32",)) == RED
    assert len(lookups) == 1, "looked up once for a connection"
    lookups.clear()
    said = fetch(f"{host}/to//red.png", [host], resolve, ("127.0.0.1/32",))
    assert "not public" in said.message
    assert asked == ["/red.png", "/to//red.png"]


@pytest.mark.parametrize(
    ("host", "url", "is_taken"),
    [
        ("images.example", ("https", "images.example", 443), True),
        ("images.example", ("http", "images.example", 80), False),
        ("images.example", ("https", "images.example", 8443), False),
        ("images.example", ("https", "evil-images.example", 443), False),
        ("*.images.example", ("https", "a.b.images.example", 443), True),
        ("*.images.example", ("https", "images.example", 443), False),
        ("http://images.example:8080", ("http", "images.example", 8080), True),
        ("*", ("https", "any.example", 443), True),
    ],
)
def test_hosts_are_those_that_are_named(host: str, url: tuple[str, str, int], is_taken: bool) -> None:
    assert AllowedHost.read(host).takes(*url) == is_taken


def test_slow_images_hold_up_nobody(fetching: httpx.Client, images: str) -> None:
    slow = threading.Thread(target=fetching.post, args=("/search",), kwargs={"json": {"image": f"{images}/slow"}})
    slow.start()
    began_s = time.monotonic()
    assert fetching.post("/search", json={"text": "quick"}).status_code == 200
    assert slow.is_alive() or time.monotonic() - began_s < 0.5
    slow.join()
