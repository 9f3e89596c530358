"""POST /embed gives the vectors that the encoder makes, each item on its own, in batches behind those of searches."""

import base64
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Ability, Role
from anykey.index.faiss_index import FaissIndex
from tests.fakes import FakeEncoder, FakePrepared
from tests.service_inputs import as_base64, png
from tests.serving import GatedEncoder, MemoryIndex, counters, serving, stored, until

RED, BLUE = png((250, 0, 0)), png((0, 0, 250))


class PromptedEncoder(FakeEncoder):
    """Prompts keys with a word of its own, so that the role is seen in the vector."""

    def prepare(self, item: Item, role: Role, text_weight: float = 0.5, instruction: str | None = None) -> FakePrepared:
        """As the fake encoder; a key's instruction is a word of four letters unless another is given."""
        prompt = "page" if role is Role.KEY and instruction is None else instruction
        return super().prepare(item, role, text_weight, prompt)


@pytest.fixture(scope="module")
def encoder() -> PromptedEncoder:
    return PromptedEncoder(widths=(3, 6, 8))


@pytest.fixture(scope="module")
def embedding(encoder: PromptedEncoder) -> Iterator[httpx.Client]:
    index = MemoryIndex(encoder, [stored("note", Item(text="a note"))])
    with serving(encoder, index, max_embed_items=40, max_text_chars=200, max_image_bytes=5000) as client:
        yield client


def vector_of(encoder: FakeEncoder, item: Item, role: Role, **asked: Any) -> NDArray[np.float32]:
    """The slow twin: the item alone, through the encoder itself."""
    return encoder.encode_prepared([encoder.prepare(item, role, **asked)])[0]


ITEMS: list[tuple[dict[str, Any], Item, dict[str, Any]]] = [
    ({"text": "a red mug"}, Item(text="a red mug"), {}),
    ({"image": as_base64(RED)}, Item(images=(RED,)), {}),
    ({"image": "data:image/png;base64," + as_base64(BLUE)}, Item(images=(BLUE,)), {}),
    ({"image": [as_base64(RED), as_base64(BLUE)]}, Item(images=(RED, BLUE)), {}),
    ({"text": "but blue", "image": as_base64(RED)}, Item(text="but blue", images=(RED,)), {}),
    (
        {"text": "but blue", "image": as_base64(RED), "text_weight": 0.2},
        Item(text="but blue", images=(RED,)),
        {"text_weight": 0.2},
    ),
    ({"text": "mug", "instruction": "find shops"}, Item(text="mug"), {"instruction": "find shops"}),
]


@pytest.mark.parametrize("role", [None, "query", "key"])
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_each_vector_is_the_encoders(
    embedding: httpx.Client, encoder: PromptedEncoder, role: str | None, encoding: str | None
) -> None:
    body = {"items": [fields for fields, _, _ in ITEMS], "role": role, "encoding": encoding}
    answer = embedding.post("/embed", json={name: value for name, value in body.items() if value is not None}).json()
    assert (answer["role"], answer["encoding"], answer["width"]) == (role or "query", encoding or "float", 8)
    assert (answer["model"], answer["model_fingerprint"]) == (encoder.name, encoder.fingerprint)
    for (_, item, asked), told in zip(ITEMS, answer["items"], strict=True):
        sent = told["vector"]
        vector_D = np.frombuffer(base64.b64decode(sent), "<f4") if encoding == "base64" else np.array(sent, np.float32)
        np.testing.assert_array_equal(vector_D, vector_of(encoder, item, Role(role or "query"), **asked))
        assert (told["modality"], told["text_cut"], told["error"]) == (item.modality, False, None)
    prepared = [encoder.prepare(item, Role(role or "query"), **asked) for _, item, asked in ITEMS]
    assert answer["num_tokens"] == sum(one.num_tokens for one in prepared), "as many, whether cached or not"


