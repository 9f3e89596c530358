"""Protects pauses from being long: requests leave no garbage, and it is looked for while nobody is being answered."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from anykey.index.faiss_index import FaissIndex
from anykey.index.hits import Hit
from anykey.service.app import create_app
from anykey.service.server import web_server
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64
from tests.serving import build_real_index, make_settings, serving, stored
from tests.unit.service.test_search_batcher import GatedIndex

JSON, NDJSON = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}
TEXT, BAD = {"text": "a red page"}, {"image": as_base64(b"no image")}
REQUESTS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "search": lambda client: client.post("/search", json=TEXT),
    "search for no image": lambda client: client.post("/search", json=BAD),
    "search without JSON": lambda client: client.post("/search", content="{", headers=JSON),
    "search by a bad form": lambda client: client.post("/search", files={"image": ("a.png", b"no image")}),
    "batch": lambda client: client.post("/search/batch", json={"queries": [TEXT, BAD, {}, {"text": "b"}]}),
    "embed": lambda client: client.post("/embed", json={"items": [TEXT, BAD, {}]}),
    "embed as keys": lambda client: client.post("/embed", json={"items": [TEXT, BAD], "role": "key"}),
    "put": lambda client: client.put("/keys", json={"keys": [{"key": "new", **TEXT}, {"key": "bad", **BAD}, {}]}),
    "stream": lambda client: client.put(
        "/keys", content=b'{"key": "a"\n{"key": "b", "text": 1}\n{"key": "c", "text": "d"}\n', headers=NDJSON
    ),
    "other clients": lambda client: client.post("/v1/embeddings", json={"model": "x", "input": [BAD]}),
    "no key": lambda client: client.get("/keys/none"),
    "search that fails": lambda client: client.post("/search", json={"text": "broken"}),
    "batch of which one fails": lambda client: client.post(
        "/search/batch", json={"queries": [{"text": "broken"}, TEXT]}
    ),
}
STATUSES = {
    "search for no image": 422,
    "search without JSON": 400,
    "search by a bad form": 422,
    "other clients": 400,
    "no key": 404,
    "search that fails": 503,
}


class Ring:
    """An object that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


@contextmanager
def kept_garbage() -> Iterator[list[object]]:
    """What the collector would have freed since; it is looked for at the end."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        found: list[object] = []
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def make_garbage() -> "weakref.ref[Ring]":
    """Garbage of so many objects that it is looked for; gives one of them."""
    rings = [Ring() for _ in range(10_000)]
    return weakref.ref(rings[0])


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    folder = build_real_index(tmp_path_factory.mktemp("asked"), encoder, [stored("page", Item(text="a red page"))])
    with FaissIndex.open(folder) as whole:
        index = GatedIndex(whole)
        index.damaged = encoder.encode_prepared([encoder.prepare(Item(text="broken"), Role.QUERY)])[0].tobytes()
        with serving(encoder, index, writable=True) as client:
            yield client


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_leaves_no_error_and_no_hit_behind(asked: httpx.Client, name: str) -> None:
    """What an error or a hit refers to is an image, or a page, of which the collector would free few a minute."""
    assert REQUESTS[name](asked).status_code == STATUSES.get(name, 200)
    with kept_garbage() as found:
        REQUESTS[name](asked)
        time.sleep(0.05)  # for what ends after its answer
    assert [one for one in found if isinstance(one, (Exception, Hit))] == []


def test_garbage_is_looked_for_when_nobody_is_being_answered() -> None:
    settings = make_settings()
    app = create_app(settings)
    server, watcher = web_server(app, settings, []), app.state.lifecycle.watcher
    gc.disable()
    try:

        def is_freed() -> bool:
            ring = make_garbage()
            asyncio.run(server.on_tick(0))
            return ring() is None

        assert is_freed()
        watcher.num_under_way = 1
        assert not all(is_freed() for _ in range(20))  # servers of other tests may free it for once
        watcher.num_under_way = 0
        assert is_freed()
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_stays_is_laid_aside_and_still_freed_once_nothing_refers_to_it() -> None:
    settings = make_settings()
    server = web_server(create_app(settings), settings, [])
    num_before = gc.get_freeze_count()
    gc.disable()
    try:
        kept = [[number] for number in range(10_000)]
        asyncio.run(server.on_tick(0))
        num_aside = gc.get_freeze_count()
        assert num_aside >= num_before + len(kept)
        kept.clear()
        assert gc.get_freeze_count() <= num_aside - 10_000
    finally:
        gc.enable()
        gc.unfreeze()
