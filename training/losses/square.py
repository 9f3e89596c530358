"""The log-sum-exp of negatives where every row is an anchor and a candidate: half the products do.

With one temperature the logit of (a, b) is that of (b, a). So each tile above the diagonal serves the anchors of
both sides, and its gradient pulls both with one matrix.

Shape legend: R = rows, M = rows that are no hard negatives, D = width, T and S = rows of a tile's two sides.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from training.losses.negatives import Negatives, add_at, compact, part


def square_lse(negatives: Negatives, vectors_RD: Tensor, scale: Tensor) -> Tensor:
    """Log of the sum of exp(logit) over the negatives of every row, `[R]`; -inf where there are none.

    Args:
        negatives: Who meets whom, with `is_square()`.
        vectors_RD: Unit vectors.
        scale: Inverse temperature, a scalar.
    """
    lse_R: Tensor = _SquareLse.apply(vectors_RD, scale, negatives)
    return lse_R


class _SquareLse(torch.autograd.Function):
    """`square_lse` with its gradient; keeps the logits only when they are few."""

    @staticmethod
    def forward(ctx: Any, vectors_RD: Tensor, scale: Tensor, negatives: Negatives) -> Tensor:
        kept: list[Tensor] = []
        keep = negatives.keeps_logits() and any(ctx.needs_input_grad)
        rows = compact(negatives.labels.row_C)
        vectors_MD = vectors_RD[rows]
        lse_M = vectors_MD.new_full((len(vectors_MD),), -torch.inf)
        for here, there in _upper_tiles(len(vectors_MD), negatives.step()):
            logits_TS = _logits(negatives, vectors_MD, scale, here, there)
            lse_M[here] = torch.logaddexp(lse_M[here], logits_TS.logsumexp(1))
            if here != there:
                lse_M[there] = torch.logaddexp(lse_M[there], logits_TS.logsumexp(0))
            if keep:
                kept.append(logits_TS)
        lse_R = vectors_RD.new_full((len(vectors_RD),), -torch.inf)
        lse_R[rows] = lse_M
        ctx.save_for_backward(vectors_RD, scale, lse_M, *kept)
        ctx.negatives = negatives
        return lse_R

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors_RD, scale, lse_M, *kept = ctx.saved_tensors
        rows = compact(ctx.negatives.labels.row_C)
        with torch.autocast(vectors_RD.device.type, enabled=False):
            pull_MD = _pull(ctx.negatives, vectors_RD[rows], scale, lse_M, grad_R[rows], iter(kept))
            # Both sides of each product are pulled, so each counts twice here.
            scale_grad = 0.5 * (vectors_RD[rows] * pull_MD).sum()
            grad_RD = torch.zeros_like(vectors_RD)
            add_at(grad_RD, rows, pull_MD.mul_(scale))
        return grad_RD, scale_grad, None


def _pull(
    negatives: Negatives,
    vectors_MD: Tensor,
    scale: Tensor,
    lse_M: Tensor,
    grad_M: Tensor,
    kept: Iterator[Tensor],
) -> Tensor:
    """Gradient with respect to the vectors at a temperature of 1, `[M, D]`."""
    # A row without candidates has only logits of -inf: any finite number in place of its sum gives weights of 0.
    lse_M = lse_M.masked_fill(lse_M == -torch.inf, 0)
    pull_MD = torch.zeros_like(vectors_MD)
    for here, there in _upper_tiles(len(vectors_MD), negatives.step()):
        logits_TS = next(kept, None)
        if logits_TS is None:
            logits_TS = _logits(negatives, vectors_MD, scale, here, there)
        weights_TS = (logits_TS - lse_M[here, None]).exp_().mul_(grad_M[here, None])
        weights_TS += (logits_TS - lse_M[there]).exp_().mul_(grad_M[there])
        pull_MD[here].addmm_(weights_TS, vectors_MD[there])
        if here != there:
            pull_MD[there].addmm_(weights_TS.T, vectors_MD[here])
    return pull_MD


def _logits(negatives: Negatives, vectors_MD: Tensor, scale: Tensor, here: slice, there: slice) -> Tensor:
    rows = compact(negatives.labels.row_C)
    blocked_TS = negatives.blocked(part(rows, here.start, here.stop), part(rows, there.start, there.stop))
    return ((vectors_MD[here] * scale) @ vectors_MD[there].T).masked_fill_(blocked_TS, -torch.inf)


def _upper_tiles(num_rows: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Tiles on and above the diagonal."""
    parts = [slice(begin, min(begin + step, num_rows)) for begin in range(0, num_rows, step)]
    return ((here, there) for number, here in enumerate(parts) for there in parts[number:])
