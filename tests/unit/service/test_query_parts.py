"""Protects queries of parts: their vector is the weighted sum, and what is wrong is told with the part it is in.

Shape legend: D = width, P = parts.
"""

import base64
import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.queries.query import ItemPart, KeyPart, Query, VectorPart, query_from_json
from anykey.service.schemas import Limits
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import counters
from tests.unit.service.test_routes import check_error

ONES = [1.0] * 8
RED = png((250, 0, 0))


def asked(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/search", json=fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx.Client, status: int, kind: str, **fields: Any) -> str:
    return check_error(client.post("/search", json=fields), status, kind)


def scores_of(answer: dict[str, Any]) -> dict[str, float]:
    return {hit["key"]: hit["score"] for hit in answer["hits"]}


def searched_by_hand(index: FaissIndex, vectors: list[NDArray[np.float32]], weights: list[float]) -> dict[str, float]:
    """Scores of all keys with the normalised weighted sum, which is computed here the plain way."""
    sum_D = sum(w * v.astype(np.float64) for w, v in zip(weights, vectors, strict=True))
    unit_D = np.asarray(sum_D / np.linalg.norm(sum_D))
    return {key.key: float(index.vector(key.key).astype(np.float64) @ unit_D) for key in index.scan()}


def test_a_query_is_the_weighted_sum_of_its_parts(
    client: httpx.Client, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    item = Item(text="a red page", images=(RED,))
    parts = [
        {"text": item.text, "image": as_base64(RED), "text_weight": 0.3},
        {"key": "note", "weight": 0.5},
        {"vector": ONES, "weight": 2},
        {"text": "seven", "weight": -0.4},
    ]
    vectors = [
        wire_encoder.encode([item], 0.3)[0],
        wire_index.vector("note"),
        np.ones(8, np.float32) / np.sqrt(8),
        wire_encoder.encode([Item(text="seven")])[0],
    ]
    answer = asked(client, parts=parts, exclude_query_keys=False)
    by_hand = searched_by_hand(wire_index, vectors, [1, 0.5, 2, -0.4])
    assert scores_of(answer) == pytest.approx(by_hand, abs=1e-6)
    assert answer["query_modality"] == "fused"
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 10))


def test_one_positive_item_is_what_it_is_beside_no_list(client: httpx.Client) -> None:
    plain, listed = (
        asked(client, **fields) for fields in ({"text": "a red page"}, {"parts": [{"text": "a red page"}]})
    )
    weighted = asked(client, parts=[{"text": "a red page", "weight": 3}])
    assert plain["hits"] == listed["hits"] == weighted["hits"]
    assert listed["cached"]


def test_one_negative_part_asks_for_what_is_least_like_it(client: httpx.Client) -> None:
    liked = scores_of(asked(client, text="a red page"))
    unlike = scores_of(asked(client, parts=[{"text": "a red page", "weight": -1}]))
    assert unlike == pytest.approx({key: -score for key, score in liked.items()})


def test_a_stored_key_finds_its_like_and_not_itself_unless_it_is_asked_for(
    client: httpx.Client, wire_index: FaissIndex
) -> None:
    by_hand = searched_by_hand(wire_index, [wire_index.vector("red")], [1])
    everything = asked(client, key="red", exclude_query_keys=False)
    assert scores_of(everything) == pytest.approx(by_hand, abs=1e-6)
    assert (everything["hits"][0]["key"], everything["query_modality"]) == ("red", "image")
    others = asked(client, key="red")
    assert [hit["key"] for hit in others["hits"]] == [hit["key"] for hit in everything["hits"][1:]]
    disliked = asked(client, parts=[{"text": "red"}, {"key": "blue", "weight": -0.1}], exclude=["red"])
    assert not {"blue", "red"} & set(scores_of(disliked))


def test_a_vector_counts_by_its_direction_however_it_is_written(client: httpx.Client) -> None:
    as_float32 = base64.b64encode(np.ones(8, "<f4").tobytes()).decode()
    answers = [
        asked(client, vector=spelt)["hits"]
        for spelt in (ONES, [1] * 8, [1e308] * 8, [5e-324] * 8, as_float32, as_float32.rstrip("="))
    ]
    assert all(hits == answers[0] for hits in answers)
    assert asked(client, vector=ONES)["query_modality"] is None
    assert asked(client, vector=ONES, vector_modality="image")["query_modality"] == "image"


