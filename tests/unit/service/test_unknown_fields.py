"""A field of a filter that no key has is told in the notes of the answer."""

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
