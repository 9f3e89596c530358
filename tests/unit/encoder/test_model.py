"""The encoder runs only what a batch needs, whatever the batch's mix, and blames the right item."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anykey.encoder import Encoder, EncoderError
from anykey.encoder.errors import (
    CheckpointNotFoundError,
    DeviceUnavailableError,
    InvalidItemError,
    ItemTooLargeError,
    UndecodableImageError,
    UnsupportedItemError,
)
from anykey.encoder.fusion import Fusion, fuse
from anykey.encoder.images import ImageLimits
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Role
from anykey.encoder.towers.checkpoint import Checkpoint
from anykey.encoder.towers.encoder import MAX_IMAGES_AT_ONCE, TowerEncoder
from tests.networks import VISION, build_seeded, small_architecture
from tests.pictures import encoded, photo

PHOTOS = [encoded(photo(seed=seed), "PNG") for seed in range(4)]
MIXED = [
    Item(text="a red circle"),
    Item(images=(PHOTOS[0],)),
    Item(text="a blue square on a table", images=(PHOTOS[1],)),
    Item(images=(PHOTOS[2], PHOTOS[3])),
    Item(text="two frames", images=(PHOTOS[0], PHOTOS[3])),
]


@contextmanager
def rows_through_towers(encoder: Encoder) -> Iterator[dict[str, list[int]]]:
    """Batch sizes that pass each tower."""
    rows: dict[str, list[int]] = {"image": [], "text": []}
    towers = {"image": encoder.model.visual, "text": encoder.model.transformer}
    handles = [
        tower.register_forward_pre_hook(lambda module, inputs, name=name: rows[name].append(inputs[0].shape[0]))
        for name, tower in towers.items()
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def test_vectors_are_float32_of_unit_norm_and_the_encoders_width(tiny_encoder: Encoder) -> None:
    vectors_BD = tiny_encoder.encode(MIXED)
    assert (vectors_BD.shape, vectors_BD.dtype) == ((5, tiny_encoder.width), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors_BD, axis=1), 1.0, atol=1e-6)


def test_texts_never_touch_the_image_tower(tiny_encoder: Encoder) -> None:
    with rows_through_towers(tiny_encoder) as rows:
        tiny_encoder.encode([Item(text="one"), Item(text="two")])
    assert rows == {"image": [], "text": [2]}


def test_images_never_touch_the_text_tower(tiny_encoder: Encoder) -> None:
    with rows_through_towers(tiny_encoder) as rows:
        tiny_encoder.encode([Item(images=(PHOTOS[0],)), Item(images=(PHOTOS[1],), text="  ")])
    assert rows == {"image": [2], "text": []}


def test_each_tower_sees_only_the_items_that_need_it(tiny_encoder: Encoder) -> None:
    with rows_through_towers(tiny_encoder) as rows:
        tiny_encoder.encode(MIXED)
    assert rows == {"image": [6], "text": [3]}


def test_images_pass_the_tower_in_chunks_with_the_same_result(tiny_encoder: Encoder) -> None:
    prepared = [tiny_encoder.prepare(item, Role.KEY) for item in MIXED]
    num_times = 2 * MAX_IMAGES_AT_ONCE // 6 + 1
    with rows_through_towers(tiny_encoder) as rows:
        found = tiny_encoder.encode_prepared(prepared * num_times)
    np.testing.assert_allclose(found, np.tile(tiny_encoder.encode_prepared(prepared), (num_times, 1)), atol=1e-6)
    assert rows["image"] == [MAX_IMAGES_AT_ONCE] * 2 + [6 * num_times - 2 * MAX_IMAGES_AT_ONCE]


def test_a_mixed_batch_keeps_the_order_of_its_items(tiny_encoder: Encoder) -> None:
    alone = np.concatenate([tiny_encoder.encode([item]) for item in MIXED])
    np.testing.assert_allclose(tiny_encoder.encode(MIXED), alone, atol=1e-5)
    np.testing.assert_allclose(tiny_encoder.encode(MIXED[::-1]), alone[::-1], atol=1e-5)


def test_batches_cut_anywhere_give_the_same_vectors(tiny_encoder: Encoder) -> None:
    np.testing.assert_allclose(tiny_encoder.encode(MIXED, batch_size=2), tiny_encoder.encode(MIXED), atol=1e-5)


def test_several_images_are_the_mean_of_their_features(tiny_encoder: Encoder) -> None:
    single = tiny_encoder.features(
        [tiny_encoder.prepare(Item(images=(data,)), Role.QUERY) for data in PHOTOS[2:4]]
    ).image_BD
    mean_D = single.mean(0)
    expected = (mean_D / mean_D.norm()).cpu().numpy()
    np.testing.assert_allclose(tiny_encoder.encode([MIXED[3]])[0], expected, atol=1e-5)


def test_a_fused_vector_is_the_fusion_of_the_two_towers_features(tiny_encoder: Encoder) -> None:
    parts = [
        tiny_encoder.prepare(Item(images=(PHOTOS[1],)), Role.QUERY),
        tiny_encoder.prepare(Item(text="a blue square on a table"), Role.QUERY),
    ]
    features = tiny_encoder.features(parts)
    expected = features.image_BD[0] + features.text_BD[1]
    np.testing.assert_allclose(tiny_encoder.encode([MIXED[2]])[0], (expected / expected.norm()).cpu(), atol=1e-5)


def test_a_text_fuses_with_the_mean_of_several_images(tiny_encoder: Encoder) -> None:
    singles = [tiny_encoder.prepare(Item(images=(PHOTOS[n],)), Role.QUERY) for n in (0, 3)]
    features = tiny_encoder.features([*singles, tiny_encoder.prepare(Item(text="two frames"), Role.QUERY)])
    expected = features.image_BD[:2].mean(0) + features.text_BD[2]
    np.testing.assert_allclose(tiny_encoder.encode([MIXED[4]])[0], (expected / expected.norm()).cpu(), atol=1e-5)


def test_rows_of_absent_parts_are_zero(tiny_encoder: Encoder) -> None:
    features = tiny_encoder.features([tiny_encoder.prepare(item, Role.QUERY) for item in MIXED[:2]])
    assert features.image_BD[0].abs().max() == 0
    assert features.text_BD[1].abs().max() == 0
    assert features.has_image_B.tolist() == [False, True]
    assert features.has_text_B.tolist() == [True, False]


@pytest.mark.parametrize("text_weight", [0.0, 0.3, 1.0])
def test_the_text_weight_moves_fused_items_only(tiny_encoder: Encoder, text_weight: float) -> None:
    plain, weighted = tiny_encoder.encode(MIXED), tiny_encoder.encode(MIXED, text_weight=text_weight)
    np.testing.assert_allclose(weighted[[0, 1, 3]], plain[[0, 1, 3]], atol=1e-6)
    assert np.abs(weighted[[2, 4]] - plain[[2, 4]]).max() > 0.01
    ends = {0.0: Item(images=MIXED[2].images), 1.0: Item(text=MIXED[2].text)}
    if text_weight in ends:
        np.testing.assert_allclose(weighted[2], tiny_encoder.encode([ends[text_weight]])[0], atol=1e-5)


def test_each_prepared_item_may_have_its_own_text_weight(tiny_encoder: Encoder) -> None:
    items, weights = (MIXED[2], MIXED[2], MIXED[0]), (0.1, 0.9, 0.0)
    prepared = [tiny_encoder.prepare(item, Role.QUERY, weight) for item, weight in zip(items, weights, strict=True)]
    vectors_BD = tiny_encoder.encode_prepared(prepared)
    for vector_D, item, weight in zip(vectors_BD, items, (0.1, 0.9, 0.5), strict=True):
        np.testing.assert_allclose(vector_D, tiny_encoder.encode([item], weight)[0], atol=1e-5)


@pytest.mark.parametrize("text_weight", [-0.1, 1.1, float("nan"), [0.5, 2.0], [0.5], [0.5, 0.5, 0.5]])
def test_a_text_weight_out_of_bounds_or_number_is_refused(tiny_encoder: Encoder, text_weight: Any) -> None:
    features = tiny_encoder.features([tiny_encoder.prepare(item, Role.QUERY) for item in MIXED[:2]])
    with pytest.raises(ValueError, match="text weight"):
        tiny_encoder.fuse(features, text_weight)
    if isinstance(text_weight, float):
        with pytest.raises(ValueError, match="text weight"):
            tiny_encoder.prepare(MIXED[2], Role.QUERY, text_weight)


def test_an_instruction_is_refused_by_the_name_of_the_model(tiny_encoder: Encoder) -> None:
    with pytest.raises(UnsupportedItemError, match="item 0: model anykey-tiny takes no instruction, got 'find it'"):
        tiny_encoder.encode(MIXED, instruction="find it")


def test_no_items_give_an_empty_array(tiny_encoder: Encoder) -> None:
    for vectors_BD in (tiny_encoder.encode([]), tiny_encoder.encode_prepared([])):
        assert (vectors_BD.shape, vectors_BD.dtype) == ((0, tiny_encoder.width), np.float32)


def test_an_image_counts_whether_it_comes_as_bytes_a_path_or_decoded(tiny_encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PHOTOS[0])
    sources = (PHOTOS[0], path, str(path), photo(seed=0))
    vectors_BD = tiny_encoder.encode([Item(images=(source,)) for source in sources])
    np.testing.assert_allclose(vectors_BD, vectors_BD[:1].repeat(4, axis=0), atol=1e-6)


def test_a_bad_item_is_named_by_its_place_across_batches(tiny_encoder: Encoder) -> None:
    items = [Item(text="fine")] * 5 + [Item(images=(b"no image",))]
    with pytest.raises(UndecodableImageError, match=r"^item 5: cannot decode 8 bytes") as caught:
        tiny_encoder.encode(items, batch_size=2)
    assert (caught.value.position, isinstance(caught.value, EncoderError)) == (5, True)


def test_a_single_bad_item_has_no_place(tiny_encoder: Encoder) -> None:
    with pytest.raises(UndecodableImageError) as caught:
        tiny_encoder.prepare(Item(images=(b"no image",)), Role.QUERY)
    assert caught.value.position is None


def test_a_lone_surrogate_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(InvalidItemError, match="item 0: text is not valid Unicode: surrogates not allowed"):
        tiny_encoder.encode([Item(text="a cat \ud83d")])


def test_a_text_beyond_the_limit_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(ItemTooLargeError, match="100001 characters, at most 100000"):
        tiny_encoder.encode([Item(text="x" * 100_001)])
    assert tiny_encoder.encode([Item(text="x " * 50_000)]).shape == (1, tiny_encoder.width)


@pytest.mark.parametrize(
    "text", ["\0", "\u202e", "a\0b", "\U0001f9ff" * 50, "&amp;lt;", "<end_of_text>", "\ufeff", "\u200b"]
)
def test_strange_texts_have_vectors(tiny_encoder: Encoder, text: str) -> None:
    assert np.isfinite(tiny_encoder.encode([Item(text=text)])).all()


def test_the_limits_given_are_enforced(tiny_checkpoint: Path) -> None:
    encoder = Encoder.load(tiny_checkpoint, limits=ImageLimits(max_pixels=100))
    with pytest.raises(ItemTooLargeError, match="at most 100"):
        encoder.encode([Item(images=(PHOTOS[0],))])


def test_prepare_in_many_threads_gives_the_same_vectors(tiny_encoder: Encoder) -> None:
    items = [Item(text=f"picture {n} of many", images=(PHOTOS[n % 4],)) for n in range(40)]
    expected = tiny_encoder.encode(items)
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(partial(tiny_encoder.prepare, role=Role.KEY), items))
    np.testing.assert_allclose(tiny_encoder.encode_prepared(prepared), expected, atol=1e-5)


def test_prepared_items_know_their_modality(tiny_encoder: Encoder) -> None:
    found = [tiny_encoder.prepare(item, Role.QUERY).modality for item in MIXED]
    assert found == [Modality.TEXT, Modality.IMAGE, Modality.FUSED, Modality.IMAGE, Modality.FUSED]


def test_an_item_costs_the_tokens_that_go_through_the_towers(tiny_encoder: Encoder) -> None:
    """Of the text its words with start and end; of an image its patches and the class token."""
    architecture = small_architecture()
    transformer = TowerEncoder(Checkpoint(architecture, build_seeded(architecture), Fusion.RAW, "sha256:0", {}))
    patch_px = VISION["patch_size"]
    for encoder, px in ((transformer, patch_px), (tiny_encoder, 16)):  # a network without patches counts as if of 16
        prepared = [encoder.prepare(item, Role.KEY) for item in MIXED]
        _, height_px, width_px = prepared[1].images[0].shape
        image = height_px // px * (width_px // px) + 1
        assert [encoder.cost(item) for item in prepared] == [5, image, image + 8, 2 * image, 2 * image + 4]


def test_fusion_may_be_overridden_and_the_fingerprint_follows(tiny_checkpoint: Path, tiny_encoder: Encoder) -> None:
    unit = Encoder.load(tiny_checkpoint, fusion=Fusion.UNIT)
    assert unit.fingerprint != tiny_encoder.fingerprint
    assert Encoder.load(tiny_checkpoint, fusion=Fusion.RAW).fingerprint == tiny_encoder.fingerprint
    prepared = [unit.prepare(MIXED[2], Role.QUERY)]
    features = unit.features(prepared)
    expected = fuse(features.image_BD, features.text_BD, Fusion.UNIT)
    np.testing.assert_allclose(unit.encode_prepared(prepared), expected.cpu(), atol=1e-6)
    assert unit.provenance == tiny_encoder.provenance == {"made_by": "tests"}


@pytest.mark.parametrize("device", ["nosuch", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_by_name(tiny_checkpoint: Path, device: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=f"device '{device}' is not available"):
        Encoder.load(tiny_checkpoint, device=device)


def test_an_unknown_precision_is_refused_with_those_known(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="unknown precision 'fp8', expected auto, fp32, bf16, fp16, int8"):
        Encoder.load(tiny_checkpoint, device="cpu", precision="fp8")


def test_a_missing_checkpoint_is_refused_with_what_is_expected() -> None:
    with pytest.raises(
        CheckpointNotFoundError, match="expected a directory, a weights file, ARCHITECTURE@WEIGHTS_FILE, or ARCH"
    ):
        Encoder.load("/nowhere")


def test_weights_do_not_train(tiny_encoder: Encoder) -> None:
    assert not any(parameter.requires_grad for parameter in tiny_encoder.model.parameters())
    assert not tiny_encoder.model.training
    with torch.enable_grad():
        assert not tiny_encoder.features([tiny_encoder.prepare(MIXED[2], Role.QUERY)]).image_BD.requires_grad
