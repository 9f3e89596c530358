"""Images that an index only refers to: fetched apart from searches, in time, and shown only if they are images."""

import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from anykey.index.faiss_index import FaissIndex
from anykey.index.store.records import NewImage
from tests.factories import build_with, image_bytes, write_jsonl
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, serving
from tests.site import Site, serve

Answer = Callable[[socket.socket, threading.Event], None]
DEADLINE_MS = 1500.0  # searches are answered within it, on a busy machine too


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


@contextmanager
def raw_server(answer: Answer) -> Iterator[str]:
    """A server that does with each connection what it is told; gives its address."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(16) as pool:
        listener.settimeout(0.05)

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                pool.submit(serve_one, connection)

        def serve_one(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # whoever asked has gone
                answer(connection, stop)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            accepting.join()


def say_nothing(connection: socket.socket, stop: threading.Event) -> None:
    stop.wait(WAIT_S)


def trickle_headers(connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not stop.wait(0.02):
        connection.sendall(b"x")


def trickle_body(connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not stop.wait(0.02):
        connection.sendall(b"x")


def redirect_forever(connection: socket.socket, stop: threading.Event) -> None:
    while not stop.wait(0.2) and connection.recv(65536):
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /p/again.png\r\nContent-Length: 0\r\n\r\n")


def build_referring(folder: Path, encoder: FakeEncoder, site: Site, num_keys: int = 2) -> Path:
    """An index whose images lie on a site below `/p`."""
    site.pages |= {f"/p/{n}.png": image_bytes() for n in range(num_keys)}
    rows = [{"key": f"k{n}", "image": site.url(f"/p/{n}.png")} for n in range(num_keys)]
    corpus = write_jsonl(folder / "c.jsonl", [*rows, {"key": "note", "text": "some words"}])
    build_with(corpus, folder / "i", encoder, images="reference", image_root=[site.url("/p")])
    return folder / "i"


def moved_to(index_dir: Path, site: Site, address: str) -> list[str]:
    """Roots with which the index's references lead to another address: its port is taken over in the store."""
    (store,) = index_dir.glob("stores/*/store.sqlite")
    with closing(sqlite3.connect(store)) as db, db:
        found = db.execute("SELECT id, key, media_type, path FROM images JOIN keys USING (id)").fetchall()
        for identity, key, media_type, path in found:
            moved = path.replace(site.url("/p"), f"{address}/p")
            facts = (moved, NewImage(media_type, moved, None).checksum(key, 0), identity)
            db.execute("UPDATE images SET path = ?, checksum = ? WHERE id = ?", facts)
    return [f"{address}/p"]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]


