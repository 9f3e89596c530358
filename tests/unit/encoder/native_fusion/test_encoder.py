"""The encoder takes what it can, names what it cannot, and counts what it does."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.encoder import Encoder, Item, Modality, Role
from anykey.encoder.errors import (
    DeviceUnavailableError,
    InvalidItemError,
    ItemTooLargeError,
    UnsupportedItemError,
    UnsupportedOptionError,
)
from anykey.encoder.fusion import Fusion
from anykey.encoder.native_fusion.encoder import FusionEncoder
from anykey.encoder.protocol import check_item
from tests.pictures import encoded, photo

PATCHES = 16


def picture(seed: int = 0) -> bytes:
    return encoded(photo(48, 40, seed), "PNG")


def test_every_modality_has_unit_vectors_of_its_own(fusion_encoder: Encoder) -> None:
    items = [Item("a wall"), Item(images=(picture(),)), Item("a wall", (picture(),)), Item("a sea", (picture(),))]
    vectors = fusion_encoder.encode(items)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors @ vectors.T)[~np.eye(4, dtype=bool)].max() < 1 - 1e-4
    assert fusion_encoder.encode([]).shape == (0, 64)
    assert (fusion_encoder.modalities, fusion_encoder.fusion) == (frozenset(Modality), "native")


def test_batches_of_any_size_give_the_same_vectors(fusion_encoder: Encoder) -> None:
    texts = ["a wall", None, "the old bridge over the river", None, "a boat"]
    items = [Item(text, (picture(n),) if n % 2 or text is None else ()) for n, text in enumerate(texts)]
    whole = fusion_encoder.encode(items)
    for size in (1, 2, 3):
        np.testing.assert_allclose(fusion_encoder.encode(items, batch_size=size), whole, atol=1e-6)
    with ThreadPoolExecutor(4) as threads:
        prepared = list(threads.map(lambda item: fusion_encoder.prepare(item, Role.QUERY), items))
    np.testing.assert_allclose(fusion_encoder.encode_prepared(prepared), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("item", "asked", "message"),
    [
        (Item(images=(picture(), picture(1))), (0.5,), "model Visualized_tiny_fp16 takes one image of an item, got 2"),
        (Item("a wall", (picture(),)), (0.7,), "fuses text and image by itself and takes no text_weight, got 0.7"),
        (
            Item("a wall"),
            (0.5, "find it " * 9),
            "model Visualized_tiny_fp16 takes no instruction, got '(find it ){7}.*'",
        ),
    ],
)
def test_what_it_cannot_do_names_the_model_and_the_thing(
    fusion_encoder: Encoder, item: Item, asked: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UnsupportedItemError, match=message):
        check_item(fusion_encoder, item, *asked)
    with pytest.raises(UnsupportedItemError, match=message):
        fusion_encoder.prepare(item, Role.QUERY, *asked)


def test_what_it_cannot_do_names_the_item_of_a_list(fusion_encoder: Encoder) -> None:
    with pytest.raises(UnsupportedItemError, match=r"item 1: model .* takes no text_weight"):
        fusion_encoder.encode([Item(images=(picture(),)), Item("a wall", (picture(),))], 0.7)


def test_score_fusion_cannot_be_asked_for(fusion_checkpoint: Path) -> None:
    with pytest.raises(UnsupportedOptionError, match="Visualized_tiny_fp16 fuses text and image by itself"):
        Encoder.load(fusion_checkpoint, fusion=Fusion.UNIT)
    with pytest.raises(UnsupportedOptionError, match="has no positions that can be stretched"):
        Encoder.load(fusion_checkpoint, stretch_positions=True)


def test_a_long_text_is_cut_and_its_end_stays(fusion_encoder: Encoder) -> None:
    """The tiny text encoder has 512 positions: 496 beside the 16 patches."""
    for images, room in (((), 512), ((picture(),), 512 - PATCHES)):
        fits, longer = (
            fusion_encoder.prepare(Item("wall " * words, images), Role.KEY) for words in (room - 2, room - 1)
        )
        assert (fits.is_text_cut, longer.is_text_cut) == (False, True)
        assert len(longer.tokens) == room
        assert longer.tokens[-1] == 102
        found = fusion_encoder.encode_prepared([fits, longer])
        np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("between", [" ", "\n"])
def test_a_text_of_few_tokens_is_read_to_its_end_however_many_characters_it_has(
    fusion_encoder: Encoder, between: str
) -> None:
    """A word of a hundred letters and more is one unknown token."""
    words = ["x" * 120] * 200 + ["wall"]
    prepared = fusion_encoder.prepare(Item(between.join(words)), Role.KEY)
    assert len(prepared.tokens) == 2 + len(words)
    assert not prepared.is_text_cut
    assert prepared.tokens[-2] == fusion_encoder.prepare(Item("wall"), Role.KEY).tokens[1]
    assert fusion_encoder.prepare(Item(between.join(["wall", *words * 3])), Role.KEY).is_text_cut


def test_one_long_text_does_not_pad_all_others(fusion_checkpoint: Path) -> None:
    encoder = Encoder.load(fusion_checkpoint, device="cpu")
    assert isinstance(encoder, FusionEncoder)
    passed: list[int] = []
    encoder.network.text.encoder.register_forward_pre_hook(
        lambda module, inputs: passed.append(inputs[0][..., 0].numel())
    )
    items = [Item(f"wall {number}") for number in range(60)] + [Item("wall " * 500), Item("sea")]
    prepared = [encoder.prepare(item, Role.KEY) for item in items]
    found = encoder.encode_prepared(prepared)
    assert sum(passed) <= 1.5 * sum(encoder.cost(item) for item in prepared)
    alone = np.concatenate([encoder.encode_prepared([item]) for item in prepared])
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_cost_counts_patches_twice_and_tokens_once(fusion_encoder: Encoder) -> None:
    costs = [
        fusion_encoder.cost(fusion_encoder.prepare(item, Role.KEY))
        for item in (Item("wall wall"), Item(images=(picture(),)), Item("wall wall", (picture(),)))
    ]
    assert costs == [4, 2 * PATCHES + 2, 2 * PATCHES + 4]


def test_control_tokens_that_a_text_spells_out_are_plain_characters(fusion_encoder: Encoder) -> None:
    plain, typed = (fusion_encoder.prepare(Item(text), Role.KEY).tokens for text in ("wall sea", "wall [SEP] sea"))
    assert 102 in plain[-1:]
    assert 102 not in typed[:-1]
    assert len(typed) > len(plain)


def test_bad_items_are_named(fusion_encoder: Encoder) -> None:
    with pytest.raises(ItemTooLargeError, match="item 1: text has 100001 characters"):
        fusion_encoder.encode([Item("a"), Item("a" * 100_001)])
    with pytest.raises(InvalidItemError, match="not valid Unicode"):
        fusion_encoder.encode([Item("\ud800")])
    with pytest.raises(InvalidItemError, match="item 0: cannot decode"):
        fusion_encoder.encode([Item(images=(b"no image",))])


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.998), ("int8", 0.97)])
def test_other_numbers_give_nearly_the_same(
    fusion_checkpoint: Path, fusion_encoder: Encoder, precision: str, least: float
) -> None:
    half = Encoder.load(fusion_checkpoint, device="cpu", precision=precision)
    items = [Item("a wall"), Item(images=(picture(),)), Item("the old bridge", (picture(),))]
    assert half.fingerprint == fusion_encoder.fingerprint
    cosines = (half.encode(items) * fusion_encoder.encode(items)).sum(1)
    assert cosines.min() > least


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_what_takes_exported_networks_is_refused_by_name(fusion_checkpoint: Path, backend: str) -> None:
    with pytest.raises(
        DeviceUnavailableError, match=f"networks of this family are computed by torch, not by {backend}"
    ):
        Encoder.load(fusion_checkpoint, device="cpu", backend=backend)


def test_it_tells_what_it_is_made_of(fusion_encoder: Encoder) -> None:
    details = fusion_encoder.details()
    assert (details["trunk"], details["text_encoder"], details["patches"]) == ("eva", "bert", PATCHES)
    assert details["fused_context"] == 512 - PATCHES
    assert details["images"]["size"] == 32
    assert details["parameters"]["projection"] == 64 * 64 + 64
    json.dumps(details)
