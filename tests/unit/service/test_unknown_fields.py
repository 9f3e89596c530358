"""A field of a filter that no key has is told in the notes of the answer."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.key_index import NewKey
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, serving, stored

PRICE, PRIZE, DEEP = ({"field": field, "gt": 1} for field in ("price", "prize", "price.deep"))


@pytest.mark.parametrize(
    ("condition", "unknown"),
    [
        (PRICE, []),
        (PRIZE, ["prize"]),
        (DEEP, ["price.deep"]),
        ({"or": [PRICE, {"not": PRIZE}, {"and": [DEEP, PRIZE]}]}, ["prize", "price.deep"]),
        ({"field": "prize", "exists": False}, ["prize"]),
    ],
)
def test_the_notes_name_fields_that_no_key_has(
    client: httpx.Client, condition: dict[str, Any], unknown: list[str]
) -> None:
    for what in ({"text": "a"}, {"words": "red"}):
        answer = client.post("/search", json={**what, "filter": condition}).json()
        assert answer["notes"] == [f"filter: no key has a value at '{field}'" for field in unknown]


def test_a_field_of_a_key_that_just_came_is_known(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    path = build_real_index(tmp_path, encoder, [stored("note", Item(text="a note"), price=3)])
    with FaissIndex.open(path, writable=True) as index, serving(encoder, index) as client:
        query = {"text": "a", "filter": {"field": "prize", "eq": 1}}
        assert client.post("/search", json=query).json()["notes"] == ["filter: no key has a value at 'prize'"]
        index.upsert([NewKey("new", encoder.encode([Item(text="b")])[0], text="b", metadata={"prize": 1})])
        answer = client.post("/search", json=query).json()
        assert (answer["notes"], [hit["key"] for hit in answer["hits"]]) == ([], ["new"])


def test_lists_counts_and_deletions_tell_of_fields_that_no_key_has(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    path = build_real_index(tmp_path, encoder, [stored("note", Item(text="a note"), price=3)])
    with FaissIndex.open(path) as index, serving(encoder, index, writable=True) as client:
        for field, notes in (("price", []), ("prize", ["filter: no key has a value at 'prize'"])):
            scope = {"filter": {"field": field, "gt": 5}}
            parameters = {"filter": json.dumps(scope["filter"])}
            answers = [client.get(address, params=parameters).json() for address in ("/keys", "/fields")]
            answers.append(client.post("/keys/count", json=scope).json())
            answers += [client.post("/keys/delete", json={**scope, "dry_run": dry}).json() for dry in (True, False)]
            assert [answer["notes"] for answer in answers] == [notes] * 5
        assert client.get("/keys").json()["notes"] == []


def test_a_deletion_tells_of_fields_as_they_were_before_it(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    path = build_real_index(tmp_path, encoder, [stored("note", Item(text="a note"))])
    with FaissIndex.open(path) as index, serving(encoder, index, writable=True) as client:
        client.put("/keys/new", json={"text": "new", "metadata": {"prize": 1}})
        scope = {"filter": {"field": "prize", "eq": 1}}
        for is_repeat in (False, True):
            answer = client.post("/keys/delete", json=scope, headers={"Idempotency-Key": "once"})
            assert ("idempotency-replayed" in answer.headers) == is_repeat
            assert (answer.json()["num_deleted"], answer.json()["notes"]) == (1, [])