def test_a_vector_is_cut_to_a_width_that_the_model_was_trained_for(embedding: httpx.Client) -> None:
    whole, cut = (
        embedding.post("/embed", json={"items": [{"text": "abc ab"}], "width": width}).json() for width in (8, 6)
    )
    head_D = np.array(whole["items"][0]["vector"][:6])
    assert cut["width"] == 6
    np.testing.assert_allclose(cut["items"][0]["vector"], head_D / np.linalg.norm(head_D), atol=1e-6)
    refused = embedding.post("/embed", json={"items": [{"text": "abc ab"}], "width": 5})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "width: model fake gives vectors of 3, 6, 8 numbers, got 5"
    assert embedding.get("/info").json()["model"]["widths"] == [3, 6]
    assert embedding.post("/embed", json={"items": [{"text": "abc ab"}], "width": 3}).status_code == 400, "all zero"


def test_what_is_wrong_with_an_item_is_told_in_its_place(embedding: httpx.Client) -> None:
    wrong: list[tuple[Any, str, str]] = [
        ({"text": " "}, "invalid_request", "expected text, image, or both"),
        ({"image": as_base64(b"no picture")}, "undecodable_image", "cannot decode 10 bytes"),
        ({"image": "%%%"}, "invalid_request", "image: not valid base64"),
        ({"image": "http://127.0.0.1/a.png"}, "invalid_request", "addresses are not fetched"),
        ({"image": as_base64(b"x" * 6000)}, "item_too_large", "at most 5000"),
        ({"text": "x" * 201}, "item_too_large", "at most 200"),
        ({"text": "a", "k": 3}, "invalid_request", "unknown field 'k' of an item; known: text, image"),
        ({"text": "a", "text_weight": 2}, "invalid_request", "text_weight must be a number from 0 to 1"),
        ({"text": 3}, "invalid_request", "text must be a string, got 3"),
        ("a red mug", "invalid_request", 'expected an object such as {"text": "a red mug"}'),
    ]
    items = [item for entry in wrong for item in (entry[0], {"text": "a red mug"})]
    answer = embedding.post("/embed", json={"items": items})
    assert answer.status_code == 200
    told = answer.json()["items"]
    for number, (_, kind, message) in enumerate(wrong):
        error = told[2 * number]["error"]
        assert error["type"] == kind
        assert error["message"].startswith(f"items[{2 * number}]: ")
        assert message in error["message"]
        assert error["request_id"] == answer.headers["x-request-id"]
        assert told[2 * number]["vector"] is None
        assert told[2 * number + 1]["error"] is None
        assert told[2 * number + 1]["vector"] == told[1]["vector"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ([], 400, "the body must be a JSON object"),
        ({}, 400, "items: expected a list of at least one item"),
        ({"items": []}, 400, "items: expected a list of at least one item"),
        ({"items": {"text": "a"}}, 400, "items: expected a list of at least one item"),
        ({"items": [{"text": "a"}], "input": "a"}, 400, "unknown field 'input'; known: items, role, encoding, width"),
        ({"items": [{"text": "a"}], "role": "document"}, 400, "role must be one of 'query', 'key', got 'document'"),
        ({"items": [{"text": "a"}], "encoding": "int8"}, 400, "encoding must be one of 'float', 'base64', got 'int8'"),
        ({"items": [{"text": "a"}], "width": "8"}, 400, "width must be a whole number, got '8'"),
        ({"items": [{"text": "a"}] * 41}, 413, "items: 41 items, at most 40 are accepted"),
    ],
)
def test_a_body_that_is_wrong_is_refused(embedding: httpx.Client, body: Any, status: int, message: str) -> None:
    answer = embedding.post("/embed", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)


