"""The log-sum-exp of each anchor's negatives, tile by tile, so that no large matrix of logits is ever kept.

The forward pass keeps one number for each anchor and modality; the backward pass computes each tile again,
as FlashAttention (arXiv 2205.14135) and Inf-CL (arXiv 2410.17243) do. The mask is applied inside the tile:
what is left out cannot be subtracted afterwards, since all digits are lost when it dominates the sum.

Shape legend: R = rows, D = width, T = anchors in a tile, S = candidates in a tile, G = groups of
values, K = values of a group, E = further values.
"""

from typing import Any

import torch
from torch import Tensor

from anykey.training.losses.negatives import Negatives, Tile
from anykey.training.losses.rows import NUM_MODALITIES
from anykey.training.losses.symmetric import symmetric_lse


def negatives_lse(negatives: Negatives, vectors_RD: Tensor, scale_33: Tensor) -> Tensor:
    """Log of the sum of exp(logit) over the negatives, by slot.

    Args:
        negatives: Who meets whom.
        vectors_RD: Unit vectors.
        scale_33: Inverse temperature for each modality of an anchor and of a candidate.

    Returns:
        `[R, 3]`, -inf where there are no negatives. All modalities share slot 0 where they can. The numbers of
        rows that are no anchors mean nothing.
    """
    if negatives.is_symmetric():
        return symmetric_lse(negatives, vectors_RD, scale_33[0, 0])
    lse_R3: Tensor = _NegativesLse.apply(vectors_RD, scale_33, negatives)
    return lse_R3


def lse_with_edges(negatives_GK: Tensor, value_E: Tensor, group_E: Tensor) -> Tensor:
    """Log-sum-exp of each row of a matrix and of the values that belong to it.

    Args:
        negatives_GK: Some values of each group.
        value_E: Further values.
        group_E: The group of each of these.

    Returns:
        `[G]`; -inf, without a gradient, where a group has no value above -inf.
    """
    top_G = negatives_GK.detach().amax(1).scatter_reduce(0, group_E, value_E.detach(), "amax")
    base_G = top_G.masked_fill(top_G == -torch.inf, 0)
    sum_G = (negatives_GK - base_G[:, None]).exp().sum(1)
    sum_G = sum_G.index_add(0, group_E, (value_E - base_G[group_E]).exp())
    is_empty_G = sum_G == 0
    return torch.where(is_empty_G, -torch.inf, base_G + sum_G.masked_fill(is_empty_G, 1).log())


class _NegativesLse(torch.autograd.Function):
    """`negatives_lse` with its gradient; keeps the logits only when they are few."""

    @staticmethod
    def forward(ctx: Any, vectors_RD: Tensor, scale_33: Tensor, negatives: Negatives) -> Tensor:
        kept: list[Tensor] = []
        keep = negatives.keeps_logits() and any(ctx.needs_input_grad)
        lse_R3 = vectors_RD.new_full((len(vectors_RD), NUM_MODALITIES), -torch.inf)
        for strip in negatives.strips():
            scale_T1 = scale_33[negatives.labels.modality_R[strip.rows], strip.slot, None]
            anchors_TD = vectors_RD[strip.rows] * scale_T1
            lse_T = lse_R3[strip.rows, strip.slot]
            for tile in strip.tiles(negatives.step()):
                logits_TS = negatives.logits(tile, anchors_TD, vectors_RD)
                lse_T = torch.logaddexp(lse_T, logits_TS.logsumexp(1))
                if keep:
                    kept.append(logits_TS)
            lse_R3[strip.rows, strip.slot] = lse_T
        ctx.save_for_backward(vectors_RD, scale_33, lse_R3, *kept)
        ctx.negatives = negatives
        return lse_R3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_R3: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors_RD, scale_33, sums_R3, *kept = ctx.saved_tensors
        # A row without candidates has only logits of -inf: any finite number in place of its sum gives weights of 0.
        lse_R3: Tensor = sums_R3.masked_fill(sums_R3 == -torch.inf, 0)

        def weigh(tile: Tile, logits_TS: Tensor) -> Tensor:
            weights_TS = (logits_TS - lse_R3[tile.rows, tile.slot, None]).exp_()
            return weights_TS.mul_(grad_R3[tile.rows, tile.slot, None])

        with torch.autocast(vectors_RD.device.type, enabled=False):
            return *ctx.negatives.gradients(vectors_RD, scale_33, weigh, iter(kept)), None