def test_all_items_of_a_query_are_encoded_once_and_kept_one_by_one(client: httpx.Client) -> None:
    def encoded() -> int:
        return counters(client, "batcher")["encoded"]

    before = encoded()
    parts = [{"text": "kept part one"}, {"text": "kept part two"}, {"text": "kept part one", "weight": -0.5}]
    first = asked(client, parts=parts)
    assert (encoded() - before, first["cached"]) == (2, False)
    assert asked(client, parts=parts)["cached"]
    assert asked(client, text="kept part two")["cached"]
    assert encoded() - before == 2


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"key": "nowhere"}, "not_found", r"key: no such key"),
        ({"parts": [{"text": "a"}, {"key": "nowhere"}]}, "not_found", r"parts[1]: no such key"),
        ({"vector": [1.0] * 7}, "invalid_request", "vector: expected 8 numbers, the width of the model, got 7"),
        ({"parts": [{"text": "a"}, {"vector": [1]}]}, "invalid_request", "parts[1]: expected 8 numbers"),
        ({"vector": [0] * 8}, "invalid_request", "vector: expected numbers that are not all 0"),
        ({"vector": "abcd"}, "invalid_request", "vector: expected float32 numbers, 4 bytes each, got 3 bytes"),
        ({"vector": "AADAfw=="}, "invalid_request", "vector[0] must be a finite number"),
        ({"vector": [1, "x"]}, "invalid_request", "vector[1] must be a number, got 'x'"),
        ({"vector": [10**400] * 8}, "invalid_request", "vector[0] must be a number"),
        ({"vector": {}}, "invalid_request", "vector must be a list of numbers, or base64 of float32, got an object"),
        ({"vector": [1] * 65_537}, "invalid_request", "vector: at most 65536 numbers, got 65537"),
        ({"parts": [{"vector": [1] * 65_537}]}, "invalid_request", "parts[0].vector: at most 65536 numbers"),
        (
            {"parts": [{"text": "b"}, {"text": "b", "weight": -1}]},
            "invalid_request",
            "parts: they cancel out, so that their sum has no direction; change a weight",
        ),
        (
            {"parts": [{"key": "red", "weight": 0.1}, {"key": "red", "weight": -0.1}]},
            "invalid_request",
            "parts: they cancel out",
        ),
        ({"parts": []}, "invalid_request", '{"text": "red"}, at least one, got none'),
        ({"parts": "x"}, "invalid_request", "parts must be a list of objects"),
        ({"parts": [3]}, "invalid_request", "parts[0] must be an object"),
        ({"parts": [{}]}, "invalid_request", "parts[0]: expected text, image, or both, or key, vector or words"),
        (
            {"parts": [{"text": " "}]},
            "invalid_request",
            "parts[0]: expected text, image, or both, or key, vector or words",
        ),
        (
            {"parts": [{"text": "a", "key": "b"}]},
            "invalid_request",
            "parts[0]: expected one of an item, key, vector and words",
        ),
        ({"parts": [{"text": "a"}], "text": "b"}, "invalid_request", "expected parts alone to say what is looked for"),
        ({"parts": [{"text": "a"}], "text_weight": 0.2}, "invalid_request", "got text_weight beside it"),
        ({"parts": [{"text": "a", "weight": 0}]}, "invalid_request", "parts[0].weight must not be 0"),
        ({"parts": [{"text": "a", "weight": 101}]}, "invalid_request", "parts[0].weight must be a number from -100 to"),
        ({"parts": [{"text": "a", "weight": "1"}]}, "invalid_request", "parts[0].weight must be a number from -100 to"),
        ({"parts": [{"text": "a", "wieght": 1}]}, "invalid_request", "unknown field 'wieght' of parts[0]; known: text"),
        (
            {"parts": [{"text": "a", "text_weight": 2}]},
            "invalid_request",
            "parts[0].text_weight must be a number from 0",
        ),
        ({"parts": [{"text": "a", "k": 2}]}, "invalid_request", "unknown field 'k' of parts[0]"),
        ({"parts": [{"text": "a"}] * 17}, "invalid_request", "parts: at most 16 parts, got 17"),
        ({"parts": [{"image": {"file": 0}}]}, "invalid_request", "parts name image file 0, but the request has 0"),
        (
            {"parts": [{"image": {"data": ""}}]},
            "invalid_request",
            "parts[0].image must be base64, or a file of the form",
        ),
        ({"parts": [{"text": "a"}, {"image": "%"}]}, "invalid_request", "parts[1].image: not valid base64"),
        ({"parts": [{"text": "a"}, {"image": "bm8="}]}, "undecodable_image", "parts[1]: cannot decode 2 bytes"),
        ({"parts": [{"image": ["AAAA"] * 5}, {"image": ["AAAA"] * 4}]}, "item_too_large", "9 images, at most 8"),
        ({"parts": [{"text": "a"}, {"text": "a" * 501}]}, "item_too_large", "parts[1].text has 501 characters"),
        (
            {"text": "a", "key": "red"},
            "invalid_request",
            "expected one of an item, key, vector and words, got text, key",
        ),
        (
            {"key": "red", "vector": ONES},
            "invalid_request",
            "expected one of an item, key, vector and words, got key, vector",
        ),
        ({"key": "red", "text_weight": 0.3}, "invalid_request", "text_weight says nothing about key; leave it out"),
        ({"vector": ONES, "instruction": "x"}, "invalid_request", "instruction says nothing about vector"),
        ({"text": "a", "vector_modality": "text"}, "invalid_request", "vector_modality says nothing about text"),
        (
            {"vector": ONES, "vector_modality": "x"},
            "invalid_request",
            "vector_modality must be one of text, image, fused",
        ),
        ({"key": "red", "exclude_query_keys": 1}, "invalid_request", "exclude_query_keys must be true or false, got 1"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_cannot_be_searched_for_is_refused_with_its_place(
    client: httpx.Client, fields: dict[str, Any], kind: str, message: str
) -> None:
    status = {"not_found": 404, "item_too_large": 413, "undecodable_image": 422}.get(kind, 400)
    told = refused(client, status, kind, **fields)
    assert message in told
    assert len(told) < 300


def test_an_unreadable_vector_is_refused_before_others_are_encoded(client: httpx.Client) -> None:
    before = counters(client, "batcher")["encoded"]
    refused(client, 400, "invalid_request", parts=[{"text": "never encoded"}, {"vector": [1, 2]}])
    assert counters(client, "batcher")["encoded"] == before


def test_compressed_bodies_may_have_parts(client: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"parts": [{"text": "a red page"}], "min_score": 0.5}).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = client.post("/search", content=body, headers=headers)
    assert response.json()["hits"] == asked(client, text="a red page", min_score=0.5)["hits"]
    check_error(client.post("/search?min_score=0.5", json={"text": "a"}), 400, "invalid_request")