def test_nothing_beside_the_body_is_dropped(embedding: httpx.Client) -> None:
    item = {"items": [{"text": "a red mug"}]}
    assert embedding.post("/embed?role=key", json=item).status_code == 400
    assert embedding.post("/embed", data={"items": "a"}).status_code == 415
    packed = gzip.compress(json.dumps(item).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert embedding.post("/embed", content=packed, headers=headers).json()["items"][0]["error"] is None


def test_vectors_of_queries_are_those_that_searches_keep(embedding: httpx.Client) -> None:
    item = {"text": "kept once"}
    first, again = (embedding.post("/embed", json={"items": [item]}).json()["items"][0]["cached"] for _ in range(2))
    assert (first, again) == (False, True)
    assert embedding.post("/search", json=item).json()["cached"]
    as_key = {"items": [item], "role": "key"}
    assert [embedding.post("/embed", json=as_key).json()["items"][0]["cached"] for _ in range(2)] == [False, False]


def test_what_a_model_cannot_embed_is_told() -> None:
    reader = FakeEncoder(modalities={Modality.TEXT}, supports={Ability.TEXT_WEIGHT})
    with serving(reader, MemoryIndex(reader, [])) as client:
        items = [{"image": as_base64(RED)}, {"text": "mug", "instruction": "find"}, {"text": "mug"}]
        told = client.post("/embed", json={"items": items}).json()["items"]
    assert [one["error"] and one["error"]["type"] for one in told] == ["unsupported_modality", "invalid_request", None]
    assert told[0]["error"]["message"] == "items[0]: model fake embeds no image items, but text"


def test_items_share_batches_and_searches_go_first() -> None:
    encoder = GatedEncoder()
    with serving(encoder, MemoryIndex(encoder, [stored("note", Item(text="a note"))]), max_batch_items=8) as client:
        encoder.batches.clear()
        encoder.gate.clear()
        many = {"items": [{"text": f"word {number}"} for number in range(40)]}
        with httpx.Client(base_url=client.base_url, timeout=20) as other, ThreadPoolExecutor(2) as threads:
            embedded = threads.submit(other.post, "/embed", json=many)
            encoder.wait_until_entered()
            until(lambda: counters(client, "batcher")["later_queued"] >= 8, "items wait")
            found = threads.submit(client.post, "/search", json={"text": "now"})
            until(lambda: counters(other, "batcher")["queued"] == 1, "a search waits")
            encoder.gate.set()
            assert found.result().status_code == 200
            assert all(one["error"] is None for one in embedded.result().json()["items"])
    assert 1 in encoder.batches[1:3], "the search is the next batch, or that after one whose turn had come"
    assert max(encoder.batches) > 1
    assert sum(encoder.batches) == 41


def test_lists_that_are_too_many_together_are_refused_at_once() -> None:
    encoder = GatedEncoder()
    settings = {"max_embed_items": 10, "max_embed_queue": 12}
    with serving(encoder, MemoryIndex(encoder, []), **settings) as client:
        encoder.gate.clear()
        with ThreadPoolExecutor(1) as threads:
            ten = {"items": [{"text": f"word {number}"} for number in range(10)]}
            first = threads.submit(client.post, "/embed", json=ten)
            encoder.wait_until_entered()
            with httpx.Client(base_url=client.base_url, timeout=20) as other:
                refused = other.post("/embed", json=ten)
            encoder.gate.set()
            assert first.result().status_code == 200
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert client.post("/embed", json=ten).status_code == 200, "the places are given back"


def test_a_batch_that_fails_is_told_of_its_items_alone() -> None:
    encoder = GatedEncoder()
    encoder.failures = [RuntimeError("the encoder broke")] * 2  # on a batch, and again on the first of its items
    with serving(encoder, MemoryIndex(encoder, []), max_batch_items=2, max_wait_ms=50) as client:
        items = {"items": [{"text": f"word {number}"} for number in range(4)]}
        told = client.post("/embed", json=items).json()["items"]
    kinds = [one["error"] and one["error"]["type"] for one in told]
    assert set(kinds) == {None, "internal"}
    assert kinds.count("internal") <= 2, "those of one batch"


def test_it_works_over_an_index_directory(
    client: httpx.Client, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    vector = client.post("/embed", json={"items": [{"text": "plain"}], "role": "key"}).json()["items"][0]["vector"]
    (hits,) = wire_index.search(np.array([vector], np.float32), 1)
    assert hits[0].key == "plain"
    assert hits[0].score == pytest.approx(1.0)
