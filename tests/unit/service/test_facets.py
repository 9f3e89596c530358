"""Counts of values over the scope of a search, and what fields there are: over HTTP, as a dictionary says it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.key_index import NewKey
from anykey.index.milvus_index import MilvusIndex
from anykey.index.store.manifest import EncoderFacts
from anykey.service.answers.schemas import SearchResponse
from anykey.service.app import create_app
from anykey.service.keys.schemas import FieldsResponse
from tests.engines import needs_milvus
from tests.fakes import FakeEncoder
from tests.serving import MemoryIndex, build_real_index, make_settings, running, serving, stored
from tests.unit.service.test_reranking import FakeScorer

JSON = {"content-type": "application/json"}
WORN: dict[str, dict[str, Any]] = {
    "shoe": {"brand": "Acme", "price": 10, "sizes": [40, 41, 41], "sold": True, "made": "2024-07-01"},
    "boot": {"brand": "acme", "price": 99.5, "sizes": [41], "sold": 1, "made": "2024-07-01T02:00:00+02:00"},
    "sock": {"brand": "Acme", "price": 5.0, "size": {"width": 3}, "made": "2023-01-31"},
    "hat": {"brand": "Adam", "price": "1", "a.b": "dotted"},
    "bare": {},
}
KEYS = [stored(key, Item(text=f"a {key}"), ("worn",) if key != "hat" else (), **WORN[key]) for key in WORN]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(build_real_index(tmp_path_factory.mktemp("shop"), encoder, KEYS)) as index,
        serving(encoder, index) as client,
    ):
        yield client


def facets_of(client: httpx.Client, facets: Any, **query: Any) -> Any:
    reply = client.post("/search", json={"text": "a shoe", "k": 1, "facets": facets, **query})
    assert reply.status_code == 200, reply.text
    SearchResponse.model_validate_json(reply.content)
    return reply.json()["facets"]


def counted(values: list[tuple[Any, int]]) -> list[dict[str, Any]]:
    return [{"value": value, "num_keys": num} for value, num in values]


def test_values_are_counted_over_the_scope_and_not_over_the_hits(shop: httpx.Client) -> None:
    assert facets_of(shop, ["brand", "sizes", {"field": "brand", "limit": 1}]) == [
        {
            "field": "brand", "num_keys": 4, "num_missing": 1, "num_other_values": 0, "ranges": None,
            "values": counted([("Acme", 2), ("Adam", 1), ("acme", 1)]),
        },
        {
            "field": "sizes", "num_keys": 2, "num_missing": 3, "num_other_values": 0, "ranges": None,
            "values": counted([(41, 2), (40, 1)]),
        },
        {
            "field": "brand", "num_keys": 4, "num_missing": 1, "num_other_values": 2, "ranges": None,
            "values": counted([("Acme", 2)]),
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "values"),
    [
        ({"filter": {"field": "price", "lt": 50}}, [("Acme", 2)]),
        ({"pool": "worn"}, [("Acme", 2), ("acme", 1)]),
        ({"within": ["hat", "boot", "none"]}, [("Adam", 1), ("acme", 1)]),
        ({"exclude": ["shoe", "hat"]}, [("Acme", 1), ("acme", 1)]),
        ({"modalities": ["image"]}, []),
        ({"min_score": 1.0}, [("Acme", 2), ("Adam", 1), ("acme", 1)]),
        ({"text": None, "key": "shoe"}, [("Acme", 1), ("Adam", 1), ("acme", 1)]),
        ({"text": None, "words": "boot"}, [("Acme", 2), ("Adam", 1), ("acme", 1)]),
        ({"group_by": "brand", "offset": 0}, [("Acme", 2), ("Adam", 1), ("acme", 1)]),
    ],
)
def test_every_part_of_the_scope_counts_and_nothing_else(
    shop: httpx.Client, scope: dict[str, Any], values: list[tuple[Any, int]]
) -> None:
    query = {name: value for name, value in {"text": "a shoe", "k": 1, **scope}.items() if value is not None}
    answer = shop.post("/search", json={**query, "facets": ["brand"]}).json()
    assert answer["facets"][0]["values"] == counted(values)


def test_types_are_told_apart_and_dates_are_moments(shop: httpx.Client) -> None:
    sold, price, made, dotted = facets_of(shop, ["sold", "price", "made", "a\\.b"])
    assert json.dumps(sold["values"]) == '[{"value": true, "num_keys": 1}, {"value": 1, "num_keys": 1}]'
    assert json.dumps(price["values"]) == json.dumps(counted([(5, 1), (10, 1), (99.5, 1), ("1", 1)]))
    assert made["values"] == counted([("2024-07-01", 2), ("2023-01-31", 1)])
    assert (dotted["field"], dotted["values"]) == ("a\\.b", counted([("dotted", 1)]))


def test_ranges_have_the_bounds_of_filters(shop: httpx.Client) -> None:
    ranges = [{"lt": 10}, {"gte": 10, "lt": 50}, {"gte": 5}]
    dates = [{"gte": "2024-01-01", "lt": "2025-01-01"}, {"lt": "2024-01-01"}]
    price, made = facets_of(shop, [{"field": "price", "ranges": ranges}, {"field": ["made"], "ranges": dates}])
    assert price == {
        "field": "price",
        "num_keys": 4,
        "num_missing": 1,
        "values": None,
        "num_other_values": None,
        "ranges": [{"lt": 10, "num_keys": 1}, {"gte": 10, "lt": 50, "num_keys": 1}, {"gte": 5, "num_keys": 3}],
    }
    assert [one["num_keys"] for one in made["ranges"]] == [2, 1]
    for field, wanted, asked in (("price", price, ranges), ("made", made, dates)):
        for counts, bounds in zip(wanted["ranges"], asked, strict=True):
            found = shop.post("/keys/count", json={"filter": {"field": field, **bounds}}).json()["num_keys"]
            assert counts == {**bounds, "num_keys": found}


def test_a_prefix_finds_values_that_begin_with_it(shop: httpx.Client) -> None:
    brand, made = facets_of(shop, [{"field": "brand", "prefix": "A", "limit": 1}, {"field": "made", "prefix": "2024"}])
    assert (brand["values"], brand["num_other_values"], brand["num_keys"]) == (counted([("Acme", 2)]), 1, 4)
    assert made["values"] == counted([("2024-07-01", 2)])


def test_fields_that_no_key_has_are_told(shop: httpx.Client) -> None:
    query = {"text": "a", "facets": ["brnd", "size", "brand", {"field": "brnd", "ranges": [{"lt": 1}]}]}
    answer = shop.post("/search", json={**query, "filter": {"field": "prize", "lt": 3}}).json()
    assert answer["notes"] == [
        "filter: no key has a value at 'prize'",
        "facets: no key has a value at 'brnd'",
        "facets: no key has a value at 'size'",
    ]
    assert [facet["num_keys"] for facet in answer["facets"]] == [0, 0, 0, 0]


def test_forms_and_batches_count_as_well(shop: httpx.Client) -> None:
    form = {"text": "a", "facets": json.dumps(["brand", {"field": "price", "ranges": [{"lt": 10}]}])}
    answer = shop.post("/search", files={name: (None, value) for name, value in form.items()}).json()
    assert answer["facets"] == facets_of(shop, json.loads(form["facets"]))
    queries = [{"text": "a", "facets": ["brand"]}, {"text": "a"}, {"text": "b", "facets": ["sold"], "pool": "worn"}]
    queries.append({"text": "b", "facets": ["sold", 3]})
    first, second, third, wrong = shop.post("/search/batch", json={"queries": queries}).json()["answers"]
    assert first["facets"] == facets_of(shop, ["brand"])
    assert second["facets"] is None
    assert third["facets"] == facets_of(shop, ["sold"], pool="worn")
    assert wrong["error"]["message"].startswith("facets[1] must be a field, or an object such as")


def test_answers_that_are_kept_are_those_with_the_same_facets(shop: httpx.Client) -> None:
    query = {"text": "a hat that is kept", "k": 2}
    for facets in (None, ["brand"], ["sold"], [{"field": "brand", "limit": 1}]):
        asked = query if facets is None else {**query, "facets": facets}
        new, kept = (shop.post("/search", json=asked).json() for _ in range(2))
        assert (new["result_cached"], kept["result_cached"]) == (False, True)
        assert new["facets"] == kept["facets"]
        assert (new["facets"] is None) == (facets is None)


def test_the_explanation_tells_what_counting_took(shop: httpx.Client) -> None:
    answer = shop.post("/search", json={"text": "a", "facets": ["brand"], "explain": True}).json()
    assert answer["explanation"]["facets_ms"] > 0


def test_a_changed_key_is_counted_at_once_and_pages_of_a_snapshot_as_before(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, KEYS), writable=True, compact_after=0) as index,
        serving(encoder, index) as client,
    ):
        query = {"text": "a", "facets": ["brand"], "offset": 0}
        before = client.post("/search", json=query).json()
        vector_D = encoder.encode([Item(text="b")])[0]
        index.upsert([NewKey("hat", vector_D, text="b", metadata={"brand": "Acme", "new": 1})])
        index.delete(["sock"])
        after = client.post("/search", json=query).json()
        assert after["facets"][0]["values"] == counted([("Acme", 2), ("acme", 1)])
        again = client.post("/search", json={**query, "snapshot": before["snapshot"]}).json()
        assert again["facets"] == before["facets"]
        names = {field["field"] for field in client.get("/fields").json()["fields"]}
        assert names == {"brand", "price", "sizes", "sold", "made", "new"}


@pytest.mark.parametrize(
    ("facets", "message"),
    [
        ("brand", 'facets must be a list of fields such as "brand"'),
        ([], "facets: expected from 1 to 20 of them, got 0"),
        (["brand"] * 21, "facets: expected from 1 to 20 of them, got 21"),
        ([["brand"]], "facets[0] must be a field, or an object"),
        (["brand", {"limit": 3}], "facets[1]: expected a field"),
        ([""], "facets[0] must name a field of the metadata: expected names, got an empty one"),
        (["a\\b"], "facets[0] must name a field of the metadata: expected '\\.'"),
        ([{"field": "brand", "limt": 3}], "facets[0]: unknown field 'limt'; known: field, limit, prefix, ranges"),
        ([{"field": "brand", "limit": 0}], "facets[0].limit must be a whole number from 1 to 1000, got 0"),
        ([{"field": "brand", "limit": True}], "facets[0].limit must be a whole number from 1 to 1000, got a boolean"),
        ([{"field": "brand", "limit": 1e3}], "facets[0].limit must be a whole number from 1 to 1000, got a number"),
        ([{"field": "brand", "limit": 1000}] * 3, "facets: expected limits of at most 2000 in all, got 3000"),
        ([{"field": "brand", "prefix": 1}], "facets[0].prefix must be a string, got a number"),
        ([{"field": "brand", "prefix": "x" * 1025}], "facets[0].prefix: expected at most 1024 bytes, got 1025"),
        ([{"field": "brand", "prefix": "\ud800"}], "facets[0].prefix: half a surrogate pair at character 0"),
        ([{"field": "brand", "ranges": []}], "facets[0].ranges must be a list of 1 to 50 ranges, got 0"),
        ([{"field": "brand", "ranges": [{}]}], "facets[0].ranges[0] must be an object such as"),
        ([{"field": "brand", "ranges": [{"from": 3}]}], "facets[0].ranges[0]: unknown field 'from'; known: gt, gte"),
        ([{"field": "price", "ranges": [{"lt": None}]}], "facets[0].ranges[0].lt: expected a number or a string, got"),
        ([{"field": "price", "ranges": [{"gte": 1, "lt": "b"}]}], "facets[0].ranges[0].lt: expected a number as in"),
        ([{"field": "price", "ranges": [{"lt": 3}], "limit": 3}], "facets[0]: limit is about values; give it without"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(shop: httpx.Client, facets: Any, message: str) -> None:
    reply = shop.post("/search", content=json.dumps({"text": "a", "facets": facets}), headers=JSON)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith(message)


def test_fields_are_told_with_types_values_and_extents(shop: httpx.Client) -> None:
    reply = shop.get("/fields")
    FieldsResponse.model_validate_json(reply.content)
    answer = reply.json()
    fields = {field.pop("field"): field for field in answer["fields"]}
    assert sorted(fields) == ["a\\.b", "brand", "made", "price", "size.width", "sizes", "sold"]
    assert (answer["num_keys"], answer["cursor"]) == (5, None)
    assert fields["price"] == {
        "num_keys": 4,
        "types": {"boolean": 0, "number": 3, "date": 0, "string": 1},
        "num_values": 4,
        "values": counted([(5, 1), (10, 1), (99.5, 1), ("1", 1)]),
        "numbers": {"min": 5, "max": 99.5},
        "dates": None,
    }
    assert fields["made"]["dates"] == {"min": "2023-01-31", "max": "2024-07-01"}
    assert fields["made"]["types"] == {"boolean": 0, "number": 0, "date": 3, "string": 0}
    assert fields["sold"]["types"] == {"boolean": 1, "number": 1, "date": 0, "string": 0}


def test_fields_come_page_by_page_and_of_a_scope(shop: httpx.Client) -> None:
    whole = shop.get("/fields").json()["fields"]
    paged, cursor = [], None
    while cursor is not None or not paged:
        page = shop.get("/fields", params={"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}).json()
        assert len(page["fields"]) <= 2
        paged += page["fields"]
        cursor = page["cursor"]
    assert paged == whole
    few = shop.get("/fields", params={"filter": '{"field": "brand", "eq": "Adam"}'}).json()
    assert [field["field"] for field in few["fields"]] == ["a\\.b", "brand", "price"]
    assert shop.get("/fields", params={"pool": "worn", "modalities": "text,image"}).json()["num_keys"] == 4


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"limit": "0"}, "limit must be a whole number from 1 to 1000, got 0"),
        ({"cursor": "%%"}, "cursor must be one that an earlier page gave"),
        ({"cursor": ""}, "cursor must be one that an earlier page gave"),
        ({"pool": "none"}, "unknown pool"),
        ({"feld": "x"}, "unknown parameter"),
    ],
)
def test_what_fields_cannot_be_asked_by_is_refused(
    shop: httpx.Client, parameters: dict[str, str], message: str
) -> None:
    reply = shop.get("/fields", params=parameters)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_an_index_of_another_kind_is_served_alike(shop: httpx.Client) -> None:
    encoder = FakeEncoder()
    facets = ["brand", "made", {"field": "price", "ranges": [{"lt": 10}]}, {"field": "sizes", "limit": 1}]
    with serving(encoder, MemoryIndex(encoder, KEYS)) as client:
        assert facets_of(client, facets) == facets_of(shop, facets)
        by_scan, counted_fields = (each.get("/fields").json()["fields"] for each in (client, shop))
        assert {field["field"]: field for field in by_scan} == {field["field"]: field for field in counted_fields}


def test_reranked_answers_count_the_scope_as_well(shop: httpx.Client, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, KEYS)) as index,
        running(create_app(make_settings(), encoder=encoder, index=index, rerankers=[FakeScorer("mini")])) as client,
    ):
        answer = client.post("/search", json={"text": "a", "k": 1, "rerank": {"top": 2}, "facets": ["brand"]}).json()
        assert (len(answer["hits"]), answer["reranking"]["num_candidates"]) == (1, 2)
        assert answer["facets"] == facets_of(shop, ["brand"])


@needs_milvus
def test_a_collection_of_milvus_refuses_and_says_what_does_not(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    facts = EncoderFacts(name="fake", fingerprint=encoder.fingerprint, width=encoder.width, fusion=str(encoder.fusion))
    with (
        MilvusIndex.create(str(tmp_path / "keys.db"), "keys", facts) as index,
        serving(encoder, index) as client,
    ):
        for reply in (client.post("/search", json={"text": "a", "facets": ["brand"]}), client.get("/fields")):
            assert reply.status_code == 400
            assert reply.json()["error"]["message"].startswith("an index in Milvus does not count the values")
