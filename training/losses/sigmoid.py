"""The sigmoid loss: every pair of rows is a yes-or-no question of its own.

SigLIP (Zhai et al., ICCV 2023, arXiv 2303.15343) asks of each image and text of a batch whether they belong
together. Here the question is asked of all rows, so that image, text and fused candidates are calibrated against
one another; the positives of an anchor do not compete.

Shape legend: R = rows, D = width, E = edges (an anchor and a row of its instance that it meets), T = anchors in a
tile, S = candidates in a tile.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.losses.negatives import Negatives, Tile
from anykey.training.losses.pool import Pool, make_pool
from anykey.training.losses.rows import Rows
from anykey.training.losses.terms import Terms

_GCL = Terms()


def sigmoid_loss(
    rows: Rows,
    scale: Tensor,
    bias: Tensor,
    terms: Terms = _GCL,
    anchors: slice | None = None,
    tile_size: int | None = None,
) -> Tensor:
    """The sum of -log sigmoid(z (s x.y + b)) over all cells (anchor, row), divided by the number of anchors.

    z is 1 for positives, rows of the anchor's instance in a modality of weight > 0, and -1 for rows of other
    instances and hard negatives of the anchor's own. The anchor itself, rows that are alike and other rows of the
    instance are no cells. Anchors are the rows that have a positive. With `CLIP_WEIGHTS` and R5 this is SigLIP's loss.
    Memory is O(R D) as in `contrastive_loss`.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        scale: Inverse temperature: a scalar, or `[3, 3]` for each modality of an anchor and of a candidate. SigLIP
            starts at 10.
        bias: Scalar, added to each logit. SigLIP starts at -10, as most cells are negatives.
        terms: Which pairs of modalities are positives (weights beyond 0 and not 0 do not matter), and which negatives
            an anchor meets: other modalities only (R4), only modalities that hold positives (R5), else all.
        anchors: The rows that are anchors here, as in `contrastive_loss`: slices add up to the pool.
        tile_size: Anchors and candidates computed at a time; None: what is fast.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64).
    """
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        pool = make_pool(rows, scale, terms, anchors)
        bias = bias.to(pool.vectors_RD)
        if len(pool.row_A) == 0:
            return pool.zero() + bias * 0
        negatives = Negatives(pool.labels, pool.row_A, terms.needed(), pool.is_uniform, tile_size=tile_size)
        negatives_sum: Tensor = _NegativesSoftplus.apply(pool.vectors_RD, pool.scale_33, bias, negatives)
        return (negatives_sum + _edges_sum(pool, bias, terms)) / pool.num_anchors


def _edges_sum(pool: Pool, bias: Tensor, terms: Terms) -> Tensor:
    """The cells of positives and of hard negatives."""
    logit_E = pool.logits() + bias
    modality_R = pool.labels.modality_R
    is_needed_33 = torch.tensor(terms.needed(), device=logit_E.device)
    is_hard_E = pool.labels.is_hard_R[pool.right_E] & is_needed_33[modality_R[pool.left_E], modality_R[pool.right_E]]
    hard = functional.softplus(logit_E[is_hard_E]).sum()
    return hard + functional.softplus(-logit_E[pool.is_positive_E]).sum()


class _NegativesSoftplus(torch.autograd.Function):
    """The sum of log(1 + exp(logit + bias)) over all negatives; keeps the logits only when they are few."""

    @staticmethod
    def forward(ctx: Any, vectors_RD: Tensor, scale_33: Tensor, bias: Tensor, negatives: Negatives) -> Tensor:
        kept: list[Tensor] = []
        keep = negatives.keeps_logits() and any(ctx.needs_input_grad)
        total = vectors_RD.new_zeros(())
        for strip in negatives.strips():
            scale_T1 = scale_33[negatives.labels.modality_R[strip.rows], strip.slot, None]
            anchors_TD = vectors_RD[strip.rows] * scale_T1
            for tile in strip.tiles(negatives.step()):
                logits_TS = negatives.logits(tile, anchors_TD, vectors_RD)
                total += functional.softplus(logits_TS + bias).sum()
                if keep:
                    kept.append(logits_TS)
        ctx.save_for_backward(vectors_RD, scale_33, bias, *kept)
        ctx.negatives = negatives
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        vectors_RD, scale_33, bias, *kept = ctx.saved_tensors
        bias_grad = torch.zeros_like(bias)

        def weigh(tile: Tile, logits_TS: Tensor) -> Tensor:
            weights_TS: Tensor = (logits_TS + bias).sigmoid_().mul_(grad)
            bias_grad.add_(weights_TS.sum())
            return weights_TS

        with torch.autocast(vectors_RD.device.type, enabled=False):
            vectors_grad_RD, scale_grad_33 = ctx.negatives.gradients(vectors_RD, scale_33, weigh, iter(kept))
        return vectors_grad_RD, scale_grad_33, bias_grad, None
