"""The generalised contrastive loss: any ordered pairs of modalities, any reading, any number of positives.

Generalized Contrastive Learning (GCL, Lee et al., NeurIPS 2025, arXiv 2509.25638) treats the image, the text
and the fused vector of a pair as three candidates in one pool: each vector is an anchor, its positives are
the other two vectors of its pair, and its denominator runs over all modalities. With other weights the same
function is CLIP's loss, the pairwise loss or SupCon.

Shape legend: R = rows, D = width, A = anchors, E = edges (an anchor and a row of its instance that it meets).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import InvalidRecipeError
from training.losses.dots import pair_dots
from training.losses.labels import Edges, Labels, are_alike, make_labels, meetings, positives_per_modality
from training.losses.reading import Reading
from training.losses.rows import NUM_MODALITIES, Rows
from training.losses.tiles import Needed, Negatives

Weights = tuple[tuple[float, float, float], ...]
CROSS_MODALITY: Weights = ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
CLIP_WEIGHTS: Weights = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Terms:
    """What the loss averages.

    Attributes:
        weights: Weight of each ordered pair of modalities, `[anchor][target]`, in the order image, text, fused.
            `CLIP_WEIGHTS` with reading R5 over rows without fused vectors is CLIP's loss.
        reading: Which candidates the denominators hold.

    Raises:
        InvalidRecipeError: the weights are no 3 x 3 finite numbers >= 0, all are 0, or a modality is its own
            target under R4, whose denominators would lack the target.
    """

    weights: Weights = CROSS_MODALITY
    reading: Reading = Reading.R2

    def __post_init__(self) -> None:
        flat = [weight for row in self.weights for weight in row]
        if [len(row) for row in self.weights] != [NUM_MODALITIES] * NUM_MODALITIES:
            raise InvalidRecipeError(f"expected 3 x 3 weights of modality pairs, got {self.weights}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in flat) or not any(flat):
            raise InvalidRecipeError(f"weights must be finite, >= 0 and not all 0, got {self.weights}")
        if self.reading is Reading.R4 and any(self.weights[m][m] for m in range(NUM_MODALITIES)):
            raise InvalidRecipeError("reading R4 leaves out the anchor's modality: no modality can be its own target")

    def needed(self) -> Needed:
        """For each modality of an anchor, the modalities of the negatives it meets."""
        modalities = range(NUM_MODALITIES)
        if self.reading is Reading.R4:
            return tuple(tuple(c != a for c in modalities) for a in modalities)
        if self.reading is Reading.R5:
            return tuple(tuple(weight > 0 for weight in row) for row in self.weights)
        return ((True,) * NUM_MODALITIES,) * NUM_MODALITIES


def contrastive_loss(
    rows: Rows,
    scale: Tensor,
    terms: Terms = Terms(),
    anchors: slice | None = None,
    tile_size: int | None = None,
) -> Tensor:
    """The weighted mean of -log softmax over all (anchor, target modality) terms that have a positive.

    A term's value is the mean over its positives: rows of the anchor's instance in the target modality,
    neither the anchor itself nor hard negatives. Never in a denominator: rows of other instances that are
    alike, rows of the anchor's instance in a modality of weight 0 (but for the anchor itself under R1), and
    hard negatives that another instance owns. A hard negative that is alike with its anchor is left out too.

    Memory is O(R D) for any number of rows, besides a number for each two rows of one instance.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        scale: Inverse temperature: a scalar, or `[3, 3]` for each modality of an anchor and of a candidate.
        terms: What is averaged.
        anchors: The rows that are anchors here; None: all. The mean is always over the anchors of the whole
            pool, so the sum of the losses of slices that make up the pool is the loss of the pool.
        tile_size: Anchors and candidates computed at a time. None: all if they are few, else 1,024.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64); 0, with a graph, when there is
        no term. One row a modality and instance, aligned, orthogonal to all others, at low temperature: it tends
        to log 3 (R1), log 2 (R2, R4) or 0 (R3, R5).
    """
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        vectors_RD = full_precision(rows.vectors_RD)
        scale_33 = scale.to(vectors_RD).expand(NUM_MODALITIES, NUM_MODALITIES)
        labels = make_labels(rows)
        share_R3 = _shares(labels, terms, vectors_RD)
        row_A = _anchors(share_R3, anchors)
        if len(row_A) == 0:
            return (vectors_RD.sum() + scale_33.sum()) * 0
        edges = _edges(labels, row_A, terms)
        logit_E = _logits(vectors_RD, scale_33, labels, edges)
        is_positive_E = ~labels.is_hard_R[edges.right_E] & (edges.left_E != edges.right_E)
        negatives_A3 = Negatives(labels, row_A, terms.needed(), tile_size).lse(vectors_RD, scale_33)
        target_E = labels.modality_R[edges.right_E]
        denominator_P = _denominators(terms.reading, negatives_A3, edges, logit_E, target_E, is_positive_E)
        share_P = share_R3[edges.left_E, target_E][is_positive_E]
        return (share_P * (denominator_P - logit_E[is_positive_E])).sum()


def full_precision(vectors: Tensor) -> Tensor:
    """Float32, or float64 as it is."""
    return vectors if vectors.dtype is torch.float64 else vectors.float()


def _shares(labels: Labels, terms: Terms, like: Tensor) -> Tensor:
    """The share of each positive of a row in the loss, by target modality, `[R, 3]`; 0 without positives."""
    count_R3 = positives_per_modality(labels)
    weight_R3 = like.new_tensor(terms.weights)[labels.modality_R] * (count_R3 > 0)
    return weight_R3 / weight_R3.sum().clamp_min(torch.finfo(like.dtype).tiny) / count_R3.clamp_min(1)


def _anchors(share_R3: Tensor, anchors: slice | None) -> Tensor:
    """Rows in the slice that have a term."""
    has_term_R = (share_R3 > 0).any(1)
    if anchors is not None:
        inside_R = torch.zeros_like(has_term_R)
        inside_R[anchors] = True
        has_term_R &= inside_R
    return has_term_R.nonzero()[:, 0]


def _edges(labels: Labels, row_A: Tensor, terms: Terms) -> Edges:
    """What each anchor meets of its own instance: positives, hard negatives and, under R1, itself."""
    edges = meetings(labels, row_A)
    modality_E, target_E = labels.modality_R[edges.left_E], labels.modality_R[edges.right_E]
    is_self_E, is_hard_E = edges.left_E == edges.right_E, labels.is_hard_R[edges.right_E]
    weighted_33 = torch.tensor(terms.weights, device=row_A.device) > 0
    keep_E = weighted_33[modality_E, target_E] & ~is_self_E & ~is_hard_E
    if terms.reading is Reading.R1:
        keep_E |= is_self_E
    is_in_E = is_hard_E & ~are_alike(labels, edges)
    if terms.reading is Reading.R4:
        is_in_E &= modality_E != target_E
    return edges.where(keep_E | is_in_E)


def _logits(vectors_RD: Tensor, scale_33: Tensor, labels: Labels, edges: Edges) -> Tensor:
    scale_E = scale_33[labels.modality_R[edges.left_E], labels.modality_R[edges.right_E]]
    return scale_E * pair_dots(vectors_RD, edges.left_E, edges.right_E)


def _denominators(
    reading: Reading,
    negatives_A3: Tensor,
    edges: Edges,
    logit_E: Tensor,
    target_E: Tensor,
    is_positive_E: Tensor,
) -> Tensor:
    """Log-sum-exp of the denominator of each positive edge."""
    anchor_A3 = torch.arange(len(negatives_A3), device=logit_E.device)[:, None].expand_as(negatives_A3)
    value_V, segment_A3, segment_E = negatives_A3.flatten(), anchor_A3, edges.anchor_E
    if reading is Reading.R5:
        segment_A3 = torch.arange(negatives_A3.numel(), device=logit_E.device)
        segment_E = NUM_MODALITIES * edges.anchor_E + target_E
    if reading is Reading.R3:
        rival_E = ~is_positive_E
        value_V = torch.cat([value_V, logit_E[rival_E]])
        lse_A = _segment_lse(value_V, torch.cat([segment_A3.flatten(), segment_E[rival_E]]), len(negatives_A3))
        return torch.logaddexp(lse_A[segment_E[is_positive_E]], logit_E[is_positive_E])
    value_V = torch.cat([value_V, logit_E])
    lse_S = _segment_lse(value_V, torch.cat([segment_A3.flatten(), segment_E]), negatives_A3.numel())
    return lse_S[segment_E[is_positive_E]]


def _segment_lse(value_V: Tensor, segment_V: Tensor, num_segments: int) -> Tensor:
    """Log-sum-exp of the values of each segment; -inf, without a gradient, where it has none above -inf."""
    top_S = value_V.new_full((num_segments,), -torch.inf)
    top_S = top_S.scatter_reduce(0, segment_V, value_V.detach(), "amax")
    base_S = top_S.masked_fill(top_S == -torch.inf, 0)
    sum_S = torch.zeros_like(base_S).index_add(0, segment_V, (value_V - base_S[segment_V]).exp())
    is_empty_S = sum_S == 0
    return torch.where(is_empty_S, -torch.inf, base_S + sum_S.masked_fill(is_empty_S, 1).log())
