"""Protects changes from being final: what was there before comes back whole, and never over somebody else's change."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.build import build_index
from anykey.index.settings import BuildSettings
from tests.fakes import FakeEncoder
from tests.service_inputs import png
from tests.serving import MemoryIndex, ReadyEncoder, build_real_index, serving, stored

RED, BLUE = png((250, 0, 0)), png((0, 0, 250))
BODY = {"text": "another", "metadata": {"new": True}}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = [
        stored("page", Item(text="a red page", images=(RED, BLUE)), ("shop", "all"), price=1.5, deep={"none": None}),
        stored("a/note", Item(text="a note")),
    ]
    directory = tmp_path_factory.mktemp("undo")
    build_real_index(directory, FakeEncoder(), keys)
    _built(directory)
    return directory


@pytest.fixture(scope="module")
def client(directory: Path) -> Iterator[httpx.Client]:
    with (
        FaissIndex.open(directory / "referring") as index,
        serving(FakeEncoder(), index, writable=True, writer_idle_s=0.2, undo_bytes=10_000) as client,
    ):
        yield client


def shown(client: httpx.Client, key: str) -> dict[str, Any]:
    """All of a key but by which change it was stored, with its images."""
    found: dict[str, Any] = client.get(f"/keys/{key}?include=vector").raise_for_status().json()
    images = [client.get(address).content for address in found["payload"]["image_urls"]]
    return {**found, "seq": None, "images": images}


def change(client: httpx.Client, method: str, key: str, **headers: str) -> dict[str, Any]:
    body = None if method == "DELETE" else BODY if method == "PUT" else {"metadata": {"deep": 3}, "pools": ["x"]}
    response = client.request(method, f"/keys/{key}?undo=true", json=body, headers=headers)
    made: dict[str, Any] = response.raise_for_status().json()
    assert 50 < made["undo_s"] <= 60
    return made


def undo(client: httpx.Client, seq: int, **headers: str) -> httpx.Response:
    return client.post("/keys/undo", json={"seq": seq}, headers=headers)


def kind_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["type"]


def test_what_is_undone_is_as_if_it_had_never_been_done(client: httpx.Client, directory: Path) -> None:
    for key in ("page", "a%2Fnote"):
        before = shown(client, key)
        for method in ("DELETE", "PATCH", "PUT"):
            made = change(client, method, key)
            assert method == "DELETE" or shown(client, key) != before
            answer = undo(client, made["seq"])
            assert answer.json()["status"] == "stored"
            assert shown(client, key) == before
            assert answer.headers["etag"] == client.get(f"/keys/{key}").headers["etag"]
    found = client.post("/search", json={"text": "a red page", "pool": "shop", "k": 1}).json()["hits"]
    assert [hit["key"] for hit in found] == ["page"]
    time.sleep(0.5)  # then the service has given the lock back
    assert _built(directory) == (0, 0), "a build knows its keys again, though one of them was deleted and is back"
    (directory / "0-0.png").write_bytes(BLUE)
    assert client.get("/keys/page/image").content == BLUE, "the image is still where the corpus has it"
    (directory / "0-0.png").write_bytes(RED)


def _built(directory: Path) -> tuple[int, int]:
    """What a build of the same corpus does: keys that are embedded, and that it leaves deleted."""
    settings = BuildSettings(
        corpus=[directory / "corpus.jsonl"],
        checkpoint="given",
        output=directory / "referring",
        images="reference",
        strict=True,
    )
    report = build_index(settings, ReadyEncoder(FakeEncoder()), Console(quiet=True))
    return report.num_embedded, report.num_deleted


def test_what_was_new_goes(client: httpx.Client) -> None:
    made = change(client, "PUT", "new")
    assert made["is_new"]
    assert undo(client, made["seq"]).json()["status"] == "deleted"
    assert client.get("/keys/new").status_code == 404


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT"])
def test_a_later_change_of_the_key_is_left_alone(client: httpx.Client, method: str) -> None:
    client.put("/keys/other", json={"text": "first"}).raise_for_status()
    made = change(client, method, "other")
    client.put("/keys/other", json={"text": "somebody else's"}).raise_for_status()
    assert kind_of(undo(client, made["seq"])) == (412, "precondition_failed")
    assert shown(client, "other")["payload"]["text"] == "somebody else's"
    client.delete("/keys/other")


def test_it_is_done_once_and_answered_again_to_who_repeats_the_request(client: httpx.Client) -> None:
    made = change(client, "DELETE", "page", **{"idempotency-key": f"delete {time.time_ns()}"})
    name = {"idempotency-key": f"undo {time.time_ns()}"}
    first, again = undo(client, made["seq"], **name), undo(client, made["seq"], **name)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert kind_of(undo(client, made["seq"])) == (404, "not_found")
    repeated = {"idempotency-key": f"put {time.time_ns()}"}
    first_put, again_put = change(client, "PUT", "put", **repeated), change(client, "PUT", "put", **repeated)
    assert again_put["seq"] == first_put["seq"]
    undo(client, first_put["seq"]).raise_for_status()


def test_what_is_too_large_too_old_or_was_not_asked_for_cannot_be_undone(client: httpx.Client, directory: Path) -> None:
    assert client.put("/keys/large", json={"text": "x" * 9000}).json()["undo_s"] is None
    made = client.delete("/keys/large?undo=true").json()
    assert made["undo_s"] is None
    assert kind_of(undo(client, made["seq"])) == (404, "not_found")
    made = [change(client, "PUT", f"many{n}")["seq"] for n in range(20)]
    assert undo(client, made[0]).status_code == 404, "there was no room for all of them"
    assert [undo(client, seq).status_code for seq in made[-5:]] == [200] * 5
    client.post("/keys/delete", json={"keys": [f"many{n}" for n in range(20)]})
    time.sleep(0.5)
    with (
        FaissIndex.open(directory / "referring") as index,
        serving(FakeEncoder(), index, writable=True, undo_s=0.05) as quick,
    ):
        made = quick.put("/keys/quick?undo=true", json=BODY).json()
        assert 0 < made["undo_s"] <= 0.05
        time.sleep(0.06)
        assert kind_of(undo(quick, made["seq"])) == (404, "not_found")
        assert quick.get("/info").json()["changes"] == {"writable": True, "undo_s": 0.05}


@pytest.mark.parametrize("body", [{}, {"seq": 0}, {"seq": "3"}, {"seq": 1, "key": "a"}, [1]])
def test_what_is_no_change_is_refused(client: httpx.Client, body: Any) -> None:
    assert kind_of(client.post("/keys/undo", json=body)) == (400, "invalid_request")
    assert kind_of(client.put("/keys/a?undo=maybe", json=BODY)) == (400, "invalid_request")


def test_an_index_that_keeps_nothing_says_so() -> None:
    encoder = FakeEncoder()
    with serving(encoder, MemoryIndex(encoder, [stored("a", Item(text="a"))])) as client:
        assert client.get("/info").json()["changes"] == {"writable": False, "undo_s": None}
        assert kind_of(client.post("/keys/undo", json={"seq": 1})) == (409, "read_only")
