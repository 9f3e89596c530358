"""A pool of rows made ready for a loss: who is an anchor, what it meets one by one, what each term weighs.

Shape legend: R = rows, D = width, A = anchors, E = edges (an anchor and a row of its instance that it meets).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.choices import Reading
from anykey.training.losses.dots import pair_dots
from anykey.training.losses.labels import Labels, are_alike, make_labels, meetings
from anykey.training.losses.rows import NUM_MODALITIES, Rows
from anykey.training.losses.terms import Terms


@dataclass(frozen=True)
class Pool:
    """Rows ready for a loss.

    Attributes:
        vectors_RD: Vectors in full precision.
        scale_33: Inverse temperature for each modality of an anchor and of a candidate.
        is_uniform: Whether all these temperatures are one number.
        labels: The rows' labels.
        row_A: Anchors that have a term, in order.
        num_anchors: How many such anchors the whole pool has.
        left_E: The anchor of each edge.
        right_E: A row that it meets: a positive, a hard negative that its instance owns or, under R1, itself.
        is_positive_E: Whether that is a positive.
        share_E: The share of a positive's term in the mean over the whole pool; else meaningless.
    """

    vectors_RD: Tensor
    scale_33: Tensor
    is_uniform: bool
    labels: Labels
    row_A: Tensor
    num_anchors: int
    left_E: Tensor
    right_E: Tensor
    is_positive_E: Tensor
    share_E: Tensor

    def logits(self) -> Tensor:
        """Logits of the edges, `[E]`."""
        scale_E = self.scale_33[self.labels.modality_R[self.left_E], self.labels.modality_R[self.right_E]]
        return scale_E * pair_dots(self.vectors_RD, self.left_E, self.right_E)

    def zero(self) -> Tensor:
        """Nothing, with a graph: the loss of a pool without terms."""
        return (self.vectors_RD.sum() + self.scale_33.sum()) * 0


def make_pool(rows: Rows, scale: Tensor, terms: Terms, anchors: slice | None) -> Pool:
    """Makes rows ready.

    Args:
        rows: The whole pool.
        scale: Inverse temperature, a scalar or `[3, 3]`.
        terms: What the loss averages.
        anchors: The rows that may be anchors; None: all. Shares are of the whole pool in any case.
    """
    vectors_RD = full_precision(rows.vectors_RD)
    scale_33 = scale.to(vectors_RD).expand(NUM_MODALITIES, NUM_MODALITIES)
    labels = make_labels(rows)
    share_R3 = _shares(labels, terms, vectors_RD)
    has_term_R = (share_R3 > 0).any(1)
    row_A = _inside(has_term_R, anchors).nonzero()[:, 0]
    left_E, right_E = meetings(labels, row_A)
    keep_E = _kept(labels, left_E, right_E, terms)
    left_E, right_E = left_E[keep_E], right_E[keep_E]
    is_positive_E = ~labels.is_hard_R[right_E] & (left_E != right_E)
    share_E = share_R3[left_E, labels.modality_R[right_E]]
    return Pool(
        vectors_RD=vectors_RD,
        scale_33=scale_33,
        is_uniform=scale.numel() == 1,
        labels=labels,
        row_A=row_A,
        num_anchors=int(has_term_R.sum()),
        left_E=left_E,
        right_E=right_E,
        is_positive_E=is_positive_E,
        share_E=share_E,
    )


def full_precision(vectors: Tensor) -> Tensor:
    """Float32, or float64 as it is."""
    return vectors if vectors.dtype is torch.float64 else vectors.float()


def _shares(labels: Labels, terms: Terms, like: Tensor) -> Tensor:
    """The share of each positive of a row in the loss, by target modality, `[R, 3]`; 0 without positives."""
    count_R3 = _positives(labels)
    weight_R3 = like.new_tensor(terms.weights)[labels.modality_R] * (count_R3 > 0)
    return weight_R3 / weight_R3.sum().clamp_min(torch.finfo(like.dtype).tiny) / count_R3.clamp_min(1)


def _positives(labels: Labels) -> Tensor:
    """How many positives each row has in each modality, `[R, 3]`; none for hard negatives."""
    slot_R = labels.instance_R.long() * NUM_MODALITIES + labels.modality_R
    num_slots = labels.num_instances * NUM_MODALITIES
    count_I3 = slot_R[~labels.is_hard_R].bincount(minlength=num_slots).view(-1, NUM_MODALITIES)
    count_R3 = count_I3[labels.instance_R.long()] - functional.one_hot(labels.modality_R, NUM_MODALITIES)
    return count_R3.masked_fill(labels.is_hard_R[:, None], 0)


def _inside(has_term_R: Tensor, anchors: slice | None) -> Tensor:
    """The rows that have a term and are in the slice."""
    if anchors is None:
        return has_term_R
    inside_R = torch.zeros_like(has_term_R)
    inside_R[anchors] = True
    return has_term_R & inside_R


def _kept(labels: Labels, left_E: Tensor, right_E: Tensor, terms: Terms) -> Tensor:
    """Boolean `[E]`: what an anchor meets of its own instance under these weights and this reading."""
    modality_E, target_E = labels.modality_R[left_E], labels.modality_R[right_E]
    is_self_E, is_hard_E = left_E == right_E, labels.is_hard_R[right_E]
    has_weight_33 = torch.tensor(terms.weights, device=left_E.device) > 0
    kept_E = has_weight_33[modality_E, target_E] & ~is_self_E & ~is_hard_E
    if terms.reading is Reading.R1:
        kept_E |= is_self_E
    is_rival_E = is_hard_E & ~are_alike(labels, left_E, right_E)
    if terms.reading is Reading.R4:
        is_rival_E &= modality_E != target_E
    return kept_E | is_rival_E
