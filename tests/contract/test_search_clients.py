"""Other people's search clients, real and unmodified, find what POST /search finds and store what GET /keys shows."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from tests.clients import search_driver
from tests.contract.test_clients import PYTHON
from tests.fakes import FakeEncoder
from tests.guards.checkout import ROOT
from tests.service_inputs import as_base64, png
from tests.serving import build_real_index, serving, stored

RED = png((250, 40, 0))
IMAGE = {"image": as_base64(RED)}
FUSED = {"text": "but blue", **IMAGE}
MUG = {"text": "mug"}
VECTOR = [1.0, 0.5] * 4
PAGE = ROOT / "docs" / "search-clients.md"
KEYS = [
    stored("sku-1", Item(text="a red mug"), lang="en", price=5, brand="x", tags=["a"]),
    stored("sku-2", Item(text="a blue mug"), lang="de", price=7, brand="y"),
    stored("sku-3", Item(images=(RED,)), lang="en", price=9, brand="x", tags=["a", "b"]),
    stored("7", Item(text="but blue", images=(RED,)), lang="fr"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    encoder = FakeEncoder()
    directory = build_real_index(tmp_path_factory.mktemp("search_clients"), encoder, KEYS)
    with FaissIndex.open(directory) as index, serving(encoder, index, writable=True) as client:
        yield client


@pytest.fixture(scope="module")
def outcomes(service: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each case of the driver gave or raised."""
    assert PYTHON.exists(), "the clients are not installed; run `make clients`"
    image = tmp_path_factory.mktemp("image") / "red.png"
    image.write_bytes(RED)
    address = str(service.base_url).rstrip("/")
    command = [str(PYTHON), "-m", "tests.clients.search_driver", address, str(image), str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def gave(outcomes: dict[str, dict[str, Any]], name: str) -> Any:
    outcome = outcomes[name]
    assert "gave" in outcome, outcome.get("trace")
    return outcome["gave"]


def hits(service: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """What POST /search finds among the keys that are there from the start."""
    asked = {"within": [key.key for key, _ in KEYS], **fields}
    response = service.post("/search", json=asked)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["hits"]
    return found


def scored(found: list[dict[str, Any]]) -> list[Any]:
    """Hits as Qdrant's clients show them: a key that is a number in decimal is one."""
    return [[int(hit["key"]) if hit["key"].isdecimal() else hit["key"], pytest.approx(hit["score"])] for hit in found]


SEARCHES: dict[str, dict[str, Any]] = {
    "qdrant_text": {"text": "a red mug"},
    "qdrant_image": {**IMAGE, "k": 3},
    "qdrant_fused": {**FUSED, "exact": True},
    "qdrant_vector_with_threshold": {"vector": VECTOR, "min_score": 0.1, "offset": 1},
    "qdrant_id": {"key": "sku-1", "exclude_query_keys": True},
    "qdrant_recommend": {
        "parts": [{"key": "sku-1", "weight": 1}, {"key": "7", "weight": 1}, {"key": "sku-2", "weight": -1}],
        "exclude": ["sku-1", "sku-2", "7"],
    },
    "qdrant_mmr": {**MUG, "diversity": 0.7, "k": 3},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_client_finds_what_a_search_finds(
    name: str, outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    assert gave(outcomes, name) == scored(hits(service, **SEARCHES[name]))


def test_a_filter_means_what_ours_means(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    price = {"field": "price", "gte": 5, "lt": 9}
    wanted = {"and": [price, {"or": [{"field": "lang", "eq": "de"}, {"field": "tags", "eq": "a"}]}]}
    found = hits(service, **MUG, filter=wanted, include=["text", "metadata", "vector"])
    assert [hit["key"] for hit in found] == ["sku-1", "sku-2"]
    for (name, score, payload, vector), hit in zip(gave(outcomes, "qdrant_filter"), found, strict=True):
        assert (name, score) == (hit["key"], pytest.approx(hit["score"]))
        assert payload == {**hit["payload"]["metadata"], "text": hit["payload"]["text"]}
        assert vector == hit["vector"]


def test_several_searches_and_groups_are_those_of_ours(
    outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    each = [scored(hits(service, text=text, k=2)) for text in ("a red mug", "a plate")]
    assert gave(outcomes, "qdrant_batch") == each
    found = hits(service, **MUG, filter={"field": "brand", "exists": True}, group_by="brand", group_size=2, k=2)
    groups: dict[str, list[Any]] = {}
    for hit in found:
        groups.setdefault(hit["group"]["value"], []).append(hit)
    assert gave(outcomes, "qdrant_groups") == [[name, scored(members)] for name, members in groups.items()]


def test_openai_finds_what_a_search_finds(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    not_nine = {"not": {"field": "price", "in": [9]}}
    wanted = {"or": [{"and": [{"field": "lang", "eq": "en"}, not_nine]}, {"field": "price", "gt": 6}]}
    found = hits(service, **MUG, filter=wanted, min_score=0.2)
    filtered, both = gave(outcomes, "openai_vector_stores")
    assert [hit["key"] for hit in found] == ["sku-1", "sku-2"]
    assert filtered == [
        [hit["key"], pytest.approx(hit["score"]), hit["payload"]["metadata"], [hit["payload"]["text"]]] for hit in found
    ]
    assert both == [[hit["key"], pytest.approx(hit["score"])] for hit in hits(service, **FUSED)]


CLIP_SEARCHES: dict[str, dict[str, Any]] = {
    "clip_retrieval_text": {"text": "a red mug", "modalities": ["text", "fused"], "k": 3},
    "clip_retrieval_image": {**IMAGE, "group_by": "duplicates", "duplicate_score": 0.94},
    "clip_retrieval_vector": {"vector": VECTOR, "group_by": "duplicates", "duplicate_score": 0.94},
}


@pytest.mark.parametrize("name", CLIP_SEARCHES)
def test_clip_retrieval_finds_what_a_search_finds(
    name: str, outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    found = hits(service, **{"modalities": ["image", "fused"], **CLIP_SEARCHES[name]})
    expected = []
    for hit in found:
        payload = hit["payload"]
        more = {"caption": payload["text"], "url": next(iter(payload["image_urls"]), None)}
        carried = {**payload["metadata"], **{name: value for name, value in more.items() if value}}
        expected.append({**carried, "id": hit["key"], "similarity": pytest.approx(hit["score"])})
    assert gave(outcomes, name) == expected


def test_clip_retrieval_is_told_that_addresses_are_not_fetched(outcomes: dict[str, dict[str, Any]]) -> None:
    assert gave(outcomes, "clip_retrieval_address").startswith("the query.image_url: addresses are not fetched")


def test_a_collection_is_an_index(outcomes: dict[str, dict[str, Any]]) -> None:
    assert gave(outcomes, "qdrant_collections") == [["default"], [True, False], [8, "Cosine", len(KEYS)], len(KEYS)]


def test_points_are_looked_up(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    pages = gave(outcomes, "qdrant_scroll")
    keys = service.get("/keys", params={"limit": 10}).json()["keys"]
    keys = [key for key in keys if key["key"] in {one.key for one, _ in KEYS}]
    assert [len(page) for page in pages] == [2, 2]
    for (name, payload), key in zip((point for page in pages for point in page), keys, strict=True):
        assert str(name) == key["key"]
        shown = key["payload"]
        more = {"text": shown["text"], "image_urls": shown["image_urls"]}
        assert payload == {**shown["metadata"], **{name: value for name, value in more.items() if value}}
    vectors = {name: service.get(f"/keys/{name}?include=vector").json()["vector"] for name in ("sku-2", "7")}
    assert gave(outcomes, "qdrant_retrieve") == [
        ["sku-2", {"lang": "de"}, vectors["sku-2"]],
        [7, {"lang": "fr"}, vectors["7"]],
    ]


def embedded(service: httpx.Client, item: dict[str, Any]) -> Any:
    body = {"items": [item], "role": "key"}
    return pytest.approx(service.post("/embed", json=body).json()["items"][0]["vector"], abs=1e-6)


def test_points_are_stored_changed_and_deleted(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    statuses, points, left = gave(outcomes, "qdrant_upsert")
    assert statuses == ["completed"]
    both, text, vector = points
    more = {"text": "but blue", "image_urls": ["/keys/41/image"]}
    assert both == [41, {"n": {"b": 2}, "kept": True, **more}, embedded(service, FUSED)]
    assert text == [search_driver.FIRST, {"n": 2, "text": "a hat"}, embedded(service, {"text": "a hat"})]
    assert vector == [search_driver.SECOND, {"own": "x"}, [1.0] + [0.0] * 7]
    assert left == [41]
    key = service.get("/keys/41?include=vector").json()
    assert key["payload"]["metadata"] == {"n": {"b": 2}, "kept": True}
    assert key["payload"]["text"] == "but blue"
    assert key["vector"] == both[2]
    assert service.get("/keys/41/image").content == RED


def test_langchain_stores_finds_and_deletes(outcomes: dict[str, dict[str, Any]]) -> None:
    found, num_diverse, kept, is_deleted, num_left = gave(outcomes, "langchain_qdrant")
    metadata = {"colour": "red", "_id": search_driver.FIRST, "_collection_name": "default"}
    assert found == [["a red lamp", metadata, pytest.approx(1)]]
    assert (num_diverse, kept, is_deleted, num_left) == (2, [["a green lamp", "green"]], True, 0)


def test_llama_index_stores_finds_and_deletes(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    ids, scores, texts, kept, num_left = gave(outcomes, "llama_index_qdrant")
    red, green = (
        service.post("/embed", json={"items": [{"text": text}]}).json()["items"][0]["vector"]
        for text in ("a red chair", "a green chair")
    )
    cosine = sum(one * other for one, other in zip(red, green, strict=True))
    assert (ids, scores) == ([search_driver.FIRST, search_driver.SECOND], [pytest.approx(1), pytest.approx(cosine)])
    assert (texts, kept, num_left) == (["a red chair", "a green chair"], ["a green chair"], 0)


def test_the_examples_of_the_documentation_run(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    made = [gave(outcomes, name) for name in outcomes if name.startswith("example")]
    assert len(made) == 4
    key = service.get("/keys/sku-7?include=vector").json()
    assert key["payload"]["metadata"] == {"price": 7}
    assert key["vector"] == embedded(service, FUSED)


REFUSED = {
    "qdrant_fusion": "400 (Bad Request)",
    "qdrant_another_model": "model 'sentence-transformers/all-minilm-l6-v2' is not served; known: anykey, fake",
    "qdrant_other_collection": "no index is called 'other'; known: default",
    "qdrant_upsert_of_another_width": "points[0].vector: expected 8 numbers, as the model gives, got 2",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_shows_why_it_was_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    assert "gave" not in outcomes[name]
    assert REFUSED[name] in outcomes[name]["raised"].replace("\\'", "'")


def test_each_case_is_judged(outcomes: dict[str, dict[str, Any]]) -> None:
    others = {"qdrant_filter", "qdrant_batch", "qdrant_groups", "qdrant_collections", "qdrant_scroll"}
    others |= {"qdrant_retrieve", "qdrant_upsert", "langchain_qdrant", "llama_index_qdrant"}
    others |= {*CLIP_SEARCHES, "clip_retrieval_address", "openai_vector_stores"}
    judged = {name for name in outcomes if not name.startswith("example")}
    assert judged == set(SEARCHES) | set(REFUSED) | others
