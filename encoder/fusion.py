"""How an image and a text become one vector: score fusion, after UniIR's CLIP-SF (arXiv 2311.17136).

Light, so that settings can be read without torch, which the first call loads.

Shape legend: B = batch, D = width.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


NATIVE = "native"  # of a model that fuses by itself, where nothing is added


class Fusion(StrEnum):
    """What is added: the towers' raw features (UniIR), or the features scaled to unit norm first."""

    RAW = "raw"
    UNIT = "unit"


def fuse(image_BD: "Tensor", text_BD: "Tensor", fusion: Fusion, text_weight: "float | Tensor" = 0.5) -> "Tensor":
    """Adds image and text features and scales the sum to unit norm.

    Args:
        image_BD: Image features, before normalisation.
        text_BD: Text features, before normalisation.
        fusion: Whether the features are scaled to unit norm before they are added.
        text_weight: The text's share, in [0, 1]: one number, or one for each item `[B]`. 0.5 is the
            plain sum (UniIR); 0 leaves the image alone, 1 the text.

    Returns:
        Unit vectors `[B, D]`, float32.
    """
    import torch
    from torch.nn import functional

    image_BD, text_BD = image_BD.float(), text_BD.float()
    if fusion is Fusion.UNIT:
        image_BD, text_BD = functional.normalize(image_BD, dim=-1), functional.normalize(text_BD, dim=-1)
    weight = torch.as_tensor(text_weight, dtype=torch.float32, device=text_BD.device)
    if weight.ndim == 1:
        weight = weight[:, None]
    return functional.normalize((1.0 - weight) * image_BD + weight * text_BD, dim=-1)
