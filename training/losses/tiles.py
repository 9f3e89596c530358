"""The log-sum-exp of each anchor's negatives, tile by tile, so that no large matrix of logits is ever kept.

The forward pass keeps one number for each anchor and modality; the backward pass computes each tile again,
as FlashAttention (arXiv 2205.14135) and Inf-CL (arXiv 2410.17243) do. The mask is applied inside the tile:
what is left out cannot be subtracted afterwards, since all digits are lost when it dominates the sum.

Shape legend: R = rows, D = width, A = anchors, C = candidates of one modality, T = anchors in a tile,
S = candidates in a tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.losses.labels import Labels
from training.losses.rows import NUM_MODALITIES

TILE_SIZE = 1024
_MAX_KEPT_LOGITS = 2**24

Needed = tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class Negatives:
    """Which candidates each anchor meets as negatives: rows of other instances that are not alike.

    Attributes:
        labels: Labels of all rows.
        row_A: The anchors' rows.
        needed: For each modality of an anchor, the modalities of the candidates it meets.
        tile_size: Anchors and candidates of a tile; None: one tile for few rows, else `TILE_SIZE`.
    """

    labels: Labels
    row_A: Tensor
    needed: Needed
    tile_size: int | None = None

    def candidates(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each modality with the positions of the anchors that meet it and the rows that are candidates."""
        modality_A = self.labels.modality_R[self.row_A]
        for modality in range(NUM_MODALITIES):
            meets_3 = torch.tensor([row[modality] for row in self.needed], device=modality_A.device)
            is_candidate_R = (self.labels.modality_R == modality) & ~self.labels.is_hard_R
            yield modality, meets_3[modality_A].nonzero()[:, 0], is_candidate_R.nonzero()[:, 0]

    def are_few(self) -> bool:
        """Whether all logits together may stay in memory until the backward pass."""
        return self.tile_size is None and len(self.row_A) * len(self.labels.modality_R) <= _MAX_KEPT_LOGITS

    def step(self) -> int:
        """Anchors and candidates of a tile."""
        if self.are_few():
            return max(1, len(self.labels.modality_R))
        return self.tile_size or TILE_SIZE

    def blocked(self, row_T: Tensor, row_S: Tensor) -> Tensor:
        """Boolean `[T, S]`: no negative of this anchor."""
        instance_R = self.labels.instance_R
        blocked_TS = instance_R[row_T][:, None] == instance_R[row_S]
        for as_anchor_R, as_candidate_R in self.labels.alike:
            blocked_TS |= as_anchor_R[row_T][:, None] == as_candidate_R[row_S]
        return blocked_TS

    def lse(self, vectors_RD: Tensor, scale_33: Tensor) -> Tensor:
        """Log of the sum of exp(logit) over the negatives, by their modality.

        Args:
            vectors_RD: Unit vectors.
            scale_33: Inverse temperature for each modality of an anchor and of a candidate.

        Returns:
            `[A, 3]`, -inf where an anchor has no negatives or needs none.
        """
        lse_A3: Tensor = _NegativesLse.apply(vectors_RD, scale_33, self)
        return lse_A3


@dataclass(frozen=True)
class _Strip:
    """Some anchors and all candidates of a modality.

    Attributes:
        modality: The candidates' modality.
        anchor_T: Positions among the anchors.
        row_T: Their rows.
        scale_T1: Their inverse temperatures.
        row_C: The candidates' rows.
        candidates_CD: The candidates' vectors.
    """

    modality: int
    anchor_T: Tensor
    row_T: Tensor
    scale_T1: Tensor
    row_C: Tensor
    candidates_CD: Tensor

    def slices(self, step: int) -> Iterator[slice]:
        """The candidates, `step` at a time."""
        return (slice(begin, begin + step) for begin in range(0, len(self.row_C), step))


