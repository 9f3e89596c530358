"""Answers of one moment, over HTTP, while keys change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.search.kept_moments import Keeping
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, serving, stored

WORDS = [f"{'a' * (1 + n % 5)} {'b' * (1 + n // 5)}" for n in range(20)]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[FaissIndex]:
    keys = [stored(f"k{n:02}", Item(text=text)) for n, text in enumerate(WORDS)]
    index_dir = build_real_index(tmp_path, FakeEncoder(), keys)
    with FaissIndex.open(index_dir, writable=True, compact_after=0, keeping=Keeping(most=3)) as index:
        yield index


@pytest.fixture
def client(index: FaissIndex) -> Iterator[httpx.Client]:
    with serving(FakeEncoder(), index) as client:
        yield client


def search(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/search", json={"text": "aaa", "k": 100, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def shown(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["key"], hit["score"]) for hit in answer["hits"]]


def test_an_answer_can_be_had_again_of_its_moment(client: httpx.Client, index: FaissIndex) -> None:
    first = search(client)
    assert (first["index_version"], first["index_seq"]) == (index.version, index.info().details["seq"])
    index.delete(["k00", "k07"])
    index.upsert([NewKey("new", np.eye(8, dtype=np.float32)[6], text="aaa")])
    index.compact()
    again, now = search(client, snapshot=first["snapshot"]), search(client)
    assert shown(again) == shown(first)
    assert [again[name] for name in ("index_version", "index_seq", "snapshot")] == [
        first[name] for name in ("index_version", "index_seq", "snapshot")
    ]
    assert now["index_seq"] == first["index_seq"] + 3
    assert "new" in dict(shown(now))
    assert "k07" not in dict(shown(now))


def test_a_snapshot_works_in_a_form(client: httpx.Client, index: FaissIndex) -> None:
    first = search(client)
    index.delete(["k00"])
    response = client.post(
        "/search", files={"text": (None, "aaa"), "k": (None, "100"), "snapshot": (None, first["snapshot"])}
    )
    assert shown(response.json()) == shown(first)


def test_one_that_is_no_longer_kept_says_to_search_again(client: httpx.Client, index: FaissIndex) -> None:
    snapshot = search(client)["snapshot"]
    for number in range(4):
        index.delete([f"k{number:02}"])
        search(client)
    response = client.post("/search", json={"text": "aaa", "snapshot": snapshot})
    assert (response.status_code, response.json()["error"]["type"]) == (410, "snapshot_expired")
    assert "search again" in response.json()["error"]["message"]


@pytest.mark.parametrize("snapshot", ["", "no token", 7, None])
def test_what_is_no_snapshot_is_refused(client: httpx.Client, snapshot: object) -> None:
    response = client.post("/search", json={"text": "aaa", "snapshot": snapshot})
    assert response.status_code == (200 if snapshot is None else 400)
    if snapshot is not None:
        assert "snapshot" in response.json()["error"]["message"]
