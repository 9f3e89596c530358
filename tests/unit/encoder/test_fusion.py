"""Fusion against UniIR's CLIP-SF (sum of the features, then unit norm) written in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from anykey.encoder.fusion import Fusion, fuse


def features(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Image and text features of different lengths, as towers give them."""
    generator = torch.Generator().manual_seed(seed)
    image_BD = 12.0 * torch.randn(5, 7, generator=generator)
    return image_BD, 0.5 * torch.randn(5, 7, generator=generator)


def unit(vectors_BD: np.ndarray) -> np.ndarray:
    return vectors_BD / np.linalg.norm(vectors_BD, axis=1, keepdims=True)


def test_raw_fusion_is_the_sum_of_the_features_scaled_to_unit_norm() -> None:
    image_BD, text_BD = features()
    expected = unit(image_BD.numpy().astype(np.float64) + text_BD.numpy())
    np.testing.assert_allclose(fuse(image_BD, text_BD, Fusion.RAW).numpy(), expected, atol=1e-6)


def test_unit_fusion_is_the_sum_of_unit_features_scaled_to_unit_norm() -> None:
    image_BD, text_BD = features()
    expected = unit(unit(image_BD.numpy().astype(np.float64)) + unit(text_BD.numpy()))
    np.testing.assert_allclose(fuse(image_BD, text_BD, Fusion.UNIT).numpy(), expected, atol=1e-6)


def test_the_two_fusions_differ_when_the_towers_differ_in_length() -> None:
    image_BD, text_BD = features()
    assert (fuse(image_BD, text_BD, Fusion.RAW) - fuse(image_BD, text_BD, Fusion.UNIT)).abs().max() > 0.1


@pytest.mark.parametrize("fusion", Fusion)
def test_weight_0_leaves_the_image_and_weight_1_the_text(fusion: Fusion) -> None:
    image_BD, text_BD = features()
    np.testing.assert_allclose(fuse(image_BD, text_BD, fusion, 0.0), unit(image_BD.numpy()), atol=1e-6)
    np.testing.assert_allclose(fuse(image_BD, text_BD, fusion, 1.0), unit(text_BD.numpy()), atol=1e-6)


def test_each_item_may_have_its_own_weight() -> None:
    image_BD, text_BD = features()
    weights = [0.0, 0.25, 0.5, 0.75, 1.0]
    rows = [fuse(image_BD[i : i + 1], text_BD[i : i + 1], Fusion.RAW, weight)[0] for i, weight in enumerate(weights)]
    torch.testing.assert_close(fuse(image_BD, text_BD, Fusion.RAW, torch.tensor(weights)), torch.stack(rows))


def test_a_quarter_weighs_the_image_three_times_as_much() -> None:
    image_BD, text_BD = features()
    expected = unit(0.75 * image_BD.numpy() + 0.25 * text_BD.numpy())
    np.testing.assert_allclose(fuse(image_BD, text_BD, Fusion.RAW, 0.25), expected, atol=1e-6)


def test_half_precision_features_give_float32_unit_vectors() -> None:
    image_BD, text_BD = (part.half() for part in features())
    vectors_BD = fuse(image_BD, text_BD, Fusion.RAW)
    assert vectors_BD.dtype is torch.float32
    torch.testing.assert_close(vectors_BD.norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)
