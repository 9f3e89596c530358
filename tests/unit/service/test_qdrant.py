"""Protects what Qdrant's clients may say: which points a filter leaves, and what is refused in their form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, serving, stored

POINTS = "/collections/default/points"
KEYS = [
    stored("1", Item(text="one"), n=1, tags=["a", "b"], size={"width": 4}),
    stored("2", Item(text="two"), n=2, tags=["b"]),
    stored("c", Item(text="three"), n=3.5, day="2026-01-02T00:00:00Z"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    with (
        FaissIndex.open(build_real_index(tmp_path_factory.mktemp("qdrant"), encoder, KEYS)) as index,
        serving(encoder, index, writable=True, max_keys=10, max_within=3) as client,
    ):
        yield client


def match(key: str, **how: Any) -> dict[str, Any]:
    return {"key": key, "match": how}


FILTERS: list[tuple[dict[str, Any], list[str | int]]] = [
    ({}, [1, 2, "c"]),
    ({"must": []}, [1, 2, "c"]),
    ({"must": match("n", value=2)}, [2]),
    ({"must": [{"key": "n", "range": {"gt": 1, "lte": 3.5, "lt": None}}]}, [2, "c"]),
    ({"must": [match("tags[]", any=["a", "z"])]}, [1]),
    ({"must": [match("tags", any=[])]}, []),
    ({"must": [match("n", **{"except": [1]})]}, [2, "c"]),
    ({"must": [match("tags", **{"except": ["z"]})]}, [1, 2]),
    ({"must": [match("size.width", value=4)]}, [1]),
    ({"must": [match('"size".width', value=4)]}, [1]),
    ({"must": [{"key": "day", "range": {"gte": "2026-01-01T00:00:00Z"}}]}, ["c"]),
    ({"must": [{"is_empty": {"key": "tags"}}]}, ["c"]),
    ({"must": [{"key": "tags", "is_empty": False}]}, [1, 2]),
    ({"must_not": [match("n", value=1), match("n", value=2)]}, ["c"]),
    ({"should": [match("n", value=1), match("n", value=2)], "must_not": [match("tags", value="a")]}, [2]),
    ({"must": [{"has_id": [1, "c", "none"]}]}, [1, "c"]),
    ({"must_not": [{"has_id": [1]}]}, [2, "c"]),
    ({"should": [{"has_id": [1]}, {"has_id": [2]}]}, [1, 2]),
    ({"must": [{"has_id": [1, 2]}, {"has_id": [2, "c"]}, match("n", value=2)]}, [2]),
    ({"must_not": [{"must_not": [{"has_id": [2]}]}]}, [2]),
    ({"must": [{"should": [match("n", value=1), {"must": [match("n", value=2), match("tags", value="b")]}]}]}, [1, 2]),
    ({"min_should": {"conditions": [match("n", value=1), match("tags", value="b")], "min_count": 2}}, [1]),
    ({"min_should": {"conditions": [match("n", value=1), match("tags", value="b")], "min_count": 1}}, [1, 2]),
    ({"min_should": {"conditions": [match("n", value=1)], "min_count": 2}}, []),
    ({"min_should": {"conditions": [match("n", value=1)], "min_count": 10**400}}, []),
    ({"min_should": {"conditions": [match("n", value=1)], "min_count": 0}}, [1, 2, "c"]),
    ({"should": [{"must": []}, {"has_id": [1]}]}, [1, 2, "c"]),
    ({"should": [{"must_not": [{"has_id": []}]}, {"has_id": [1]}]}, [1, 2, "c"]),
    ({"should": [{"must_not": [{"must": []}]}, {"has_id": [1]}]}, [1]),
    ({"should": [{"has_id": []}, match("n", value=1)]}, [1]),
    ({"must_not": [{"should": [{"must": []}, {"has_id": [1]}]}]}, []),
    ({"must_not": [{"must": []}]}, []),
    ({"must_not": [{"has_id": []}]}, [1, 2, "c"]),
    ({"should": [{"must": [{"has_id": [1, 2]}], "must_not": [{"has_id": [2]}]}, {"has_id": ["c"]}]}, [1, "c"]),
    ({"min_should": {"conditions": [{"must": []}, match("n", value=1)], "min_count": 2}}, [1]),
    ({"min_should": {"conditions": [], "min_count": 1}}, []),
]


@pytest.mark.parametrize(("wanted", "points"), FILTERS)
def test_a_filter_leaves_the_points_that_it_means(
    wanted: dict[str, Any], points: list[str | int], client: httpx.Client
) -> None:
    listed = client.post(f"{POINTS}/scroll", json={"filter": wanted}).json()["result"]["points"]
    assert [point["id"] for point in listed] == points
    assert client.post(f"{POINTS}/count", json={"filter": wanted}).json()["result"]["count"] == len(points)
    asked = {"query": [1.0] * 8, "filter": wanted, "params": {"exact": True}}
    found = client.post(f"{POINTS}/query", json=asked).json()["result"]["points"]
    assert sorted(str(point["id"]) for point in found) == sorted(map(str, points))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("query", {}, "query: expected what to look for"),
    ("query", {"query": []}, "query: expected the numbers of a vector, got none"),
    ("query", {"query": [1.0, "a"]}, "query[1] must be a number, got 'a'"),
    ("query", {"query": [10**400] * 8}, "query[0] must be a finite number, got a number of more than 18 digits"),
    ("query", {"query": 1, "score_threshold": 10**400}, "score_threshold must be a finite number"),
    (
        "query",
        {"query": {"nearest": 1, "mmr": {"candidates_limit": 2}}},
        "with diversity, offset + k must be",
    ),
    ("query", {"query": [[1.0] * 8]}, "query[0] must be a number, got a list"),
    ("query", {"query": {"indices": [1], "values": [1.0]}}, "query: a sparse vector cannot be asked for"),
    ("query", {"query": {"text": "a", "options": {"x": 1}}}, "query.options: there are none"),
    ("query", {"query": {"text": "a"}, "using": "other"}, "using: each point has one vector"),
    ("query", {"query": {"text": "a"}, "limit": 0}, "limit must be a whole number from 1 to"),
    ("query", {"query": {"text": "a"}, "offset": -1}, "offset must be a whole number of at least 0"),
    ("query", {"query": {"text": "a"}, "with_vector": ["x"]}, "with_vector: each point has one vector"),
    ("query", {"query": {"recommend": {"negative": [1]}}}, "query.recommend.positive: expected at least one"),
    ("query", {"query": {"nearest": 1, "mmr": {"diversity": 2}}}, "query.mmr.diversity must"),
    ("query", {"query": {"nearest": 1, "recommend": {"positive": [1]}}}, "query: expected one kind of query, got nea"),
    ("query", {"query": 1, "shard_key": "a"}, "shard_key: all points of a collection are in one place"),
    ("delete", {"points": [1], "shard_key": "a"}, "shard_key: all points of a collection are in one place"),
    ("scroll", {"filter": {"must": [{"has_id": [1], "key": "n"}]}}, "filter.must[0]: expected has_id alone, got"),
    ("payload/delete", {"points": [1], "keys": ["a[0]"]}, "keys[0]: expected the path of a field"),
    ("query/groups", {"query": 1}, "group_by: expected a field of the payload"),
    ("query/batch", {"searches": []}, "searches: expected from 1 to"),
    ("scroll", {"order_by": "n"}, "order_by: points come in the order of their ids"),
    ("scroll", {"filter": {"must": [match("n", text="x")]}}, "filter.must[0].match: expected one of value, any"),
    ("scroll", {"filter": {"must": [{"is_null": {"key": "n"}}]}}, "filter.must[0].is_null cannot be asked for"),
    ("scroll", {"filter": {"wrong": []}}, "filter: expected must, should, must_not, min_should, got 'wrong'"),
    ("scroll", {"filter": {"must": [match("a[0]", value=1)]}}, "filter.must[0].key: expected the path of a field"),
    ("scroll", {"filter": {"should": [{"has_id": [1]}, match("n", value=1)]}}, "filter.should: has_id cannot be"),
    ("count", {"filter": {"must": [{"has_id": [1, 2, 3, 4]}]}}, "filter: has_id: at most 3 points, got 4"),
    ("delete", {"filter": {}}, "filter: expected at least one condition"),
    ("delete", {}, "expected points or filter, got neither"),
    ("payload", {"points": [1]}, "payload: expected an object; it is absent"),
    ("payload", {"points": [1], "payload": {}, "key": "a"}, "key: only members of the payload itself"),
    ("payload", {"points": [1], "payload": {"a": ["\ud800"]}}, "payload.a[0]: half a surrogate pair"),
    ("payload/delete", {"points": [1]}, "keys: expected paths of members"),
]


@pytest.mark.parametrize(("address", "body", "message"), REFUSED)
def test_what_cannot_be_done_is_refused_in_qdrants_form(
    address: str, body: dict[str, Any], message: str, client: httpx.Client
) -> None:
    sent = json.dumps(body)  # which writes half a surrogate pair, too
    response = client.post(f"{POINTS}/{address}", content=sent, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["status"]["error"].startswith(message)
    assert client.post(f"{POINTS}/count", json={}).json()["result"]["count"] == len(KEYS)


def test_a_service_that_changes_nothing_refuses_changes(client: httpx.Client, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    directory = build_real_index(tmp_path / "read", encoder, KEYS)
    with FaissIndex.open(directory) as index, serving(encoder, index) as reader:
        response = reader.put(POINTS, json={"points": [{"id": 1, "vector": [1.0] * 8}]})
    assert response.status_code == 409
    assert "--writable" in response.json()["status"]["error"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_making_and_removing_collections_is_refused_with_where_they_come_from(
    client: httpx.Client, method: str
) -> None:
    answer = client.request(method, "/collections/new", json={"vectors": {"size": 4, "distance": "Cosine"}})
    assert answer.status_code == 400
    assert "collections are the indexes that this service serves" in answer.json()["status"]["error"]


def point_of(client: httpx.Client, point: str) -> dict[str, Any]:
    (found,) = client.post(POINTS, json={"ids": [point]}).json()["result"]
    return dict(found)


def put_points(client: httpx.Client, *points: dict[str, Any]) -> None:
    answer = client.put(POINTS, json={"points": list(points)})
    assert answer.status_code == 200, answer.text


def test_members_of_members_are_removed_by_their_path(client: httpx.Client) -> None:
    payload = {"a": {"b": 1, "c": [{"d": 1, "e": 2}]}, "x.y": 3}
    put_points(client, {"id": "nested", "vector": [1.0] * 8, "payload": payload})
    asked = {"keys": ["a.b", "a.c[].d", '"x.y"', "none.z"], "points": ["nested"]}
    assert client.post(f"{POINTS}/payload/delete", json=asked).status_code == 200
    assert point_of(client, "nested")["payload"] == {"a": {"c": [{"e": 2}]}}
    client.post(f"{POINTS}/delete", json={"points": ["nested"]})


def test_values_of_different_kinds_are_different_groups(client: httpx.Client) -> None:
    values: list[Any] = [True, "true", 1.5, "1.5", 7, "7"]
    names = [f"group {place}" for place in range(len(values))]
    vector = [1.0] * 8
    put_points(
        client, *({"id": name, "vector": vector, "payload": {"h": h}} for name, h in zip(names, values, strict=True))
    )
    asked = {"query": vector, "group_by": "h", "group_size": 1, "limit": 6}
    groups = client.post(f"{POINTS}/query/groups", json=asked).json()["result"]["groups"]
    found = {group["hits"][0]["id"]: group["id"] for group in groups if len(group["hits"]) == 1}
    assert found == dict(zip(names, ["true", "true", "1.5", "1.5", 7, "7"], strict=True))
    client.post(f"{POINTS}/delete", json={"filter": {"must": [{"key": "h", "is_empty": False}]}})


def test_a_vector_with_a_name_is_refused(client: httpx.Client) -> None:
    answer = client.put(POINTS, json={"points": [{"id": 9, "vector": {"image": [1.0] * 8}}]})
    assert answer.status_code == 400
    assert "points[0].vector: each point has one vector, without a name; got 'image'" in answer.text
