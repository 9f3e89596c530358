"""Real cross-encoders of sentence-transformers, from their directories to the answers of a search."""

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from anykey.encoder.errors import UndecodableImageError
from anykey.encoder.item import Item
from anykey.encoder.reranking import Pair, Reranker
from anykey.index.faiss_index import FaissIndex
from anykey.service.errors import StartupError
from anykey.service.searching.reranking import load_rerankers
from tests.cross_encoders import MAX_TOKENS, WORDS, predicted, save_bert, save_chat_model, save_vision_model
from tests.fakes import FakeEncoder
from tests.service_inputs import as_base64, png
from tests.serving import build_real_index, make_settings, serving, stored

QUERY = "a round red mug"
TEXTS = [
    "the red cup", "a blue page with a note", "round", "mug of the note", "a red mug with a round handle",
    "note", "blue blue cup", "the page of the red note", "a cup", "handle",
]  # fmt: skip


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cross-encoders")
    return {"bert": save_bert(root / "bert"), "other": save_bert(root / "other", seed=1)}


@pytest.fixture(scope="module")
def client(directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Ten texts of which the even ones are cheap, a page with a picture, and two pictures."""
    keys = [stored(f"text {n}", Item(text=text), price=n % 2) for n, text in enumerate(TEXTS)]
    keys += [stored("page", Item(text="a page", images=(png((9, 200, 9)),)))]
    keys += [stored(f"picture {n}", Item(images=(png((9, 9, 60 * n)),))) for n in (1, 2)]
    encoder = FakeEncoder()
    rerankers = [f"{name}={directory}" for name, directory in directories.items()]
    with (
        FaissIndex.open(build_real_index(tmp_path_factory.mktemp("index"), encoder, keys)) as index,
        serving(encoder, index, rerankers=rerankers, device="cpu") as client,
    ):
        yield client


def pairs_of(reranker: Reranker, *keys: Item) -> list[Pair]:
    """The query with each of the keys."""
    query = reranker.prepare(Item(QUERY))
    return [reranker.pair(query, reranker.prepare(key)) for key in keys]


def search(client: httpx.Client, **fields: Any) -> Any:
    response = client.post("/search", json={"text": QUERY, **fields})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("narrowed", [{}, {"filter": {"field": "price", "eq": 0}}, {"exclude": ["page"]}], ids=str)
@pytest.mark.parametrize("top", [5, 100])
def test_the_best_hits_of_the_index_come_in_the_order_of_the_cross_encoder(
    client: httpx.Client, directories: dict[str, Path], narrowed: Any, top: int
) -> None:
    candidates = search(client, k=top, **narrowed)["hits"]
    answer = search(client, k=4, rerank={"model": "bert", "top": top}, **narrowed)
    readable = [hit for hit in candidates if hit["payload"]["text"]]
    scores = predicted(directories["bert"], QUERY, [hit["payload"]["text"] for hit in readable])
    expected = sorted(zip(scores, readable, strict=True), key=lambda pair: -pair[0])
    assert [hit["key"] for hit in answer["hits"]] == [hit["key"] for _, hit in expected][:4]
    for rank, (hit, (score, found)) in enumerate(zip(answer["hits"], expected, strict=False), 1):
        assert hit["rerank_score"] == pytest.approx(score, abs=1e-5)
        assert hit == {**found, "rank": rank, "rerank_score": hit["rerank_score"]}
    numbers = {name: answer["reranking"][name] for name in ("model", "num_candidates", "num_scored")}
    assert numbers == {"model": "bert", "num_candidates": len(candidates), "num_scored": len(readable)}


def test_keys_without_a_text_come_last_in_the_order_of_the_index(client: httpx.Client) -> None:
    keys = ["picture 1", "text 1", "picture 2", "text 2"]
    by_index = [hit["key"] for hit in search(client, within=keys)["hits"]]
    hits = search(client, within=keys, rerank={"model": "bert"})["hits"]
    assert {hits[0]["key"], hits[1]["key"]} == {"text 1", "text 2"}
    assert [hit["key"] for hit in hits[2:]] == [key for key in by_index if key.startswith("picture")]
    assert [hit["rerank_score"] for hit in hits[2:]] == [None, None]
    assert hits[0]["rerank_score"] >= hits[1]["rerank_score"]
    only_pictures = search(client, modalities=["image"], rerank={"model": "bert"})
    assert only_pictures["reranking"]["num_scored"] == 0
    assert len(only_pictures["hits"]) == 2


def test_info_and_answers_say_which_rerankers_there_are(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert [(one["name"], one["max_tokens"], one["device"]) for one in info["rerankers"]] == [
        ("bert", MAX_TOKENS, "cpu"),
        ("other", MAX_TOKENS, "cpu"),
    ]
    fingerprints = [one["fingerprint"] for one in info["rerankers"]]
    assert len(set(fingerprints)) == 2
    for name, fingerprint in zip(("bert", "other"), fingerprints, strict=True):
        answer = search(client, rerank={"model": name, "top": 10})
        assert answer["reranking"]["fingerprint"] == fingerprint
    *stages, total = answer["timings_ms"].values()
    assert answer["timings_ms"]["rerank"] > 0
    assert sum(stages) <= total + 0.01
    scored = [client.get("/info").json()["counters"][f"reranker {name}"]["encoded"] for name in ("bert", "other")]
    assert min(scored) > 0


def test_a_fingerprint_tells_what_scores_depend_on(directories: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(directories["bert"], tmp_path / "copy"))
    (copy / "README.md").write_text("prose")
    first = Reranker.load("a", directories["bert"], device="cpu")
    assert Reranker.load("b", copy, device="cpu").fingerprint == first.fingerprint
    assert Reranker.load("a", copy, device="cpu", max_tokens=20).fingerprint != first.fingerprint
    saved = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**saved, "layer_norm_eps": 1e-3}))
    assert Reranker.load("a", copy, device="cpu").fingerprint != first.fingerprint


@pytest.mark.parametrize("max_tokens", [20, 512])
def test_a_long_pair_is_cut_where_the_model_cuts_it(directories: dict[str, Path], max_tokens: int) -> None:
    from sentence_transformers import CrossEncoder

    reranker = Reranker.load("a", directories["bert"], device="cpu", max_tokens=max_tokens)
    texts = ["red " * 10 + "blue " * 50_000, "red " * 60, "mug"]
    library = CrossEncoder(str(directories["bert"]), device="cpu", max_length=min(max_tokens, MAX_TOKENS))
    expected = library.predict([(QUERY, text) for text in texts], show_progress_bar=False)
    pairs = pairs_of(reranker, *map(Item, texts))
    assert reranker.score(pairs) == pytest.approx(expected, abs=1e-5)
    assert max(pair.num_tokens for pair in pairs) == min(max_tokens, MAX_TOKENS)
    assert len(pairs[0].key.text or "") < 3000


def test_control_tokens_that_a_text_spells_out_are_plain_characters(directories: dict[str, Path]) -> None:
    reranker = Reranker.load("a", directories["bert"], device="cpu")
    assert reranker.prepare(Item("red [SEP][CLS]mug")) == reranker.prepare(Item("red [ SEP][ CLS]mug"))


def test_a_text_that_is_an_address_is_read_and_not_fetched(tmp_path: Path) -> None:
    """The library takes it for the image that is there, with models whose messages have parts."""
    model = save_chat_model(tmp_path / "chat")
    reranker = Reranker.load("chat", model, device="cpu")
    texts = ["a blue cup", "http://path/red.png", "http://path/blue.png"]
    scores = reranker.score(pairs_of(reranker, *map(Item, texts)))
    by_library = predicted(model, QUERY, texts)
    assert scores[0] == pytest.approx(by_library[0], abs=1e-5)
    assert by_library[1] == by_library[2]
    assert scores[1] != pytest.approx(scores[2], abs=1e-3)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision_model(tmp_path_factory.mktemp("vision") / "model")


def typed(text: str | None, *images: bytes) -> dict[str, Any]:
    """A part as the library takes it."""
    pictures = [Image.open(BytesIO(image)) for image in images]
    return {**({"image": pictures} if pictures else {}), **({"text": text} if text else {})}


@pytest.mark.parametrize("picture", [None, png((9, 99, 9), (60, 40))], ids=["text", "fused"])
def test_a_model_that_reads_images_is_given_those_of_the_query_and_the_keys(
    vision: Path, picture: bytes | None, tmp_path: Path
) -> None:
    images = [png((250, 50 * n, 0), (56 + 14 * n, 56)) for n in range(4)]
    items = [Item(text) for text in TEXTS[:3]] + [Item(images=(image,)) for image in images]
    items += [Item("a red page", (images[0],)), Item("a blue page", (images[1], images[2]))]
    keys = [stored(str(number), item) for number, item in enumerate(items)]
    encoder = FakeEncoder()
    query = {"text": QUERY, "k": 20, "rerank": {}} | ({"image": as_base64(picture)} if picture else {})
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, keys)) as index,
        serving(encoder, index, rerankers=[f"eyes={vision}"], device="cpu") as client,
    ):
        answer = client.post("/search", json=query).json()
    given = [typed(item.text, *(image for image in item.images if isinstance(image, bytes))) for item in items]
    expected = predicted(vision, typed(QUERY, *filter(None, [picture])), given)
    scores = {hit["key"]: hit["rerank_score"] for hit in answer["hits"]}
    assert scores == {str(n): pytest.approx(score, abs=1e-5) for n, score in enumerate(expected)}
    assert list(scores) == sorted(scores, key=lambda key: -expected[int(key)])
    assert answer["reranking"]["num_scored"] == len(items)
    assert len({round(score, 3) for score in expected}) > len(items) // 2, "or the order says nothing"


def test_a_model_that_reads_images_has_its_texts_cut_and_its_images_shrunk(vision: Path) -> None:
    reranker = Reranker.load("eyes", vision, device="cpu", max_tokens=10, max_image_px=56)
    small = png((250, 0, 0), (28, 28))
    long, six, four = (reranker.score(pairs_of(reranker, Item("red . " * num, (small,)))) for num in (60, 3, 2))
    assert long == pytest.approx(six, abs=1e-6), "the query has four tokens, which leaves six"
    assert long != pytest.approx(four, abs=1e-3)
    large = png((250, 0, 0), (280, 100))
    (shrunk,) = pairs_of(reranker, Item(images=(large,)))
    assert [image.size for image in shrunk.key.images] == [(56, 20)]
    assert shrunk.num_tokens == 10
    with pytest.raises(UndecodableImageError):
        reranker.prepare(Item(images=(large[:100],)))


def broken(directory: Path, how: str) -> Path:
    """A directory that cannot be used."""
    if how == "an encoder":
        return save_bert(directory, kind="BertModel")
    if how == "three labels":
        return save_bert(directory, num_labels=3)
    if how == "nothing":
        return directory
    save_bert(directory)
    if how == "no head":
        weights = load_file(directory / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
        save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    name, content = {
        "weights cut": ("model.safetensors", (directory / "model.safetensors").read_bytes()[:5000]),
        "no weights": ("model.safetensors", None),
        "no JSON": ("config.json", b"{"),
        "another network": ("config.json", b'{"architectures": ["XForSequenceClassification"], "model_type": "x"}'),
    }[how]
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nothing", "reranker mini: there is no directory"),
        ("an encoder", "is no cross-encoder: config.json names BertModel, expected one that ends with"),
        ("three labels", "gives 3 scores for a pair, expected one"),
        ("no head", r"has no weights for \S*classifier\.weight$"),
        ("weights cut", "cannot be loaded as a cross-encoder"),
        ("no weights", "cannot be loaded as a cross-encoder"),
        ("no JSON", "config.json is not JSON"),
        ("another network", "cannot be loaded as a cross-encoder"),
    ],
)
def test_what_is_no_cross_encoder_stops_the_start_in_one_line(tmp_path: Path, how: str, message: str) -> None:
    directory = broken(tmp_path / "model", how)
    with pytest.raises(StartupError, match=message) as caught:
        load_rerankers(make_settings(rerankers=[f"mini={directory}"], device="cpu"))
    assert str(directory) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_words_are_known(directories: dict[str, Path]) -> None:
    """Or all texts would be alike, and orders say nothing."""
    scores = predicted(directories["bert"], QUERY, WORDS[:6])
    assert len({round(score, 4) for score in scores}) == 6