def test_parts_reach_the_query(limits: Limits) -> None:
    fields = {
        "parts": [
            {"text": "a", "image": [as_base64(RED)], "text_weight": 0.25, "instruction": "find", "weight": 2},
            {"key": "k", "weight": -1.5},
            {"vector": [1, 2.5], "vector_modality": None},
        ],
        "text": None,
    }
    query = query_from_json(json.dumps(fields).encode(), limits)
    assert query.parts == (
        ItemPart(Item("a", (RED,)), 0.25, "find", 2.0),
        KeyPart("k", -1.5),
        VectorPart((1.0, 2.5)),
    )
    assert query.scope.exclude == {"k"}
    assert query.item is None
    assert Query((ItemPart(Item("a"), weight=-1.0),)).item is None


FORM_PARTS = [{"text": "plain", "image": {"file": 1}}, {"image": [{"file": 0}, as_base64(RED)], "weight": -0.2}]
FILES = [("image", ("a.png", png((1, 2, 3)))), ("image", ("b.png", RED))]


def test_a_form_may_have_parts_with_files(client: httpx.Client) -> None:
    listed = [
        {"text": "plain", "image": as_base64(RED)},
        {"image": [as_base64(png((1, 2, 3))), as_base64(RED)], "weight": -0.2},
    ]
    sent = client.post("/search", files=FILES, data={"parts": json.dumps(FORM_PARTS), "include": "text,metadata.price"})
    assert sent.status_code == 200, sent.text
    assert sent.json()["hits"] == asked(client, parts=listed, include=["text", "metadata.price"])["hits"]


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"key": "red", "exclude_query_keys": "false"}, {"key": "red", "exclude_query_keys": False}),
        ({"vector": json.dumps(ONES), "min_score": "0.5", "text": ""}, {"vector": ONES, "min_score": 0.5}),
        ({"vector": "AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8="}, {"vector": ONES}),
    ],
)
def test_a_form_may_have_a_key_or_a_vector(client: httpx.Client, fields: dict[str, str], same: dict[str, Any]) -> None:
    sent = client.post("/search", files={name: (None, value) for name, value in fields.items()})
    assert sent.status_code == 200, sent.text
    assert sent.json()["hits"] == asked(client, **same)["hits"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"text": "a"}], 'image file 0 is named by 0 parts, expected one to have "image": {"file": 0}'),
        ([{"image": {"file": 0}}, {"image": [{"file": 0}, {"file": 1}]}], "image file 0 is named by 2 parts"),
        ([{"image": [{"file": 0}, {"file": 2}]}], "parts name image file 2, but the request has 2, counted from 0"),
        ([{"image": {"file": -1}}], "parts name image file -1"),
        ([{"image": {"file": "0"}}], "parts[0].image must be base64"),
    ],
)
def test_each_file_of_a_form_is_in_one_part(client: httpx.Client, parts: Any, message: str) -> None:
    sent = client.post("/search", files=FILES, data={"parts": json.dumps(parts)})
    assert message in check_error(sent, 400, "invalid_request")
