"""A locked trunk's features are computed once, reused only while nothing they depend on changed."""

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anykey.encoder.images import ImageLimits
from anykey.encoder.padding import Padding
from anykey.encoder.towers.architecture import Architecture, preprocessing
from anykey.sources.pairs.pair import Pair
from anykey.training.families.images import image_input
from anykey.training.families.towers import Towers, read_start
from anykey.training.features import trunk_features
from anykey.training.table import ImageReader, PairTable
from tests.drawn_pairs import drawn_pairs
from tests.networks import TIMM_VISION, small_architecture
from tests.training_runs import ARCHITECTURE, CPU, image_features, make_table, make_towers, towers_of

PAIRS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(5)]


@pytest.fixture(scope="module")
def table() -> PairTable:
    return make_table(PAIRS)


@pytest.fixture
def towers() -> Towers:
    return make_towers(timm=True, lock_image=True)


def compute(towers: Towers, table: PairTable, cache_dir: Path, mirror: bool = False) -> tuple[torch.Tensor, int]:
    """The features, and how many images passed the trunk."""
    passed: list[int] = []
    handle = towers.trunk.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    try:
        return trunk_features(towers, table, mirror, cache_dir, lambda steps: None), sum(passed)
    finally:
        handle.remove()


def test_features_used_longest_ago_make_room(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    compute(towers, table, tmp_path)
    (path,) = tmp_path.iterdir()
    compute(towers, table, tmp_path, mirror=True)
    (other,) = {*tmp_path.iterdir()} - {path}
    os.utime(other, (0, 0))
    compute(towers, table, tmp_path)  # from the cache: used just now

    few = make_table(PAIRS[:3])
    trunk_features(towers, few, False, tmp_path, lambda steps: None, 2 * path.stat().st_size)

    assert path.exists()
    assert not other.exists()
    assert len([*tmp_path.iterdir()]) == 2


class CountingReader(ImageReader):
    """Counts the images it decodes."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(image_input(preprocessing(replace(ARCHITECTURE, preprocess_cfg=changes))), ImageLimits())
        self.num_decoded = 0

    def __call__(self, image: Any) -> np.ndarray:
        self.num_decoded += 1
        return super().__call__(image)


def uncached(reader: ImageReader) -> PairTable:
    """The pairs, whose images are decoded each time they are asked for."""
    return replace(make_table(PAIRS, cache_images_bytes=0), reader=reader)


def timm_towers(architecture: Architecture) -> Towers:
    towers = towers_of(architecture)
    towers.lock("image")
    return towers


def test_features_are_the_trunks_output_for_each_image_and_its_mirror_image(
    towers: Towers, table: PairTable, tmp_path: Path
) -> None:
    features, num_passed = compute(towers, table, tmp_path, mirror=True)
    assert (features.shape[:2], num_passed) == ((2, 5), 10)
    for row in range(5):
        pixels = table.pixels(row)[None]
        torch.testing.assert_close(features[0, row], towers.trunk_features(pixels)[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features[1, row], towers.trunk_features(pixels.flip(-1))[0], atol=1e-5, rtol=1e-4)


def test_features_can_be_trained_on(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    features, _ = compute(towers, table, tmp_path)
    image_features(towers, features[0]).sum().backward()


def test_the_cache_is_used_again(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    first, _ = compute(towers, table, tmp_path)
    again, num_passed = compute(towers, table, tmp_path)
    assert num_passed == 0
    assert torch.equal(again, first)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_run_left_finds_the_features_that_it_was_trained_on(towers: Towers, tmp_path: Path) -> None:
    compute(towers, make_table(PAIRS, family=towers), tmp_path / "features")
    towers.save(tmp_path / "last", towers.weights(), {})
    left = Towers(read_start(tmp_path / "last"), CPU)
    _, num_passed = compute(left, make_table(PAIRS, family=left), tmp_path / "features")
    assert num_passed == 0


def test_images_are_decoded_once_and_not_at_all_when_the_features_are_there(towers: Towers, tmp_path: Path) -> None:
    reader = CountingReader()
    compute(towers, uncached(reader), tmp_path, mirror=True)
    assert reader.num_decoded == 5
    _, num_passed = compute(towers, uncached(reader), tmp_path, mirror=True)
    assert (num_passed, reader.num_decoded) == (0, 5)


def test_more_images_than_a_batch_stay_in_order(towers: Towers, tmp_path: Path) -> None:
    table = make_table([PAIRS[n % 5] for n in range(70)], cache_images_bytes=0)
    features, num_passed = compute(towers, table, tmp_path)
    assert num_passed == 70
    for row in range(70):
        torch.testing.assert_close(features[0, row], features[0, row % 5], atol=1e-5, rtol=1e-4)
    assert (features[0, 0] - features[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"rubbish"])
def test_a_damaged_cache_file_is_computed_again(
    towers: Towers, table: PairTable, tmp_path: Path, damage: object
) -> None:
    first, _ = compute(towers, table, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    again, num_passed = compute(towers, table, tmp_path)
    assert num_passed == 5
    assert torch.equal(again, first)
    assert compute(towers, table, tmp_path)[1] == 0


def test_other_images_weights_precision_or_sides_are_computed_anew(
    towers: Towers, table: PairTable, tmp_path: Path
) -> None:
    compute(towers, table, tmp_path)
    assert compute(towers, make_table(PAIRS[:4]), tmp_path)[1] == 4
    assert compute(towers, make_table([*PAIRS[1:], PAIRS[0]]), tmp_path)[1] == 5
    assert compute(towers, table, tmp_path, mirror=True)[1] == 10
    assert compute(make_towers(timm=True, lock_image=True, dtype=torch.bfloat16), table, tmp_path)[1] == 5
    with torch.no_grad():
        next(towers.trunk.parameters()).mul_(1.001)
    assert compute(towers, table, tmp_path)[1] == 5


@pytest.mark.parametrize("changes", [{"size": 40}, {"resize_mode": "squash"}, {"resize_mode": "longest"}])
def test_other_pixels_of_the_same_images_are_computed_anew(
    towers: Towers, tmp_path: Path, changes: dict[str, Any]
) -> None:
    compute(towers, uncached(CountingReader()), tmp_path)
    assert compute(towers, uncached(CountingReader(**changes)), tmp_path)[1] == 5


def test_other_bytes_of_an_image_are_computed_anew(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    """Of the first image alone, and even where its pixels stay: bytes are what is compared."""
    compute(towers, table, tmp_path)
    again = BytesIO()
    Image.open(BytesIO(PAIRS[0].image)).save(again, "BMP")
    assert compute(towers, make_table([replace(PAIRS[0], image=again.getvalue()), *PAIRS[1:]]), tmp_path)[1] == 5
    assert compute(towers, make_table([replace(PAIRS[0], image=PAIRS[1].image), *PAIRS[1:]]), tmp_path)[1] == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocess_cfg": {"mean": (0.25, 0.25, 0.25), "std": (0.25, 0.25, 0.25)}},  # black stays the same
        {"preprocess_cfg": {"mean": (0.5, 0.5, 0.500001), "std": (0.5, 0.5, 0.5)}},
        {"preprocess_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.6)}},
        {"padding": Padding.SAME},
    ],
)
def test_another_normalisation_or_padding_is_computed_anew(
    table: PairTable, tmp_path: Path, changes: dict[str, Any]
) -> None:
    half = (0.5, 0.5, 0.5)
    architecture = replace(small_architecture(vision=TIMM_VISION), preprocess_cfg={"mean": half, "std": half})
    compute(timm_towers(architecture), table, tmp_path)
    assert compute(timm_towers(architecture), table, tmp_path)[1] == 0
    assert compute(timm_towers(replace(architecture, **changes)), table, tmp_path)[1] == 5


def test_uncached_pixels_give_the_same_features(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    first, _ = compute(towers, table, tmp_path)
    again, num_passed = compute(towers, make_table(PAIRS, cache_images_bytes=0), tmp_path)
    assert num_passed == 0
    assert torch.equal(again, first)
