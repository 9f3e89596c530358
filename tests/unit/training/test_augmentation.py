"""An augmentation is a function of pixels and seed, keeps the size, and does nothing unless asked."""

import pytest
import torch

from anykey.training.augmentation import Augmentation

PIXELS = torch.randint(0, 256, (3, 32, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("min_crop", "color_jitter", "gray_share"), [(0.3, 0.0, 0.0), (1.0, 0.5, 0.0), (0.5, 0.5, 0.5)]
)
def test_equal_seeds_give_equal_images_and_others_others(
    min_crop: float, color_jitter: float, gray_share: float
) -> None:
    augment = Augmentation((32, 24), min_crop, color_jitter, gray_share)
    torch.manual_seed(1)
    first = augment(PIXELS, 5)
    torch.manual_seed(2)
    assert torch.equal(augment(PIXELS, 5), first)
    assert (first.shape, first.dtype) == (PIXELS.shape, torch.uint8)
    assert any(not torch.equal(augment(PIXELS, seed), first) for seed in range(6, 10))


def test_the_callers_random_state_stays() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Augmentation((32, 24), 0.3, 0.5, 0.5)(PIXELS, 0)
    assert torch.equal(torch.rand(1), expected)


def test_no_gpu_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its draws, such as dropout's, would be the same in every step."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(3)
    assert seeds == [3]  # so this is where a GPU's seed would come from
    Augmentation((32, 24), 0.3, 0.5, 0.5)(PIXELS, 0)
    assert seeds == [3]


def test_nothing_wanted_changes_nothing() -> None:
    assert torch.equal(Augmentation((32, 24), 1.0, 0.0, 0.0)(PIXELS, 0), PIXELS)


def test_grey_images_keep_three_equal_channels() -> None:
    grey = Augmentation((32, 24), 1.0, 0.0, 1.0)(PIXELS, 0)
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
