"""A locked trunk's features are computed once, reused only while nothing they depend on changed."""

from pathlib import Path

import pytest
import torch

from tests.drawn_pairs import drawn_pairs
from tests.training_runs import make_table, make_towers
from training.features import trunk_features
from training.pairs import Pair
from training.table import PairTable
from training.towers import Towers

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
    towers.image_features(features[0]).sum().backward()


def test_the_cache_is_used_again(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    first, _ = compute(towers, table, tmp_path)
    again, num_passed = compute(towers, table, tmp_path)
    assert num_passed == 0
    assert torch.equal(again, first)
    assert len(list(tmp_path.iterdir())) == 1


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


def test_uncached_pixels_give_the_same_features(towers: Towers, table: PairTable, tmp_path: Path) -> None:
    first, _ = compute(towers, table, tmp_path)
    again, num_passed = compute(towers, make_table(PAIRS, cache_images_bytes=0), tmp_path)
    assert num_passed == 0
    assert torch.equal(again, first)
