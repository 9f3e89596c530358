"""How a convolutional image tower pads; light, so that settings can be read without torch."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class Padding(StrEnum):
    """How a convolutional image tower pads its strided convolutions.

    `SAME` is TensorFlow's rule; weights that come from TensorFlow need it, and open_clip's configuration
    cannot ask timm for it.
    """

    SYMMETRIC = "symmetric"
    SAME = "same"


def use_same_padding(tower: "nn.Module") -> None:
    """Gives every strided convolution of `tower` TensorFlow's SAME padding, in place; weights are kept."""
    from timm.layers.conv2d_same import Conv2dSame
    from torch import nn

    for name, convolution in list(tower.named_modules()):
        if type(convolution) is not nn.Conv2d or convolution.stride == (1, 1):
            continue
        same = Conv2dSame(
            convolution.in_channels,
            convolution.out_channels,
            _pair(convolution.kernel_size),
            stride=_pair(convolution.stride),
            dilation=_pair(convolution.dilation),
            groups=convolution.groups,
            bias=convolution.bias is not None,
        )
        same.weight, same.bias = convolution.weight, convolution.bias
        tower.set_submodule(name, same)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    return height, width
