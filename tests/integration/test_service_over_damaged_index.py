"""A service whose index directory is damaged under it says so, never answers 500, and goes on once it is mended."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.publish.directory import WritableDirectory
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, serving, stored, until

KEYS = [stored(f"key {number}", Item(text=f"text {number} " + "word " * 60), ("all",)) for number in range(100)]
EVERYTHING = {"text": "text", "k": 100}


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return build_real_index(tmp_path, FakeEncoder(), KEYS)


@pytest.fixture
def store(index_dir: Path) -> Path:
    return WritableDirectory(index_dir).store_path("1")


@pytest.fixture
def client(index_dir: Path) -> Iterator[httpx.Client]:
    with FaissIndex.open(index_dir) as index, serving(FakeEncoder(), index, check_index_s=0.05) as client:
        yield client


def write(path: Path, data: bytes) -> None:
    """Replaces what is in a file, in place."""
    with path.open("r+b") as file:
        file.write(data)


def assert_unavailable(answer: httpx.Response, index_dir: Path) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["type"] == "index_unavailable"
    assert str(index_dir) not in answer.text
    assert "retry-after" in answer.headers


def becomes(client: httpx.Client, status: int) -> None:
    until(lambda: client.get("/readyz").status_code == status, f"/readyz is {status}")


def test_damage_in_one_key_fails_what_asks_for_it_and_nothing_else(
    client: httpx.Client, index_dir: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = store.read_bytes()
    write(store, sound.replace(b"text 77 ", b"TEXT 77 "))

    assert_unavailable(client.post("/search", json=EVERYTHING), index_dir)
    assert_unavailable(client.get("/keys/key%2077"), index_dir)
    until(lambda: "index_unavailable" in [getattr(record, "event", "") for record in caplog.records], "it is logged")
    assert client.get("/readyz").status_code == 200, "all other keys are answered"
    assert client.get("/keys/key%203").status_code == 200
    assert client.post("/search", json={**EVERYTHING, "exclude": ["key 77"]}).status_code == 200
    assert "key 77" not in caplog.text

    write(store, sound)
    until(lambda: client.get("/keys/key%2077").status_code == 200, "it is read again")
    assert len(client.post("/search", json=EVERYTHING).json()["hits"]) == 100


def test_service_starts_over_a_damaged_key_that_came_live(index_dir: Path, store: Path) -> None:
    vector_D = FakeEncoder().encode([Item(text="later")])[0]
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([NewKey("later", vector_D, "a text that came later")])
    write(store, store.read_bytes().replace(b"that came later", b"THAT came later"))

    with FaissIndex.open(index_dir) as index, serving(FakeEncoder(), index, check_index_s=0.05) as client:
        until(lambda: client.get("/readyz").status_code == 200, "/readyz is 200")
        assert_unavailable(client.get("/keys/later"), index_dir)
        answer = client.post("/search", json={**EVERYTHING, "exclude": ["later"]})
        assert len(answer.json()["hits"]) == 100
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("damage", [lambda path: write(path, b"\x5a" * path.stat().st_size), os.remove])
def test_lost_store_is_noticed_without_a_search(
    client: httpx.Client, index_dir: Path, store: Path, damage: Any
) -> None:
    sound = store.read_bytes()
    damage(store)
    becomes(client, 503)

    aside = store.with_name("aside")
    aside.write_bytes(sound)
    os.replace(aside, store)
    becomes(client, 200)
    assert len(client.post("/search", json=EVERYTHING).json()["hits"]) == 100


@pytest.mark.parametrize(
    "damage", [lambda path: write(path, b"\x5a" * path.stat().st_size), lambda p: os.truncate(p, 9)]
)
def test_damaged_vectors_give_no_wrong_answer_and_do_not_end_the_service(
    client: httpx.Client, index_dir: Path, damage: Any
) -> None:
    before = client.post("/search", json=EVERYTHING).json()["hits"]
    vectors = index_dir / "versions" / "1" / "vectors.faiss"
    sound = vectors.read_bytes()
    damage(vectors)
    assert_unavailable(client.post("/search", json=EVERYTHING), index_dir)
    becomes(client, 503)

    vectors.write_bytes(sound)
    becomes(client, 200)
    assert client.post("/search", json=EVERYTHING).json()["hits"] == before


def test_a_vector_that_would_be_the_best_for_everything_is_no_answer(index_dir: Path) -> None:
    vectors = index_dir / "versions" / "1" / "vectors.faiss"
    with FaissIndex.open(index_dir) as index, serving(FakeEncoder(), index, check_index_s=60) as client:
        assert client.post("/search", json=EVERYTHING).status_code == 200
        before = vectors.stat()
        with vectors.open("r+b") as file:  # the size of some numbers, as when a bit of their exponent changes
            file.seek(-64, os.SEEK_END)
            file.write(b"\x00\x00\x00\x7e" * 16)
        os.utime(vectors, ns=(before.st_atime_ns, before.st_mtime_ns))  # nothing else tells of it
        answers = [client.post("/search", json={"text": f"text {number}", "k": 1}) for number in range(20)]
        told = [answer.status_code for answer in answers]
        assert 503 in told, "it is the best for about half of all queries"
        assert all(answer.json()["hits"][0]["score"] <= 1 for answer in answers if answer.status_code == 200)
        for answer in answers:
            if answer.status_code == 503:
                assert_unavailable(answer, index_dir)


def test_pool_that_came_live_can_be_searched_at_once(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index, serving(FakeEncoder(), index) as client:
        index.upsert([NewKey("later", FakeEncoder().encode([Item(text="later")])[0], "later", pools=("fresh",))])

        answer = client.post("/search", json={"text": "later", "pool": "fresh"}).json()
        assert [hit["key"] for hit in answer["hits"]] == ["later"]
        assert client.get("/info").json()["index"]["pools"] == {"all": 100, "fresh": 1}
        refusal = client.post("/search", json={"text": "later", "pool": "gone"}).json()["error"]
        assert (refusal["type"], refusal["message"]) == ("invalid_request", "unknown pool 'gone'; known: all, fresh")