@pytest.mark.parametrize("answer", [say_nothing, trickle_headers, trickle_body, redirect_forever])
def test_server_that_hangs_holds_up_no_search_and_its_images_are_late(
    tmp_path: Path, wire_encoder: FakeEncoder, site: Site, answer: Answer
) -> None:
    index_dir = build_referring(tmp_path, wire_encoder, site)
    settings = {"request_deadline_ms": DEADLINE_MS, "image_threads": 2, "search_threads": 1}
    with raw_server(answer) as address:
        roots = moved_to(index_dir, site, address)
        with (
            FaissIndex.open(index_dir, image_roots=roots) as index,
            serving(wire_encoder, index, **settings) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            started_s = time.monotonic()
            asked = [pool.submit(client.get, f"/keys/k{n % 2}/image") for n in range(4)]
            for _ in range(5):
                assert client.post("/search", json={"text": "some words"}).status_code == 200
                assert client.get("/keys/note").status_code == 200
            assert [error_of(one.result()) for one in asked] == [(504, "deadline_exceeded")] * 4
            assert time.monotonic() - started_s < WAIT_S / 4
            if answer is say_nothing:  # the threads are free again
                assert error_of(client.get("/keys/k0/image")) == (504, "deadline_exceeded")


def test_fetch_ends_with_the_deadline_and_not_with_the_servers_patience(
    tmp_path: Path, wire_encoder: FakeEncoder, site: Site
) -> None:
    closed = threading.Event()

    def watch(connection: socket.socket, stop: threading.Event) -> None:
        connection.recv(65536)
        connection.settimeout(WAIT_S)
        if connection.recv(1) == b"":
            closed.set()

    index_dir = build_referring(tmp_path, wire_encoder, site)
    with raw_server(watch) as address:
        roots = moved_to(index_dir, site, address)
        with (
            FaissIndex.open(index_dir, image_roots=roots) as index,
            serving(wire_encoder, index, request_deadline_ms=1000.0) as client,
        ):
            assert error_of(client.get("/keys/k0/image")) == (504, "deadline_exceeded")
            assert closed.wait(WAIT_S / 4), "the connection was left open"


def test_more_images_than_can_wait_are_refused_and_searches_are_not(
    tmp_path: Path, wire_encoder: FakeEncoder, site: Site
) -> None:
    index_dir = build_referring(tmp_path, wire_encoder, site)
    settings = {"request_deadline_ms": 2000.0, "image_threads": 1, "max_queue_items": 2}
    with raw_server(say_nothing) as address:
        roots = moved_to(index_dir, site, address)
        with (
            FaissIndex.open(index_dir, image_roots=roots) as index,
            serving(wire_encoder, index, **settings) as client,
            ThreadPoolExecutor(6) as pool,
        ):
            asked = [pool.submit(client.get, "/keys/k0/image") for _ in range(6)]
            found = sorted(error_of(one.result()) for one in asked)
    assert found == [(429, "overloaded")] * 4 + [(504, "deadline_exceeded")] * 2


def test_server_that_fails_is_told_from_an_image_that_is_gone(
    tmp_path: Path, wire_encoder: FakeEncoder, site: Site
) -> None:
    index_dir = build_referring(tmp_path, wire_encoder, site)
    del site.pages["/p/1.png"]
    with FaissIndex.open(index_dir) as index, serving(wire_encoder, index) as client:
        shown = client.get("/keys/k0/image")
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
        assert error_of(client.get("/keys/k1/image")) == (404, "not_found")
        site.num_failures = 1
        assert error_of(client.get("/keys/k0/image")) == (502, "image_not_reached")
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n", b"BM and more", b"<svg></svg>"])
def test_what_is_no_image_is_never_shown(tmp_path: Path, wire_encoder: FakeEncoder, site: Site, content: bytes) -> None:
    index_dir = build_referring(tmp_path, wire_encoder, site)
    site.pages["/p/0.png"] = content
    with FaissIndex.open(index_dir) as index, serving(wire_encoder, index) as client:
        answer = client.get("/keys/k0/image")
    assert error_of(answer) == (404, "not_found")
    assert content.decode() not in answer.text


def test_index_that_somebody_else_made_shows_no_file_of_this_machine(
    tmp_path: Path, wire_encoder: FakeEncoder, site: Site
) -> None:
    index_dir = build_referring(tmp_path / "corpus", wire_encoder, site)
    moved_to(index_dir, site, str(tmp_path))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.png").write_bytes(image_bytes())
    with FaissIndex.open(index_dir) as index, serving(wire_encoder, index) as client:
        assert error_of(client.get("/keys/k0/image")) == (404, "not_found")


def test_roots_of_the_service_count_instead_of_those_recorded(
    tmp_path: Path, wire_encoder: FakeEncoder, site: Site
) -> None:
    index_dir = build_referring(tmp_path, wire_encoder, site)
    with FaissIndex.open(index_dir, image_roots=["/elsewhere"]) as index, serving(wire_encoder, index) as client:
        assert error_of(client.get("/keys/k0/image")) == (404, "not_found")


def write_avif_of_all_brands(path: Path) -> None:
    """An AVIF whose first brand is that of all such containers."""
    Image.new("RGB", (64, 64), (200, 30, 30)).save(path, "AVIF")
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"mif1" + data[12:])


def write_big_tiff(path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(path, "TIFF", big_tiff=True)
    assert path.read_bytes().startswith(b"II+\0")


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_type_of_an_image_is_what_decoded_it(tmp_path: Path, wire_encoder: FakeEncoder, images: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    write_avif_of_all_brands(photos / "mif1.avif")
    write_big_tiff(photos / "big.tif")
    shutil.copy(photos / "big.tif", photos / "misnamed.png")
    build_with(photos, tmp_path / "i", wire_encoder, images=images)
    with FaissIndex.open(tmp_path / "i") as index, serving(wire_encoder, index) as client:
        for key, media_type in (("mif1", "image/avif"), ("big", "image/tiff"), ("misnamed", "image/tiff")):
            answer = client.get(f"/keys/{key}/image")
            assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
            assert index.image(key).media_type == media_type
