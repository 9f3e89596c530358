"""Protects what an answer shows of hits, and which hits it leaves out."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from tests.fakes import FakeEncoder
from tests.serving import MemoryIndex, serving, stored
from tests.unit.service.test_query_parts import asked, refused

METADATA: dict[str, Any] = {
    "price": 3,
    "size": {"width": 4, "height": 5},
    "sizes": [{"width": 1, "unit": "cm"}, {"unit": "m"}, 7, [{"width": 9}]],
    "a.b": None,
}


@pytest.fixture(scope="module")
def shop() -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    index = MemoryIndex(encoder, [stored("mug", Item(text="mug"), **METADATA), stored("bare", Item(text="bare one"))])
    with serving(encoder, index) as client:
        yield client


def payload(client: httpx.Client, *include: str) -> dict[str, Any]:
    shown: dict[str, Any] = asked(client, text="mug", include=list(include))["hits"][0]["payload"]
    return shown


def test_without_it_hits_have_what_they_always_had(shop: httpx.Client) -> None:
    (mug, bare) = asked(shop, text="mug")["hits"]
    assert mug["payload"] == {"text": "mug", "metadata": METADATA, "image_urls": []}
    assert set(bare) == {"key", "score", "rerank_score", "rank", "modality", "payload"}
    assert asked(shop, text="mug", include=None)["hits"] == [mug, bare]


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ([], {}),
        (["text"], {"text": "mug"}),
        (["image_urls", "text"], {"text": "mug", "image_urls": []}),
        (["metadata"], {"metadata": METADATA}),
        (["metadata", "metadata.price"], {"metadata": METADATA}),
        (["metadata.price"], {"metadata": {"price": 3}}),
        (["metadata.size.width", "metadata.price"], {"metadata": {"size": {"width": 4}, "price": 3}}),
        (["metadata.size", "metadata.size.width"], {"metadata": {"size": METADATA["size"]}}),
        (["metadata.size.width", "metadata.size"], {"metadata": {"size": METADATA["size"]}}),
        (["metadata.sizes.width"], {"metadata": {"sizes": [{"width": 1}, {"width": 9}]}}),
        ([r"metadata.a\.b"], {"metadata": {"a.b": None}}),
        (["metadata.a.b", "metadata.price.x", "metadata.none"], {"metadata": {}}),
    ],
    ids=str,
)
def test_what_is_included_is_shown_and_nothing_else(shop: httpx.Client, include: list[str], expected: Any) -> None:
    assert payload(shop, *include) == expected


@pytest.mark.parametrize(
    ("include", "message"),
    [
        (["texts"], "include: unknown name 'texts'; known: text, metadata, image_urls, vector"),
        (["metadata."], "include: wrong member of metadata"),
        (["metadata." + "a." * 20 + "a"], "include: wrong member of metadata"),
        ([r"metadata.a\b"], "include: wrong member of metadata"),
        (["text"] * 101, "include: at most 100 names, got 101"),
        (["text", 3], "include[1]"),
        ("text", "include"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_name_that_nothing_has_is_refused(shop: httpx.Client, include: Any, message: str) -> None:
    assert message in refused(shop, 400, "invalid_request", text="mug", include=include)


def test_a_hit_comes_with_the_vector_that_is_stored(client: httpx.Client, wire_index: FaissIndex) -> None:
    hits = asked(client, text="a red page", include=["vector"])["hits"]
    assert len(hits) == 9
    for hit in hits:
        assert np.array_equal(np.array(hit["vector"], np.float32), wire_index.vector(hit["key"]))
        assert hit["payload"] == {}
    again = asked(client, vector=hits[3]["vector"], exact=True, k=1)["hits"]
    assert again[0]["key"] == hits[3]["key"]


def test_hits_below_the_least_score_are_left_out_and_counted(client: httpx.Client) -> None:
    everything = asked(client, text="a red page")
    assert everything["num_below_min_score"] is None
    scores = [hit["score"] for hit in everything["hits"]]
    for least, expected in ((-1, 9), (scores[3], 4), (1, 0)):
        answer = asked(client, text="a red page", min_score=least)
        assert answer["hits"] == everything["hits"][:expected]
        assert answer["num_below_min_score"] == 9 - expected
    assert asked(client, text="a red page", min_score=scores[3], k=5)["num_below_min_score"] == 1


@pytest.mark.parametrize("least", [1.5, -2, "0.5", True, [], float("nan")])
def test_a_least_score_that_no_score_is_is_refused(client: httpx.Client, least: Any) -> None:
    if least == least:
        assert "min_score must be a number from -1 to 1, got" in refused(
            client, 400, "invalid_request", text="a", min_score=least
        )
    else:
        body = b'{"text": "a", "min_score": NaN}'
        response = client.post("/search", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400


def test_a_cut_text_is_noted_with_the_part_it_is_in(client: httpx.Client) -> None:
    long = "word " * 70
    cut = "the text is longer than the model's context, so that its end was not used"
    assert asked(client, text="short")["notes"] == []
    assert asked(client, text=long)["notes"] == [f"the query: {cut}"]
    answer = asked(client, parts=[{"text": "short"}, {"text": long, "weight": -0.2}])
    assert (answer["notes"], answer["text_cut"]) == ([f"parts[1]: {cut}"], True)
