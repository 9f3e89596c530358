"""What the losses are computed over: rows of any modality, and which of them mean the same.

Shape legend: R = rows, D = width, K = columns of "alike", N = instances, C = candidates, A = anchors, E = edges (an
anchor and a row it meets).
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


@dataclass(frozen=True)
class Labels:
    """What decides who meets whom.

    Attributes:
        modality_R: As in `Rows`.
        instance_R: Instances numbered from 0, int32.
        num_instances: How many numbers there are.
        met_by_R: The instance whose anchors meet this row one by one: its own, or a hard negative's owner.
        is_hard_R: Whether the row is a hard negative.
        row_C: All rows but the hard negatives: candidates of any anchor.
        alike: Those columns of "alike" that hold a duplicate, int32 and without negative entries that
            could agree: as anchor and as candidate.
    """

    modality_R: Tensor
    instance_R: Tensor
    num_instances: int
    met_by_R: Tensor
    is_hard_R: Tensor
    row_C: Tensor
    alike: tuple[tuple[Tensor, Tensor], ...]


def make_labels(rows: Rows) -> Labels:
    """Numbers instances and leaves out what cannot matter."""
    owner_R = torch.full_like(rows.instance_R, -1) if rows.owner_R is None else rows.owner_R
    is_hard_R = owner_R >= 0
    met_by_R = torch.where(is_hard_R, owner_R, rows.instance_R)
    codes_2R = _codes(torch.cat([rows.instance_R, met_by_R]))
    instance_R, met_by_R = codes_2R.chunk(2)
    # A hard negative means what no other row means, whatever instance it is said to be of.
    meaning_R = torch.where(is_hard_R, -1 - torch.arange(len(rows), device=owner_R.device), instance_R)
    alike = () if rows.alike_RK is None else _duplicates(rows.alike_RK, meaning_R)
    return Labels(
        modality_R=rows.modality_R,
        instance_R=instance_R,
        num_instances=int(codes_2R.max()) + 1 if len(codes_2R) else 0,
        met_by_R=met_by_R,
        is_hard_R=is_hard_R,
        row_C=(~is_hard_R).nonzero()[:, 0],
        alike=alike,
    )


def meetings(labels: Labels, row_A: Tensor) -> tuple[Tensor, Tensor]:
    """Every anchor with each row of its instance, itself included, and with each hard negative it owns.

    Returns:
        The anchors' rows `[E]`, in order, and the rows they meet `[E]`.
    """
    order_R = labels.met_by_R.argsort(stable=True)
    count_I = labels.met_by_R.bincount(minlength=labels.num_instances)
    start_I = count_I.cumsum(0) - count_I
    instance_A = labels.instance_R[row_A].long()
    count_A = count_I[instance_A]
    offset_A = start_I[instance_A] - (count_A.cumsum(0) - count_A)
    position_E = offset_A.repeat_interleave(count_A)
    position_E += torch.arange(len(position_E), device=row_A.device)
    return row_A.repeat_interleave(count_A), order_R[position_E]


def are_alike(labels: Labels, left_E: Tensor, right_E: Tensor) -> Tensor:
    """Boolean `[E]`: whether the two rows agree in a column of "alike"."""
    alike_E = torch.zeros_like(left_E, dtype=torch.bool)
    for as_anchor_R, as_candidate_R in labels.alike:
        alike_E |= as_anchor_R[left_E] == as_candidate_R[right_E]
    return alike_E


def _duplicates(alike_RK: Tensor, meaning_R: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    columns = []
    for column_R in alike_RK.unbind(1):
        if _has_duplicates(column_R, meaning_R):
            codes_R = _codes(column_R)
            columns.append((codes_R.masked_fill(column_R < 0, -1), codes_R.masked_fill(column_R < 0, -2)))
    return tuple(columns)


def _has_duplicates(column_R: Tensor, meaning_R: Tensor) -> bool:
    """Whether two rows that mean different things agree. In sorted order such rows lie side by side somewhere."""
    column_R, order_R = column_R.sort()
    meaning_R = meaning_R[order_R]
    agree = (column_R[1:] == column_R[:-1]) & (column_R[1:] >= 0) & (meaning_R[1:] != meaning_R[:-1])
    return bool(agree.any())


def _codes(values: Tensor) -> Tensor:
    """Equal values become equal numbers from 0."""
    codes: Tensor = torch.unique(values, return_inverse=True)[1]
    return codes.int()
