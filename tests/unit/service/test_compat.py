"""Other people's dialects, as they are on the wire: every spelling of an item, and what is refused."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item, Modality
from anykey.service.app import create_app
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, jpeg, png
from tests.serving import MemoryIndex, make_settings, running, serving, stored
from tests.unit.service.test_embed import PromptedEncoder
from tests.unit.service.test_reranking import FakeScorer

RED, BLUE = png((250, 40, 0)), png((0, 40, 250))
URI = "data:image/png;base64," + as_base64(RED)
TEXT, IMAGE = {"text": "a red mug"}, {"image": as_base64(RED)}
FUSED = {**TEXT, **IMAGE}
FRAMES = {"image": [as_base64(RED), as_base64(BLUE)]}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    encoder = PromptedEncoder(widths=(6,))
    settings = make_settings(max_embed_items=5, max_text_chars=400, max_image_bytes=5000, max_rerank_top=3, max_k=3)
    index = MemoryIndex(encoder, [stored("note", Item(text="a note"))])
    scorers = [FakeScorer(), FakeScorer("sees", list(Modality))]
    with running(create_app(settings, encoder=encoder, index=index, rerankers=scorers)) as client:
        yield client


def embed(client: httpx.Client, *items: dict[str, Any], role: str = "query") -> list[list[float]]:
    """What POST /embed gives."""
    answer = client.post("/embed", json={"items": items, "role": role}).json()
    return [one["vector"] for one in answer["items"]]


def vectors(answer: httpx.Response) -> list[list[float]]:
    """What an answer of OpenAI's shape gives, in its order."""
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    return [one["embedding"] for one in data]


def refusal(answer: httpx.Response, status: int = 400) -> str:
    """The sentence of an error, which is in all the places where clients look."""
    body = answer.json()
    assert answer.status_code == status, body
    assert body["detail"] == body["message"] == body["error"]["message"]
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    sentence: str = body["detail"]
    return sentence


def user(*content: Any) -> dict[str, Any]:
    """A message of a user."""
    return {"role": "user", "content": list(content)}


TEXT_PART, IMAGE_PART = {"type": "text", "text": "a red mug"}, {"type": "image_url", "image_url": {"url": URI}}
SPELLINGS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"input": "a red mug"}, [TEXT]),
    ({"input": ["a red mug", "b"]}, [TEXT, {"text": "b"}]),
    ({"input": URI}, [IMAGE]),
    ({"input": [URI, "a red mug"]}, [IMAGE, TEXT]),
    ({"input": [URI], "modality": "image"}, [IMAGE]),
    ({"input": [as_base64(RED)], "modality": "image"}, [IMAGE]),
    ({"input": "data:image/ is how it begins", "modality": "text"}, [{"text": "data:image/ is how it begins"}]),
    ({"input": [TEXT, IMAGE]}, [TEXT, IMAGE]),
    ({"input": FUSED}, [FUSED]),
    ({"input": [FUSED, TEXT]}, [FUSED, TEXT]),
    ({"input": [{"url": URI}, {"bytes": as_base64(RED)}, {"image": URI}]}, [IMAGE, IMAGE, IMAGE]),
    (
        {"input": [{"type": "image_base64", "image_base64": {"base64": as_base64(RED), "mime_type": "image/png"}}]},
        [IMAGE],
    ),
    ({"input": [{"type": "image_base64", "image_base64": URI}]}, [IMAGE]),
    ({"input": [{"type": "image_url", "image_url": URI}]}, [IMAGE]),
    ({"input": [{"type": "input_image", "image_url": URI}]}, [IMAGE]),
    ({"input": [{"content": [TEXT_PART, {"type": "image", "format": "base64", "value": as_base64(RED)}]}]}, [FUSED]),
    ({"input": [{"content": [TEXT_PART, IMAGE_PART]}, {"content": "a red mug"}]}, [FUSED, TEXT]),
    ({"input": [{"content": [TEXT_PART, {"type": "text", "text": "b"}]}]}, [{"text": "a red mug\nb"}]),
    ({"input": [{"content": [IMAGE_PART, {"type": "image", "image": as_base64(BLUE)}]}]}, [FRAMES]),
    ({"input": [{"image": [URI, as_base64(BLUE)]}]}, [FRAMES]),
    ({"input": [user(TEXT_PART, IMAGE_PART)]}, [FUSED]),
    ({"messages": [user(TEXT_PART, IMAGE_PART)]}, [FUSED]),
    ({"messages": [user(TEXT_PART), user(IMAGE_PART)]}, [FUSED]),
    ({"messages": [[user(TEXT_PART)], [user(IMAGE_PART)]]}, [TEXT, IMAGE]),
    (
        {
            "messages": [
                {"role": "system", "content": "find shops"},
                user(TEXT_PART),
                {"role": "assistant", "content": ""},
            ]
        },
        [{**TEXT, "instruction": "find shops"}],
    ),
    (
        {"input": [{**TEXT, "instruction": "find shops"}, {"content": [TEXT_PART], "instruction": "find shops"}]},
        [{**TEXT, "instruction": "find shops"}] * 2,
    ),
    ({"input": "a red mug", "dimensions": None, "user": "me", "normalized": True, "model": None}, [TEXT]),
]


