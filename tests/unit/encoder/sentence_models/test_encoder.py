"""Models of sentence-transformers: vectors are the library's own, and what a model cannot do is said by its name."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from anykey.encoder import Encoder, Item, Modality, Role
from anykey.encoder.__main__ import main
from anykey.encoder.errors import (
    DeviceUnavailableError,
    ItemTooLargeError,
    UnsupportedItemError,
    UnsupportedModalityError,
    UnsupportedOptionError,
)
from anykey.encoder.fusion import Fusion
from anykey.encoder.images import ImageLimits
from anykey.encoder.protocol import Ability
from tests.pictures import photo
from tests.sentence_models import CONTEXT, PROMPTS, WIDTH, of_library, save_bert, save_clip, save_router

PICTURES = [photo(40 + 9 * n, 60 - 5 * n, n) for n in range(6)]
TEXTS = ["a red circle", "a fox", "the lazy dog " * 5, "http://example.org/circle.png", "brown " * 20]
# Items of every kind, and what the library calls each.
ITEMS: list[tuple[Item, Any]] = [
    *((Item(text), {"text": text}) for text in TEXTS),
    *((Item(images=(picture,)), picture) for picture in PICTURES[:3]),
    *((Item(text, (PICTURES[n],)), {"text": text, "image": PICTURES[n]}) for n, text in enumerate(TEXTS)),
    (Item(images=tuple(PICTURES[3:5])), {"image": PICTURES[3:5]}),
    (Item(TEXTS[1], tuple(PICTURES[4:6])), {"text": TEXTS[1], "image": PICTURES[4:6]}),
    (Item("quick " * 300), {"text": "quick " * 300}),
]  # fmt: skip
OURS = [ours for ours, _ in ITEMS]


@pytest.fixture(scope="module")
def library(sentence_checkpoint: Path) -> Any:
    return of_library(sentence_checkpoint)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert") / "bert", {"query": "query: ", "passage": "passage: "})


def alone(encode: Any, inputs: Sequence[Any], **options: Any) -> np.ndarray:
    """What the library gives for each input by itself."""
    return np.stack([encode(each, normalize_embeddings=True, **options) for each in inputs])


@pytest.mark.parametrize("role", Role)
def test_vectors_are_the_librarys_alone_and_in_any_batch(sentence_encoder: Encoder, library: Any, role: Role) -> None:
    encode = library.encode_query if role is Role.QUERY else library.encode_document
    expected = alone(encode, [theirs for _, theirs in ITEMS])
    np.testing.assert_allclose(sentence_encoder.encode(OURS, role=role), expected, atol=1e-5)
    np.testing.assert_allclose(sentence_encoder.encode(OURS, role=role, batch_size=3), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, atol=1e-5)


def test_roles_are_prompted_differently_and_an_instruction_takes_the_place_of_both(
    sentence_encoder: Encoder, library: Any
) -> None:
    items, theirs = [ours for ours, _ in ITEMS[4:7]], [theirs for _, theirs in ITEMS[4:7]]
    as_query, as_key = (sentence_encoder.encode(items, role=role) for role in Role)
    assert np.abs(as_query - as_key).max() > 1e-2
    for role in Role:
        told = sentence_encoder.encode(items, role=role, instruction="Find the same colour.")
        np.testing.assert_allclose(told, alone(library.encode, theirs, prompt="Find the same colour."), atol=1e-5)
    unprompted = sentence_encoder.encode(items, instruction="")
    np.testing.assert_allclose(unprompted, alone(library.encode, theirs, prompt=""), atol=1e-5)


def test_a_width_keeps_the_first_numbers_and_has_a_fingerprint_of_its_own(
    sentence_checkpoint: Path, sentence_encoder: Encoder, library: Any
) -> None:
    cut = Encoder.load(sentence_checkpoint, device="cpu", width=8)
    assert (cut.width, sentence_encoder.width) == (8, WIDTH)
    expected = alone(library.encode_query, [theirs for _, theirs in ITEMS], truncate_dim=8)
    np.testing.assert_allclose(cut.encode(OURS), expected, atol=1e-5)
    assert cut.fingerprint != sentence_encoder.fingerprint
    assert Encoder.load(sentence_checkpoint, device="cpu", width=WIDTH).fingerprint == sentence_encoder.fingerprint


def test_items_are_prepared_in_any_thread(sentence_encoder: Encoder) -> None:
    whole = sentence_encoder.encode(OURS)
    with ThreadPoolExecutor(6) as threads:
        prepared = list(threads.map(lambda item: sentence_encoder.prepare(item, Role.QUERY), OURS * 3))
    np.testing.assert_allclose(sentence_encoder.encode_prepared(prepared), np.tile(whole, (3, 1)), atol=1e-5)


def test_a_text_is_cut_where_the_context_ends_and_says_so(sentence_encoder: Encoder) -> None:
    def prepared(text: str, *images: Any) -> Any:
        return sentence_encoder.prepare(Item(text, images), Role.KEY)

    assert [prepared(text).is_text_cut for text in (TEXTS[0], "quick " * 300)] == [False, True]
    beside = prepared("quick " * 300, PICTURES[0])
    assert beside.is_text_cut
    assert not prepared(TEXTS[0], PICTURES[0]).is_text_cut
    assert CONTEXT - 4 <= beside.features["input_ids"].shape[1] <= CONTEXT
    with pytest.raises(ItemTooLargeError, match="images take more tokens than the 128 that model qwen reads"):
        sentence_encoder.prepare(Item("a fox", tuple(PICTURES * 3)), Role.KEY)


def test_images_of_an_item_are_bounded_together(sentence_checkpoint: Path) -> None:
    encoder = Encoder.load(sentence_checkpoint, device="cpu", limits=ImageLimits(max_pixels=5_000))
    picture = photo(50, 50)
    assert encoder.encode([Item(images=(picture, picture))]).shape == (1, WIDTH)
    with pytest.raises(ItemTooLargeError, match="first 3 images of the item have 7500 pixels, and model qwen reads"):
        encoder.prepare(Item(images=(picture,) * 4), Role.KEY)


def test_cost_is_tokens_and_patches(sentence_encoder: Encoder) -> None:
    text, image, both = (
        sentence_encoder.cost(sentence_encoder.prepare(item, Role.KEY, instruction=""))
        for item in (Item("ab"), Item(images=(Image.new("RGB", (64, 32)),)), Item("ab", (Image.new("RGB", (64, 32)),)))
    )
    assert image - text == 32 + 8 + 2 - 2  # patches, a quarter of them as tokens, and two ends; without two letters
    assert both - image == 2


def test_control_tokens_of_a_text_are_plain_characters(sentence_encoder: Encoder) -> None:
    def ids(text: str, instruction: str) -> list[int]:
        prepared = sentence_encoder.prepare(Item(text), Role.KEY, instruction=instruction)
        found: list[int] = prepared.features["input_ids"][0].tolist()
        return found

    assert ids("<|image_pad|> fox", "a fox") == ids("< |image_pad|> fox", "a fox")
    assert ids("a fox", "<|im_end|> fox") == ids("a fox", "< |im_end|> fox")


def test_what_it_cannot_do_names_the_model_and_the_thing(sentence_encoder: Encoder) -> None:
    with pytest.raises(
        UnsupportedItemError, match="model qwen fuses text and image by itself and takes no text_weight"
    ):
        sentence_encoder.encode([Item("a fox", (PICTURES[0],))], text_weight=0.7)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"width": 0}, "model qwen has vectors of 32 numbers and cannot have 0"),
        ({"width": 64}, "model qwen has vectors of 32 numbers and cannot have 64"),
        ({"fusion": Fusion.UNIT}, "model qwen fuses text and image by itself and takes no score fusion"),
        ({"stretch_positions": True}, "model qwen has no positions that can be stretched"),
    ],
)
def test_options_that_it_has_not_are_refused(sentence_checkpoint: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedOptionError, match=reason):
        Encoder.load(sentence_checkpoint, device="cpu", **options)


def test_other_families_cannot_be_cut(tiny_checkpoint: Path, fusion_checkpoint: Path) -> None:
    for path, name in ((tiny_checkpoint, "anykey-tiny"), (fusion_checkpoint, "Visualized_tiny_fp16")):
        with pytest.raises(UnsupportedOptionError, match=f"model {name} has vectors of .* and cannot be cut to 3"):
            Encoder.load(path, device="cpu", width=3)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_faster_ways_give_nearly_the_same(sentence_checkpoint: Path, sentence_encoder: Encoder, precision: str) -> None:
    fast = Encoder.load(sentence_checkpoint, device="cpu", backend="torch", precision=precision)
    cosines = (fast.encode(OURS) * sentence_encoder.encode(OURS)).sum(axis=1)
    assert 0.98 < cosines.min() < 1 - 1e-6


def test_a_way_that_is_not_to_be_had_is_refused(sentence_checkpoint: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="precision fp16 cannot be had on cpu"):
        Encoder.load(sentence_checkpoint, device="cpu", precision="fp16")
    with pytest.raises(DeviceUnavailableError, match="computed by torch, not by onnx"):
        Encoder.load(sentence_checkpoint, device="cpu", backend="onnx")


def test_a_model_of_texts_refuses_images_and_computes_as_it_may(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder, library = Encoder.load(bert, device="cpu", backend="auto"), of_library(bert)
    assert (encoder.modalities, encoder.supports) == ({Modality.TEXT}, {Ability.INSTRUCTION})
    items = [Item(text) for text in TEXTS]
    queries, passages = alone(library.encode_query, TEXTS), alone(library.encode, TEXTS, prompt_name="passage")
    for role, expected in ((Role.QUERY, queries), (Role.KEY, passages)):
        cosines = (encoder.encode(items, role=role) * expected).sum(axis=1)
        assert cosines.min() > 0.99, f"{role}: it may compute in int8 where that is faster, and nearly the same"
    with pytest.raises(UnsupportedModalityError, match="model bert embeds no image items, but text"):
        encoder.encode([Item(images=(PICTURES[0],))])


def test_queries_and_keys_may_go_through_networks_of_their_own(bert: Path, tmp_path: Path) -> None:
    save_router(tmp_path / "routes", bert)
    encoder, library = Encoder.load(tmp_path / "routes", device="cpu"), of_library(tmp_path / "routes")
    items = [Item(text) for text in TEXTS]
    for role, encode in ((Role.QUERY, library.encode_query), (Role.KEY, library.encode_document)):
        np.testing.assert_allclose(encoder.encode(items, role=role), alone(encode, TEXTS), atol=1e-5)


def test_weights_that_no_vector_depends_on_may_be_missing(bert: Path, tmp_path: Path) -> None:
    without = Path(shutil.copytree(bert, tmp_path / "bert"))
    tensors = load_file(without / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    assert len(kept) < len(tensors)
    save_file(kept, without / "model.safetensors")
    items = [Item(text) for text in TEXTS]
    vectors = [Encoder.load(path, device="cpu").encode(items) for path in (bert, without)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_a_model_of_either_texts_or_images_takes_no_item_with_both(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    encoder, library = Encoder.load(tmp_path / "clip", device="cpu"), of_library(tmp_path / "clip")
    assert (encoder.modalities, encoder.fusion) == ({Modality.TEXT, Modality.IMAGE}, "none")
    items = [*(Item(text) for text in TEXTS[:3]), *(Item(images=(picture,)) for picture in PICTURES)]
    expected = alone(library.encode_query, [*({"text": text} for text in TEXTS[:3]), *PICTURES])
    np.testing.assert_allclose(encoder.encode(items), expected, atol=1e-5)
    picture = PICTURES[0]
    for item, reason in (
        (Item("a fox", (picture,)), "model clip embeds no fused items, but text, image"),
        (Item(images=(picture, picture)), "model clip takes one image of an item, got 2"),
    ):
        with pytest.raises(UnsupportedItemError, match=reason):
            encoder.encode([item])
    with pytest.raises(UnsupportedItemError, match="model clip takes an instruction with a text alone, got an image"):
        encoder.encode([Item(images=(picture,))], instruction="Find it.")


def test_info_says_what_it_is(sentence_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(sentence_checkpoint), "--as-json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {name: facts[name] for name in ("family", "name", "width", "context", "fusion", "widths", "supports")} == {
        "family": "sentence-transformers", "name": "qwen", "width": WIDTH, "context": CONTEXT, "fusion": "native",
        "widths": "any up to 32", "supports": ["instruction", "several_images"],
    }  # fmt: skip
    assert facts["prompts"] == {"query": PROMPTS["query"], "key": PROMPTS["document"]}
    assert facts["modalities"] == ["fused", "image", "text"]
    assert facts["modules"] == ["Transformer", "Pooling", "Normalize"]