def _strips(negatives: Negatives, vectors_RD: Tensor, scale_33: Tensor) -> Iterator[_Strip]:
    for modality, anchor_M, row_C in negatives.candidates():
        candidates_CD = vectors_RD[row_C]
        for anchor_T in torch.split(anchor_M, negatives.step()):
            row_T = negatives.row_A[anchor_T]
            scale_T1 = scale_33[negatives.labels.modality_R[row_T], modality, None]
            yield _Strip(modality, anchor_T, row_T, scale_T1, row_C, candidates_CD)


class _NegativesLse(torch.autograd.Function):
    """`Negatives.lse` with its gradient; keeps the logits only when they are few."""

    @staticmethod
    def forward(ctx: Any, vectors_RD: Tensor, scale_33: Tensor, negatives: Negatives) -> Tensor:
        kept: list[Tensor] = []
        keep = negatives.are_few() and any(ctx.needs_input_grad)
        lse_A3 = vectors_RD.new_full((len(negatives.row_A), NUM_MODALITIES), -torch.inf)
        for strip in _strips(negatives, vectors_RD, scale_33):
            anchors_TD = vectors_RD[strip.row_T] * strip.scale_T1
            lse_T = lse_A3[strip.anchor_T, strip.modality]
            for here in strip.slices(negatives.step()):
                logits_TS = _logits(negatives, strip, anchors_TD, here)
                lse_T = torch.logaddexp(lse_T, logits_TS.logsumexp(1))
                if keep:
                    kept.append(logits_TS)
            lse_A3[strip.anchor_T, strip.modality] = lse_T
        ctx.save_for_backward(vectors_RD, scale_33, lse_A3, *kept)
        ctx.negatives = negatives
        return lse_A3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_A3: Tensor) -> tuple[Tensor, Tensor, None]:
        negatives: Negatives = ctx.negatives
        vectors_RD, scale_33, lse_A3, *kept = ctx.saved_tensors
        # A row without candidates has only logits of -inf: any finite number in place of its sum gives weights of 0.
        lse_A3 = lse_A3.masked_fill(lse_A3 == -torch.inf, 0)
        with torch.autocast(vectors_RD.device.type, enabled=False):
            return *_gradients(negatives, vectors_RD, scale_33, lse_A3, grad_A3, iter(kept)), None


def _gradients(
    negatives: Negatives,
    vectors_RD: Tensor,
    scale_33: Tensor,
    lse_A3: Tensor,
    grad_A3: Tensor,
    kept: Iterator[Tensor],
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the vectors, as anchors and as candidates, and to the scales."""
    vectors_grad_RD, scale_grad_33 = torch.zeros_like(vectors_RD), torch.zeros_like(scale_33)
    for strip in _strips(negatives, vectors_RD, scale_33):
        anchors_TD = vectors_RD[strip.row_T] * strip.scale_T1
        pull_TD = torch.zeros_like(anchors_TD)
        lse_T1 = lse_A3[strip.anchor_T, strip.modality, None]
        grad_T1 = grad_A3[strip.anchor_T, strip.modality, None]
        for here in strip.slices(negatives.step()):
            logits_TS = next(kept, None)
            if logits_TS is None:
                logits_TS = _logits(negatives, strip, anchors_TD, here)
            weights_TS = (logits_TS - lse_T1).exp_().mul_(grad_T1)
            pull_TD.addmm_(weights_TS, strip.candidates_CD[here])
            vectors_grad_RD.index_add_(0, strip.row_C[here], weights_TS.T @ anchors_TD)
        scale_grad_T = (vectors_RD[strip.row_T] * pull_TD).sum(1)
        scale_grad_33[:, strip.modality].index_add_(0, negatives.labels.modality_R[strip.row_T], scale_grad_T)
        vectors_grad_RD.index_add_(0, strip.row_T, pull_TD.mul_(strip.scale_T1))
    return vectors_grad_RD, scale_grad_33


def _logits(negatives: Negatives, strip: _Strip, anchors_TD: Tensor, here: slice) -> Tensor:
    """Logits of a tile, -inf where the candidate is no negative of the anchor."""
    logits_TS = anchors_TD @ strip.candidates_CD[here].T
    return logits_TS.masked_fill_(negatives.blocked(strip.row_T, strip.row_C[here]), -torch.inf)
