"""What the losses are computed over: rows of any modality, and which of them mean the same.

Shape legend: R = rows, D = width, K = columns of "alike", N = instances.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE, TEXT, FUSED = 0, 1, 2
NUM_MODALITIES = 3


@dataclass(frozen=True)
class Rows:
    """Unit vectors with what the losses must know of each.

    Attributes:
        vectors_RD: Unit vectors.
        modality_R: Integers: 0 image, 1 text, 2 fused.
        instance_R: Integers; rows of one instance mean the same thing, so they are each other's positives.
        alike_RK: Integers; rows of different instances that agree in any column (entries >= 0) are
            duplicates, so never negatives of one another. None: there are none.
        owner_R: -1, or for a hard negative the only instance whose anchors meet this row, as a negative.
            Such a row is never an anchor and never a positive. None: there are none.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    vectors_RD: Tensor
    modality_R: Tensor
    instance_R: Tensor
    alike_RK: Tensor | None = None
    owner_R: Tensor | None = None

    def __post_init__(self) -> None:
        if self.vectors_RD.ndim != 2:
            raise ValueError(f"vectors must be [rows, width], got {tuple(self.vectors_RD.shape)}")
        expected = (self.vectors_RD.shape[0],)
        for name in ("modality_R", "instance_R", "owner_R"):
            column = getattr(self, name)
            if column is not None and tuple(column.shape) != expected:
                raise ValueError(f"{name} must have shape {expected}, got {tuple(column.shape)}")
        if self.alike_RK is not None and (self.alike_RK.ndim != 2 or self.alike_RK.shape[:1] != expected):
            raise ValueError(f"alike_RK must be [{expected[0]}, columns], got {tuple(self.alike_RK.shape)}")

    def __len__(self) -> int:
        return self.vectors_RD.shape[0]


def triples(
    image_ND: Tensor,
    text_ND: Tensor,
    fused_ND: Tensor | None = None,
    alike_NK: Tensor | None = None,
) -> Rows:
    """Rows of N instances with one image, one text and, where given, one fused vector each, in this order."""
    parts = [image_ND, text_ND] if fused_ND is None else [image_ND, text_ND, fused_ND]
    instance_N = torch.arange(image_ND.shape[0], device=image_ND.device)
    return Rows(
        torch.cat(parts),
        torch.arange(len(parts), device=image_ND.device).repeat_interleave(len(instance_N)),
        instance_N.repeat(len(parts)),
        None if alike_NK is None else alike_NK.repeat(len(parts), 1),
    )
