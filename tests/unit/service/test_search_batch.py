"""Protects POST /search/batch: each query has the answer that it has alone, or its own error; and shares the work."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from anykey.index.faiss_index import FaissIndex
from anykey.service.answers.schemas import BatchResponse
from tests.congruence.test_http_matches_in_process import KEYS
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import MemoryIndex, counters, serving
from tests.unit.service.test_search_batcher import GatedIndex

RED = as_base64(png((250, 0, 0)))
QUERIES: list[dict[str, Any]] = [
    {"text": "a red page"},
    {"text": "five words of some length", "k": 2},
    {"image": RED},
    {"text": "a red page", "image": RED, "text_weight": 0.2},
    {"text": "a red page", "image": RED, "text_weight": 0.8, "exact": True},
    {"text": "plain", "pool": "pages"},
    {"text": "plain", "filter": {"field": "price", "lt": 5}},
    {"text": "plain", "within": ["red", "note"], "exclude": ["red"]},
    {"text": "a red page"},
]
BAD: list[tuple[Any, str]] = [
    ({"text": "a", "k": 0}, "invalid_request"),
    ({}, "invalid_request"),
    ("a red page", "invalid_request"),
    ({"text": "a", "unknown": 1}, "invalid_request"),
    ({"text": "a", "pool": "no such pool"}, "invalid_request"),
    ({"image": as_base64(b"no image")}, "undecodable_image"),
    ({"text": "a" * 501}, "item_too_large"),
]


def text_of(number: int) -> str:
    """Texts whose vectors differ, of numbers up to 50."""
    return "a " * number + "be " * (50 - number)


def batch(client: httpx.Client, queries: Any) -> dict[str, Any]:
    answer = client.post("/search/batch", json={"queries": queries})
    assert answer.status_code == 200, answer.text
    BatchResponse.model_validate_json(answer.content)
    found: dict[str, Any] = answer.json()
    return found


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    """What is the same in every answer to a query."""
    return {
        name: value
        for name, value in answer.items()
        if name not in ("timings_ms", "cached", "result_cached", "snapshot")
    }


def test_each_query_is_answered_as_it_is_alone(client: httpx.Client) -> None:
    alone = [without_times(client.post("/search", json=query).json()) for query in QUERIES]
    assert [without_times(answer) for answer in batch(client, QUERIES)["answers"]] == alone


def test_a_wrong_query_has_its_own_error_and_the_others_their_answers(client: httpx.Client) -> None:
    queries = [query for wrong, _ in BAD for query in (wrong, {"text": "plain", "k": 1})]
    answers = batch(client, queries)["answers"]
    for (query, expected), answer, other in zip(BAD, answers[::2], answers[1::2], strict=True):
        alone = client.post("/search", json=query)
        assert answer["error"]["type"] == expected == alone.json()["error"]["type"]
        if isinstance(query, dict):
            assert answer["error"]["message"] == alone.json()["error"]["message"]
        assert other["hits"][0]["key"] == "plain"


def test_an_error_names_the_request(client: httpx.Client) -> None:
    answer = client.post("/search/batch", json={"queries": [{}]}, headers={"X-Request-ID": "mine"}).json()
    assert answer["answers"][0]["error"]["request_id"] == "mine"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], 'the body must be a JSON object such as {"queries":'),
        ({}, 'the body must be a JSON object such as {"queries":'),
        ({"queries": {"text": "a"}}, 'the body must be a JSON object such as {"queries":'),
        ({"queries": []}, "queries: expected from 1 to 100 of them, got 0"),
        ({"queries": [{"text": "a"}] * 101}, "queries: expected from 1 to 100 of them, got 101"),
        ({"queries": [{"text": "a"}], "k": 3}, "unknown field 'k'"),
    ],
)
def test_a_wrong_envelope_is_refused_whole(client: httpx.Client, body: Any, message: str) -> None:
    answer = client.post("/search/batch", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


def test_what_is_no_json_is_refused(client: httpx.Client) -> None:
    assert client.post("/search/batch", files={"queries": b"[]"}).status_code == 415
    assert client.post("/search/batch", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/search/batch?k=3", json={"queries": [{"text": "a"}]}).status_code == 400
    assert client.get("/search/batch").status_code == 405


def test_a_batch_may_be_compressed(client: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    body = gzip.compress(json.dumps({"queries": QUERIES}).encode())
    assert len(client.post("/search/batch", content=body, headers=headers).json()["answers"]) == len(QUERIES)


@pytest.fixture
def index() -> GatedIndex:
    return GatedIndex(MemoryIndex(FakeEncoder(), KEYS))


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def own_client(encoder: FakeEncoder, index: Any) -> Iterator[httpx.Client]:
    with serving(encoder, index, max_batch_searches=1, max_batch_items=64, max_wait_ms=200) as client:
        yield client


def test_queries_share_encoder_batches_and_calls_of_the_index(
    own_client: httpx.Client, encoder: FakeEncoder, index: GatedIndex
) -> None:
    """Also where searches of different requests share no calls."""
    encoder.batches.clear()
    queries = [{"text": text_of(n), "k": 3 if n % 3 else 4} for n in range(30)]
    answers = batch(own_client, queries)["answers"]
    assert [len(answer["hits"]) for answer in answers] == [query["k"] for query in queries]
    assert sum(encoder.batches) == 30
    assert len(encoder.batches) <= 3
    assert Counter(index.calls) == Counter([(20, 3), (10, 4)])


def test_equal_queries_of_a_batch_are_encoded_and_searched_for_once(
    own_client: httpx.Client, encoder: FakeEncoder, index: GatedIndex
) -> None:
    encoder.batches.clear()
    batch(own_client, [{"text": "the same"}] * 5)
    assert encoder.batches == [1]
    assert index.calls == [(1, 10)]


def test_queries_that_fail_hold_up_no_search_of_the_others(own_client: httpx.Client, index: GatedIndex) -> None:
    queries = [{"image": as_base64(b"no image")}, {"text": "a"}, {"text": "b", "k": -1}, {"text": "to be"}]
    answers = batch(own_client, queries)["answers"]
    assert ["error" in answer for answer in answers] == [True, False, True, False]
    assert index.calls == [(2, 10)]


def test_what_nobody_foresaw_of_one_query_is_its_own_at_once(encoder: FakeEncoder, index: GatedIndex) -> None:
    """Whether the encoder or the index fails on it; the deadline is longer than the test waits."""
    index.damaged, index.failure = encoder.encode([Item(text="to be")])[0].tobytes(), ZeroDivisionError("a bug of ours")
    encode, broken = encoder.encode_prepared, encoder.prepare(Item(text="four"), Role.QUERY).text_D

    def fail_on_broken(prepared: Any) -> Any:
        if any(np.array_equal(one.text_D, broken) for one in prepared):
            raise ZeroDivisionError("another bug of ours")
        return encode(prepared)

    encoder.encode_prepared = fail_on_broken  # type: ignore[method-assign]
    texts = ["a", "to be", "three words here", "four", "a lone letter b"]
    with serving(encoder, index, request_deadline_ms=300_000, max_wait_ms=200) as client:
        answers = batch(client, [{"text": text} for text in texts])["answers"]
    kinds = [answer["error"]["type"] if "error" in answer else None for answer in answers]
    assert kinds == [None, "internal", None, "internal", None]


def test_queries_beyond_the_queue_are_refused_one_by_one(encoder: FakeEncoder, index: Any) -> None:
    with serving(encoder, index, max_queue_items=8, max_wait_ms=200) as client:
        answers = batch(client, [{"text": text_of(n)} for n in range(20)])["answers"]
        outcomes = Counter(answer["error"]["type"] if "error" in answer else "hits" for answer in answers)
        assert outcomes["overloaded"] >= 1
        assert outcomes["hits"] + outcomes["overloaded"] == 20
        assert outcomes["hits"] >= 8
        assert counters(client, "searches")["waiting"] == 0


def test_many_long_answers_are_those_of_single_searches(wire_encoder: FakeEncoder, wire_index: FaissIndex) -> None:
    with serving(wire_encoder, wire_index, max_batch_queries=300) as client:
        alone = client.post("/search", json={"text": "plain"}).json()["hits"]
        answers = batch(client, [{"text": "plain"}] * 300)["answers"]
        assert all(answer["hits"] == alone for answer in answers)
