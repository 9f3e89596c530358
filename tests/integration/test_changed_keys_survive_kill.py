"""Protects what a client is promised of a change: it survives a kill, and all who serve the index have it."""

import os
import time
from pathlib import Path

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.store.versions import IndexDirectory
from tests.changing_server import service_process
from tests.fakes import FakeEncoder
from tests.live_process import Process
from tests.serving import build_real_index, serving, stored, until

WORDS = ("apples and pears", "a long way home", "six", "the sea at night, seen from afar", "red bricks")


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return build_real_index(tmp_path, FakeEncoder(), [stored("kept", Item(text="a key of the build"))])


def best(client: httpx.Client, text: str) -> str:
    hit = client.post("/search", json={"text": text, "k": 1}).json()["hits"][0]
    return str(hit["key"])


def test_what_was_answered_survives_a_kill_and_is_seen_by_others_within_a_second(index_dir: Path) -> None:
    with service_process(index_dir) as reader:
        with service_process(index_dir, "--writable", "--fold-after", "0") as writer:
            for number in range(5):
                text = WORDS[number]
                assert writer.client.put(f"/keys/k{number}", json={"text": text}).status_code == 200
                answered_s = time.monotonic()
                assert best(reader.client, text) == f"k{number}"
                assert time.monotonic() - answered_s < 1.0
                assert best(writer.client, text) == f"k{number}"
            lines = "".join(f'{{"key": "s{n}", "text": "line {n}"}}\n' for n in range(50))
            headers = {"Content-Type": "application/x-ndjson"}
            assert '"done":true' in writer.client.put("/keys", content=lines, headers=headers).text
            assert writer.client.patch("/keys/k0", json={"metadata": {"n": 1}}).status_code == 200
            assert writer.client.delete("/keys/k1").status_code == 200
            once = {"Idempotency-Key": "only once"}
            first = writer.client.put("/keys/k2", json={"text": "the last one"}, headers=once).json()
            writer.kill()
        assert reader.client.get("/keys/k0").json()["payload"]["metadata"] == {"n": 1}
        assert reader.client.get("/keys/k1").status_code == 404
        assert reader.client.post("/keys/count", json={}).json()["num_keys"] == 55
        refused = reader.client.put("/keys/x", json={"text": "x"})
        assert refused.json()["error"]["type"] == "read_only"
        with service_process(index_dir, "--writable") as again:
            assert again.client.get("/keys/k2").json()["seq"] == first["seq"]
            second = again.client.put("/keys/k2", json={"text": "the last one"}, headers=once)
            assert second.headers["idempotency-replayed"] == "true"
            assert second.json()["seq"] == first["seq"]
            assert again.client.put("/keys/k3", json={"text": "goes on"}).status_code == 200


def test_who_writes_is_told_and_the_lock_is_given_back_when_it_is_idle(index_dir: Path) -> None:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(index_dir) as index,
        serving(encoder, index, writable=True, writer_idle_s=0.2) as client,
        FaissIndex.open(index_dir) as other,
        serving(encoder, other) as reader,
    ):
        assert client.put("/keys/a", json={"text": "a"}).status_code == 200
        message = reader.put("/keys/a", json={"text": "b"}).json()["error"]["message"]
        assert "changes over HTTP" in message or "live changes" in message
        until(lambda: writer_of(index_dir) is None, "the lock is given back")
        with Process(index_dir, "write") as build:
            refused = client.put("/keys/b", json={"text": "b"})
            assert (refused.status_code, refused.json()["error"]["type"]) == (409, "index_locked")
            assert refused.headers["retry-after"] == "1"
            assert str(build.process.pid) in refused.json()["error"]["message"]
            build.ask("upsert", {"number": 1})
            assert client.get("/keys/number").status_code == 200
            assert best(client, "a") == "a"
        assert client.put("/keys/b", json={"text": "b"}).status_code == 200


def test_a_service_that_keeps_the_lock_takes_it_as_soon_as_it_is_free(index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as index, Process(index_dir, "write") as build:
        with serving(FakeEncoder(), index, writable=True, writer_idle_s=0) as client:
            assert client.put("/keys/a", json={"text": "a"}).status_code == 409
            build.kill()
            until(lambda: writer_of(index_dir) == os.getpid(), "the service has the lock")
            assert client.put("/keys/a", json={"text": "a"}).status_code == 200
        assert writer_of(index_dir) is None


def writer_of(index_dir: Path) -> int | None:
    """Number of the process that has the index's lock."""
    time.sleep(0.05)
    holder = IndexDirectory(index_dir).writer()
    return None if holder is None else holder.pid


def test_a_version_that_is_made_meanwhile_loses_no_change(index_dir: Path) -> None:
    with service_process(index_dir, "--writable", "--fold-after", "20") as writer:
        before = writer.client.get("/info").json()["index"]["version"]
        for start in range(0, 100, 10):
            keys = [{"key": f"k{n}", "text": f"text {n}"} for n in range(start, start + 10)]
            assert writer.client.put("/keys", json={"keys": keys}).json()["num_stored"] == 10
        until(lambda: writer.client.get("/info").json()["index"]["version"] != before, "a new version", 60.0)
        assert writer.client.post("/keys/count", json={}).json()["num_keys"] == 101
        assert writer.client.get("/keys/k57").json()["payload"]["text"] == "text 57"