@pytest.mark.parametrize(("body", "items"), SPELLINGS)
def test_an_item_may_be_spelt_in_many_ways(
    client: httpx.Client, body: dict[str, Any], items: list[dict[str, Any]]
) -> None:
    expected = embed(client, *items)
    for address in ("/v1/embeddings", "/embeddings", "/indexes/default/v1/embeddings"):
        assert vectors(client.post(address, json=body)) == expected


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        ({}, "query"),
        ({"input_type": None}, "query"),
        ({"input_type": "query"}, "query"),
        ({"input_type": "document"}, "key"),
        ({"input_type": "passage"}, "key"),
        ({"task": "retrieval.query"}, "query"),
        ({"task": "retrieval.passage"}, "key"),
        ({"task": "text-matching"}, "key"),
    ],
)
def test_the_role_is_said_in_many_ways(client: httpx.Client, fields: dict[str, Any], role: str) -> None:
    assert vectors(client.post("/v1/embeddings", json={"input": "a", **fields})) == embed(
        client, {"text": "a"}, role=role
    )


WRONG: list[tuple[Any, str]] = [
    ([], "the body must be a JSON object, got a list"),
    ({}, "input: expected a text, an image, or a list of them; it is absent"),
    ({"input": None}, "input: expected a text, an image, or a list of them; it is absent"),
    ({"input": []}, "input: expected at least one item, got none"),
    ({"input": "a", "messages": [user(TEXT_PART)]}, "expected input or messages, got both"),
    ({"input": 3}, "input: expected a string, an object with text, image or both"),
    ({"input": [1, 2]}, "input: token ids are not read; send the text"),
    ({"input": [[1, 2], [3]]}, "input[0]: token ids are not read; send the text"),
    ({"input": ["a", ""]}, "input[1]: expected a text, an image, or both; both are absent or empty"),
    ({"input": [{}]}, "input[0]: expected a string, an object with text, image or both"),
    ({"input": [{"text": 3}]}, "input[0].text: expected a string, got 3"),
    ({"input": [{"image": 3}]}, "input[0].image: expected an image as base64 or as a data URI, got 3"),
    (
        {"input": [{"image": {"href": "x"}}]},
        "input[0].image: expected an image as base64 or as a data URI, got an object",
    ),
    ({"input": [{"image": "http://127.0.0.1/a.png"}]}, "input[0].image: addresses are not fetched"),
    ({"input": [{"image": "%%%"}]}, "input[0].image: not valid base64"),
    (
        {"input": [{"type": "video_url", "video_url": {"url": "x"}}]},
        "input[0]: expected type text or image, got 'video_url'",
    ),
    ({"input": [{"text": "a", "audio": "x"}]}, "input[0].audio: only texts and images are embedded"),
    (
        {"input": [{"content": [TEXT_PART, {"type": "input_audio"}]}]},
        "input[0].content[1]: expected type text or image",
    ),
    ({"input": [{"content": 3}]}, "input[0].content: expected a string or a list of parts, got 3"),
    ({"input": [{"type": ["text"], "text": "a"}]}, "input[0]: expected type text or image, got a list"),
    ({"messages": "hi"}, "messages: expected a list, got 'hi'"),
    (
        {"messages": [user(TEXT_PART), {"role": "assistant", "content": "yes"}]},
        "messages[1]: expected role user or system",
    ),
    ({"messages": [user(TEXT_PART), "a"]}, "messages[1]: expected a message with role and content, got 'a'"),
    ({"messages": [{"role": "system", "content": [IMAGE_PART]}]}, "messages[0].content: expected a text, got a list"),
    (
        {"input": "a", "model": "clip"},
        "model 'clip' is not served; known: anykey, fake; the setting model_names adds more",
    ),
    ({"input": "a", "dimensions": 5}, "dimensions: model fake gives vectors of 6, 8 numbers, got 5"),
    ({"input": "a", "dimensions": "6"}, "dimensions must be a whole number, got '6'"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format: known are float, binary, ubinary, got 'int8'"),
    (
        {"input": "a", "encoding_type": "binary", "embedding_type": "ubinary"},
        "encoding_type and embedding_type: expected one fo",
    ),
    ({"input": "a", "modality": "audio"}, "modality: expected text or image, got 'audio'"),
    ({"input": "a", "input_type": "question"}, "input_type must be one of query, search_query"),
    ({"input": "a", "dimensions": 6, "output_dimension": 8}, "expected dimensions or output_dimension, got both"),
    ({"input": "a", "output_dimension": 5}, "output_dimension: model fake gives vectors of 6, 8 numbers, got 5"),
    ({"input": "a", "output_dtype": "int8"}, "output_dtype: known are float, binary, ubinary, got 'int8'"),
    ({"input": "a", "input_type": "document", "task": "retrieval.query"}, "input_type and task: expected one of both"),
    ({"input": "a", "truncate": "END", "truncation": False}, "expected truncate or truncation, got both"),
    ({"input": "a", "truncation_side": "left"}, "truncation_side: texts are cut at their end, right, got 'left'"),
    ({"input": "a", "normalized": False}, "normalized: each vector has the length 1, true, got false"),
    ({"input": "a", "use_activation": 1}, "use_activation: each vector has the length 1, true, got 1"),
    ({"input": "a", "add_special_tokens": False}, "add_special_tokens: the model's own tokens begin and end"),
    ({"input": "a", "chat_template": "{{x}}"}, "chat_template: the model has its own"),
    ({"input": "a", "mm_processor_kwargs": {"size": 2}}, "mm_processor_kwargs: images are made ready"),
    ({"input": "a", "instruction": "find"}, "instruction: what to look for is the content of a system message"),
    ({"input": [{"content": [IMAGE_PART], "text": "b"}]}, "input[0]: expected all of an item in content, got text"),
    ({"input": [{"content": "b", "image": URI}]}, "input[0]: expected all of an item in content, got image"),
    ({"messages": [{**user(TEXT_PART), "images": [URI]}]}, "messages[0]: expected all of an item in content, got ima"),
    ({"input": [{"text": "b", "text_weight": 0.9}]}, "input[0].text_weight: ask POST /embed"),
    ({"input": [{"image": {"url": URI, "base64": as_base64(BLUE)}}]}, "input[0].image: expected one image, got url"),
    ({"input": "a", "late_chunking": True}, "late_chunking: each item is embedded on its own"),
    ({"input": "a", "truncate": "START"}, "truncate: texts are cut at their end or not at all, got 'START'"),
    (
        {"input": "a", "truncate_prompt_tokens": 7},
        "truncate_prompt_tokens: texts are cut where the model's context ends",
    ),
    ({"input": "a", "endianness": "big"}, "endianness: expected little, got 'big'"),
    ({"input": "a", "embed_dtype": "float16"}, "embed_dtype: expected float32, got 'float16'"),
    ({"input": "\ud800"}, "input: half a surrogate pair at character 0"),
]


@pytest.mark.parametrize(("body", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_would_be_wrong_is_refused(client: httpx.Client, body: Any, message: str) -> None:
    sent = json.dumps(body).encode()
    answer = client.post("/v1/embeddings", content=sent, headers={"content-type": "application/json"})
    assert refusal(answer).startswith(message)


def test_limits_hold_for_each_item_and_for_all(client: httpx.Client) -> None:
    assert "6 items, at most 5 are accepted" in refusal(client.post("/v1/embeddings", json={"input": ["a"] * 6}), 413)
    assert "input[0]: the text has 401 characters" in refusal(
        client.post("/embeddings", json={"input": ["x" * 401]}), 413
    )
    large = {"image": as_base64(b"x" * 5001)}
    assert "input[0].image: the image has 5001" in refusal(client.post("/v1/embeddings", json={"input": [large]}), 413)
    many = {"content": [IMAGE_PART] * 9}
    assert "at most 8 images" in refusal(client.post("/v1/embeddings", json={"input": [many]}), 413)
    broken = {"input": ["a", {"image": as_base64(b"no picture")}]}
    assert "input[1]: cannot decode 10 bytes" in refusal(client.post("/v1/embeddings", json=broken), 422)


def test_a_client_need_not_say_that_it_sends_json_and_may_compress_it(client: httpx.Client) -> None:
    body = json.dumps({"input": "a red mug"}).encode()
    expected = embed(client, TEXT)
    request = client.build_request("POST", "/v1/embeddings", content=body)
    assert "content-type" not in request.headers
    assert vectors(client.send(request)) == expected
    packed = client.post("/v1/embeddings", content=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert vectors(packed) == expected
    assert refusal(client.post("/v1/embeddings?dimensions=6", content=body)).startswith(
        "unknown parameter 'dimensions'"
    )
    assert refusal(client.post("/v1/embeddings", data={"input": "a"}), 415).startswith("expected Content-Type")
    assert client.post("/v1/embeddings", content=b"{").json()["detail"].startswith("the body must be JSON")


def test_forms_of_vectors(client: httpx.Client) -> None:
    whole_D = np.array(embed(client, TEXT)[0], np.float32)

    def ask(**fields: Any) -> Any:
        return vectors(client.post("/v1/embeddings", json={"input": "a red mug", **fields}))[0]

    assert ask(encoding_format="float") == whole_D.tolist()
    assert np.frombuffer(base64.b64decode(ask(encoding_format="base64")), "<f4").tolist() == whole_D.tolist()
    assert ask(encoding_type="ubinary") == np.packbits(whole_D > 0).tolist()
    assert ask(embedding_type="binary") == (np.packbits(whole_D > 0).astype(int) - 128).tolist()
    signs = base64.b64decode(ask(output_dtype="ubinary", encoding_format="base64"))
    assert signs == np.packbits(whole_D > 0).tobytes()
    head_D = whole_D[:6] / np.linalg.norm(whole_D[:6])
    np.testing.assert_allclose(ask(dimensions=6), head_D, atol=1e-6)
    np.testing.assert_allclose(ask(output_dimension=6), head_D, atol=1e-6)
    assert ask(dimensions=8) == ask(dimensions=0) == whole_D.tolist()


def test_a_long_text_is_cut_and_told_or_an_error(client: httpx.Client) -> None:
    long = " ".join(["ab"] * 61)
    answer = client.post("/v1/embeddings", json={"input": [long, "ab"]})
    assert [one["text_cut"] for one in answer.json()["data"]] == [True, False]
    for fields in ({"truncate": False}, {"truncate": "NONE"}, {"truncation": False}):
        refused = client.post("/v1/embeddings", json={"input": ["ab", long], **fields})
        assert refusal(refused) == "input[1]: the text has more than the 62 tokens that the model reads"
        assert client.post("/v1/embeddings", json={"input": ["ab"], **fields}).status_code == 200
    refused = client.post("/v2/embed", json={"texts": [long], "input_type": "search_query", "truncate": "NONE"})
    assert refusal(refused).startswith("texts[0]: the text has more")
    assert refusal(client.post("/v2/embed", json={"texts": [long], "truncate": "START"})).startswith("truncate: ")


def test_cohere_is_asked_for_one_kind_of_items(client: httpx.Client) -> None:
    for body, message in (
        ({"texts": ["a"], "images": [URI]}, "expected one of texts, images and inputs, got texts, images"),
        ({"input_type": "search_query"}, "expected one of texts, images and inputs, got none of them"),
        ({"texts": []}, "texts: expected at least one item, got none"),
        ({"texts": "a"}, "texts must be a list, got 'a'"),
        ({"texts": ["a"], "embedding_types": ["float", "uint8"]}, "embedding_types: known are float"),
        ({"texts": ["a"], "input_type": "search"}, "input_type must be one of query, search_query"),
        ({"texts": ["a"], "model": "embed-v4.0"}, "model 'embed-v4.0' is not served"),
        ({"texts": ["a"], "output_dimension": 7}, "output_dimension: model fake gives"),
        ({"texts": ["a"], "max_tokens": 2}, "max_tokens: texts are cut where the model's context ends, at 62 tokens"),
        ({"inputs": [{"content": []}]}, "inputs[0]: expected a text, an image, or both"),
    ):
        assert refusal(client.post("/v2/embed", json=body)).startswith(message)
    body = {"inputs": [{"content": [TEXT_PART, IMAGE_PART]}, {"content": [TEXT_PART]}], "input_type": "clustering"}
    assert client.post("/v2/embed", json=body).json()["embeddings"]["float"] == embed(client, FUSED, TEXT, role="key")


def test_voyage_takes_content_and_images_of_both_spellings(client: httpx.Client) -> None:
    body = {
        "inputs": [
            {"content": [TEXT_PART, {"type": "image_base64", "image_base64": URI}]},
            {"content": [{"type": "image_url", "image_url": URI}]},
        ],
        "input_type": "document",
        "output_dtype": None,
    }
    assert vectors(client.post("/v1/multimodalembeddings", json=body)) == embed(client, FUSED, IMAGE, role="key")
    for fields, message in (
        ({"inputs": []}, "inputs: expected at least one item"),
        ({"encoding_format": "float"}, "encoding_format: expected base64 or none, got 'float'"),
        ({"output_dtype": "int8"}, "output_dtype: known are float"),
    ):
        assert refusal(client.post("/v1/multimodalembeddings", json={**body, **fields})).startswith(message)


def cosines(client: httpx.Client, query: dict[str, Any], documents: list[dict[str, Any]]) -> list[float]:
    """Scores by hand."""
    (query_D,) = np.array(embed(client, query), np.float32)
    return [float(row @ query_D) for row in np.array(embed(client, *documents, role="key"), np.float32)]


def test_rerank_by_cosine_takes_all_modalities(client: httpx.Client) -> None:
    documents = [TEXT, IMAGE, FUSED, {"text": "bb ccc"}]
    sent = ["a red mug", {"image": URI}, {"content": [TEXT_PART, IMAGE_PART]}, {"text": "bb ccc"}]
    for query, spelt in ((TEXT, "a red mug"), (IMAGE, {"image": URI}), (FUSED, {"content": [TEXT_PART, IMAGE_PART]})):
        scores = cosines(client, query, documents)
        order = sorted(range(4), key=lambda number: -scores[number])
        for address in ("/v1/rerank", "/rerank", "/v2/rerank", "/indexes/default/v1/rerank"):
            results = client.post(address, json={"query": spelt, "documents": sent}).json()["results"]
            assert [one["index"] for one in results] == order
            np.testing.assert_allclose(
                [one["relevance_score"] for one in results], sorted(scores, reverse=True), atol=1e-6
            )
    best = client.post(
        "/v1/rerank", json={"query": "a red mug", "documents": sent, "top_n": 1, "return_documents": True}
    )
    assert len(best.json()["results"]) == 1
    results = client.post("/v1/rerank", json={"query": "a", "documents": sent, "return_documents": True}).json()[
        "results"
    ]
    shown = {one["index"]: one["document"] for one in results}
    assert shown == {0: {"text": "a red mug"}, 1: sent[1], 2: sent[2], 3: sent[3]}


def test_documents_that_cannot_be_sent_back_are_refused(client: httpx.Client) -> None:
    for document, message in (
        (b'{"text": "a", "n": 1e999}', "documents[1].n must be a finite number, got inf"),
        (b'{"text": "a", "n": "\\ud800"}', "documents[1].n: half a surrogate pair at character 0"),
        (b'{"text": "a", "n": ' + b"[" * 900 + b"]" * 900 + b"}", "documents: expected objects and lists at most 100"),
    ):
        for name in ("/v1/rerank", "/v2/rerank"):
            body = b'{"query": "a", "return_documents": true, "documents": ["b", ' + document + b"]}"
            answer = client.post(name, content=body, headers={"content-type": "application/json"})
            assert refusal(answer).startswith(message)


def test_voyages_rerank_is_answered_in_its_shape(client: httpx.Client) -> None:
    body = {"query": "a", "documents": ["bb", "a"], "top_k": None, "truncation": True, "return_documents": True}
    answer = client.post("/v1/rerank", json=body).json()
    assert "results" not in answer
    assert [one["document"] for one in answer["data"]] == ["a", "bb"]
    long = " ".join(["ab"] * 61)
    refused = client.post("/v1/rerank", json={**body, "documents": ["a", long], "truncation": False})
    assert refusal(refused).startswith("documents[1]: the text has more than the 62 tokens")


def test_rerank_by_a_cross_encoder_that_is_named(client: httpx.Client) -> None:
    body = {"model": "long", "query": "a", "documents": ["bb", "cccc", "d"]}
    answer = client.post("/v1/rerank", json=body).json()
    assert [(one["index"], one["relevance_score"]) for one in answer["results"]] == [(1, 4.0), (0, 2.0), (2, 1.0)]
    assert (answer["model"], answer["usage"]["total_tokens"]) == ("long", 7)
    seen = client.post(
        "/v2/rerank", json={"model": "sees", "query": {"image": URI}, "documents": ["bb", {"image": URI}]}
    )
    assert [(one["index"], one["relevance_score"]) for one in seen.json()["results"]] == [(1, 100.0), (0, 2.0)]
    for fields, status, message in (
        ({"documents": ["a", {"image": URI}]}, 422, "documents[1]: reranker long reads texts, and no image"),
        ({"query": {"image": URI}}, 422, "query: reranker long reads texts, and no image"),
        ({"documents": ["a"] * 4}, 413, "documents: 4, at most 3 are accepted for a reranker"),
        ({"model": "longer"}, 400, "model 'longer' is not served; known: anykey, fake, long, sees"),
        ({"top_n": 0}, 400, "top_n must be 1 or more, got 0"),
        ({"top_n": 1, "top_k": 1}, 400, "expected top_n or top_k, got both"),
        ({"query": None}, 400, "query: expected a text, an image, or both; it is absent"),
        ({"documents": []}, 400, "documents: expected at least one item"),
        ({"rank_fields": ["title"]}, 400, "rank_fields: a document is its text, its images or both"),
        (
            {"truncate_prompt_tokens": 2},
            400,
            "truncate_prompt_tokens: texts are cut where the model's context ends, -1",
        ),
        ({"use_activation": False}, 400, "use_activation: scores are those that the model gives"),
        ({"max_tokens_per_doc": 4}, 400, "max_tokens_per_doc: texts are cut where the model's context ends, at 8"),
    ):
        assert refusal(client.post("/v1/rerank", json={**body, **fields}), status).startswith(message)
    broken = {"model": "sees", "query": "a", "documents": [{"image": as_base64(b"no picture")}]}
    assert refusal(client.post("/v1/rerank", json=broken), 422).startswith("documents[0]: cannot decode")


def predict(client: httpx.Client, entries: Any, **sent: Any) -> httpx.Response:
    """A request as immich's server makes it: a form with JSON in a field."""
    files: dict[str, Any] = {"image": ("blob", sent["image"], "application/octet-stream")} if "image" in sent else {}
    if "text" in sent:
        files["text"] = (None, sent["text"])
    return client.post("/predict", files={"entries": (None, json.dumps(entries)), **files})


def test_immich_gets_its_vectors_as_text(client: httpx.Client) -> None:
    assert client.get("/ping").text == "pong"
    textual = {"clip": {"textual": {"modelName": "anykey", "options": {"language": "en"}}}}
    answer = predict(client, textual, text="a red mug").json()
    assert set(answer) == {"clip"}
    assert json.loads(answer["clip"]) == embed(client, TEXT)[0]
    photo = jpeg(size_px=(60, 40))
    answer = predict(client, {"clip": {"visual": {"modelName": "anykey"}}}, image=photo).json()
    assert (answer["imageWidth"], answer["imageHeight"]) == (60, 40)
    assert json.loads(answer["clip"]) == embed(client, {"image": as_base64(photo)}, role="key")[0]


def test_what_immich_asks_for_beyond_that_is_refused(client: httpx.Client) -> None:
    clip = {"clip": {"visual": {"modelName": "anykey"}}}
    for entries, sent, status, message in (
        ({"facial-recognition": {"detection": {}}}, {"image": RED}, 400, "entries: expected"),
        ({**clip, "ocr": {}}, {"image": RED}, 400, "entries: expected"),
        ({"clip": {}}, {"text": "a"}, 400, "entries: expected"),
        ([], {"text": "a"}, 400, "entries: expected"),
        (
            {"clip": {"visual": {"modelName": "ViT-B-32__openai"}}},
            {"image": RED},
            400,
            "model 'ViT-B-32__openai' is not served",
        ),
        (
            {"clip": {"visual": {"modelName": 3}}},
            {"image": RED},
            400,
            "entries.clip.visual.modelName: expected a string",
        ),
        (clip, {"text": "a"}, 400, "expected a field image with visual; it is absent"),
        ({"clip": {"textual": {}}}, {"image": RED}, 400, "expected a field text with textual; it is absent"),
        (clip, {"image": RED, "text": "a"}, 400, "text: expected nothing to embed beside what visual asks for"),
        ({"clip": {"textual": {}}}, {"text": " "}, 400, "text: expected a text, got an empty one"),
        ({"clip": {"textual": {}}}, {"text": "x" * 401}, 413, "text has 401 characters"),
        (clip, {"image": b""}, 400, "image: expected a file, got an empty one"),
        (clip, {"image": b"x" * 5001}, 413, "image has 5001 bytes"),
        (clip, {"image": b"no picture"}, 422, "image: cannot decode 10 bytes"),
    ):
        assert refusal(predict(client, entries, **sent), status).startswith(message)
    assert refusal(client.get("/indexes/none/ping"), 404).startswith("no index is called 'none'")
    assert refusal(client.post("/predict", files={"text": (None, "a")})).startswith("entries: expected")
    assert refusal(client.post("/predict", json=clip), 415).startswith("expected Content-Type multipart/form-data")


def test_an_operator_may_give_the_model_more_names() -> None:
    encoder = FakeEncoder()
    with serving(
        encoder, MemoryIndex(encoder, []), model_names=["ViT-B-32__openai", "text-embedding-3-small"]
    ) as client:
        body = {"input": "a", "model": "text-embedding-3-small"}
        assert client.post("/v1/embeddings", json=body).json()["model"] == "text-embedding-3-small"
        assert predict(client, {"clip": {"textual": {"modelName": "ViT-B-32__openai"}}}, text="a").status_code == 200
        named = [one["id"] for one in client.get("/v1/models").json()["data"]]
        assert named == ["anykey", "fake", "ViT-B-32__openai", "text-embedding-3-small"]
        assert client.get("/v1/models/ViT-B-32__openai").json()["root"] == "fake"
        assert refusal(client.get("/v1/models/clip/b"), 404).startswith("model 'clip/b' is not served")


def test_rerankers_are_among_the_models(client: httpx.Client) -> None:
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["anykey", "fake", "long", "sees"]
    assert [one["id"] for one in client.get("/models").json()["data"]] == ["anykey", "fake", "long", "sees"]


def test_health_is_told_once_the_service_is_ready(client: httpx.Client) -> None:
    assert client.get("/health").json()["unix"] > 1.7e9
    assert client.get("/health?from=load-balancer").status_code == 200


def test_errors_of_our_own_routes_have_no_more_places(client: httpx.Client) -> None:
    assert set(client.post("/search", json={}).json()) == {"error"}
    assert set(client.get("/nowhere").json()) == {"error"}
    assert set(client.get("/v1/embeddings").json()) == {"error", "detail", "message"}


def test_what_openai_offers_besides_vectors_is_refused(client: httpx.Client) -> None:
    body = {
        "query": "a",
        "max_num_results": 1,
        "ranking_options": {"hybrid_search": {"embedding_weight": 0.1, "text_weight": 0.9}},
    }
    message = refusal(client.post("/v1/vector_stores/default/search", json=body))
    assert message == "ranking_options.hybrid_search: results are found by vectors alone; leave it out"
