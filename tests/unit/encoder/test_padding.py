"""SAME padding is TensorFlow's, as timm has it, and touches neither weights nor other convolutions."""

import timm
import torch
from torch import nn

from anykey.encoder.padding import Padding, use_same_padding
from tests.networks import TIMM_VISION, build_seeded, small_architecture


def test_same_padding_is_timms_pad_type_same_bit_for_bit() -> None:
    torch.manual_seed(3)
    reference = timm.create_model("mobilenetv1_100", num_classes=0, pad_type="same").eval()
    converted = timm.create_model("mobilenetv1_100", num_classes=0).eval()
    converted.load_state_dict(reference.state_dict())
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.equal(converted(pixels), reference(pixels))
        use_same_padding(converted)
        assert torch.equal(converted(pixels), reference(pixels))
    assert sorted(converted.state_dict()) == sorted(reference.state_dict())


def test_same_padding_keeps_the_weights_and_skips_stride_1() -> None:
    tower = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, bias=True), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, stride=2, groups=4)
    )
    before = [(convolution.weight, convolution.bias) for convolution in tower]
    use_same_padding(tower)
    assert [type(convolution).__name__ for convolution in tower] == ["Conv2dSame", "Conv2d", "Conv2dSame"]
    assert all(new.weight is weight and new.bias is bias for new, (weight, bias) in zip(tower, before, strict=True))
    assert tower(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 3, 3)


def test_an_architecture_with_same_padding_is_built_with_it() -> None:
    symmetric = build_seeded(small_architecture(vision=TIMM_VISION))
    same = build_seeded(small_architecture(vision=TIMM_VISION, padding=Padding.SAME))
    same.load_state_dict(symmetric.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert (same.encode_image(pixels) - symmetric.encode_image(pixels)).abs().max() > 1e-4
