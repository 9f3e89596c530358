"""Over HTTP, words find keys without an encoder, and are joined with whatever else a query looks for."""

from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from tests.fakes import FakeEncoder
from tests.serving import MemoryIndex, counters, serving, stored


def search(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The answer to a query."""
    answer = client.post("/search", json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def keys(answer: dict[str, Any]) -> list[str]:
    """The keys of an answer's hits."""
    return [hit["key"] for hit in answer["hits"]]


def test_words_alone_are_found_without_the_encoder(client: httpx.Client) -> None:
    before = counters(client, "batcher")
    for fields in ({"words": "RED page"}, {"parts": [{"words": "RED page", "weight": 2}]}):
        answer = search(client, **fields, k=3)
        assert keys(answer)[0] == "page"
        scores = [hit["words_score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert {hit["score"] for hit in answer["hits"]} == {None}
        assert (answer["query_modality"], answer["cached"], answer["text_cut"]) == (None, False, False)
        assert answer["timings_ms"]["encode"] == 0
    assert counters(client, "batcher") == before
    assert keys(search(client, words="41*")) == ["Schl\u00fcssel \u9375 %41"]
    assert keys(search(client, words='"key with a"')) == ["a/b:c"]
    assert keys(search(client, words="nothing else")) == []


def test_words_keep_to_the_scope(client: httpx.Client) -> None:
    assert set(keys(search(client, words="red"))) == {"red", "page"}
    assert keys(search(client, words="red", pool="pictures")) == ["red"]
    assert keys(search(client, words="red", modalities=["fused"])) == ["page"]
    assert keys(search(client, words="red", exclude=["red"], k=1)) == ["page"]
    assert keys(search(client, words="red", filter={"field": "price", "eq": 3})) == ["red"]
    assert keys(search(client, words="red", within=["note"])) == []


@pytest.mark.parametrize("join", ["rank", "weight"])
def test_words_and_other_parts_have_both_scores(client: httpx.Client, join: str) -> None:
    cosines = {hit["key"]: hit["score"] for hit in search(client, text="plain", k=9)["hits"]}
    by_words = {hit["key"]: hit["words_score"] for hit in search(client, words="slash")["hits"]}
    answer = search(client, parts=[{"text": "plain"}, {"words": "slash", "weight": 1.5}], join=join, k=9)
    assert {hit["key"]: hit["score"] for hit in answer["hits"]} == pytest.approx(cosines, abs=1e-6)
    assert {hit["key"]: hit["words_score"] for hit in answer["hits"] if "words_score" in hit} == by_words
    assert set(keys(answer)[:2]) == {"plain", "a/b:c"}
    assert answer["query_modality"] == "text"
    far = search(client, parts=[{"text": "plain", "weight": 0.01}, {"words": "slash"}], join=join, k=1)
    assert keys(far) == ["a/b:c"]


def test_words_are_paged_and_grouped(client: httpx.Client) -> None:
    for fields in ({"words": "red key a"}, {"parts": [{"words": "red key a"}, {"text": "plain"}]}):
        whole = search(client, **fields, k=6)
        pages = [search(client, **fields, k=2, offset=offset)["hits"] for offset in (0, 2, 4)]
        assert [hit for page in pages for hit in page] == whole["hits"]
        groups = search(client, **fields, k=6, group_by="duplicates", duplicate_score=0.999)
        assert groups["hits"][0]["words_score"] == whole["hits"][0]["words_score"]
        assert len(keys(groups)) == len(set(keys(groups)))


def test_words_come_in_forms_and_in_batches_too(client: httpx.Client) -> None:
    expected = search(client, words="red", k=1)
    form = client.post("/search", files={"words": (None, "red"), "k": (None, "1")}).json()
    assert form["hits"] == expected["hits"]
    parts = '[{"words": "red"}, {"text": "note"}]'
    joined = client.post("/search", files={"parts": (None, parts), "join": (None, "weight")})
    assert joined.status_code == 200
    batch = client.post("/search/batch", json={"queries": [{"words": "red", "k": 1}, {"words": "-"}, {"text": "a"}]})
    first, second, third = batch.json()["answers"]
    assert first["hits"] == expected["hits"]
    assert second["error"]["type"] == "invalid_request"
    assert third["hits"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": " -- "}, "words: expected words to look for, got none"),
        ({"words": "a " * 300}, "words has 600 characters, at most 500 are accepted"),
        ({"words": " ".join("b" * 249)}, None),
        ({"words": 7}, "words must be a string, got 7"),
        ({"words": "a", "text": "b"}, "expected one of an item, key, vector and words, got text, words"),
        ({"words": "a", "text_weight": 0.1}, "text_weight says nothing about words; leave it out"),
        ({"words": "a", "min_score": 0.1}, "min_score goes by cosine similarity, and a query with words does not"),
        ({"parts": [{"words": "a"}, {"text": "b"}], "cutoff": "auto"}, "cutoff goes by cosine similarity"),
        ({"words": "a", "diversity": 0.5}, "diversity goes by cosine similarity"),
        ({"parts": [{"words": "a"}, {"text": "b"}], "offset": 995}, "offset + k must be at most 1000 for words beside"),
        ({"words": "a", "join": "sum"}, "join must be 'rank' or 'weight', got 'sum'"),
        ({"text": "a", "join": "rank"}, "join says how words are joined with the rest: expected a part with words"),
        ({"parts": [{"text": "a"}, {"words": "b", "weight": -1}]}, "parts[1].weight of words must be above 0, got -1"),
        ({"parts": [{"words": "b", "weight": 0}]}, "parts[0].weight must not be 0"),
        ({"parts": [{"text": "a"}, {"words": "!"}]}, "parts[1].words: expected words to look for, got none"),
    ],
)
def test_what_makes_no_sense_is_refused(client: httpx.Client, fields: dict[str, Any], message: str | None) -> None:
    answer = client.post("/search", json=fields)
    if message is None:
        assert answer.status_code == 200
        return
    assert answer.status_code in (400, 413)
    assert message in answer.json()["error"]["message"]


def test_an_index_without_words_says_so() -> None:
    encoder = FakeEncoder()
    with serving(encoder, MemoryIndex(encoder, [stored("note", Item(text="a note"))])) as client:
        answer = client.post("/search", json={"words": "note"})
    assert answer.status_code == 400
    assert "has no words" in answer.json()["error"]["message"]
