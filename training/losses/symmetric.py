"""The log-sum-exp of negatives where whoever meets a row is met by it: half the products do.

With one temperature the logit of (a, b) is that of (b, a). So each product of two rows serves both as anchors, and in
the backward pass both are pulled by one matrix.

Shape legend: R = rows, D = width, T and S = rows of a tile's two sides.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from anykey.training.losses.negatives import Index, Negatives, Tile, compact, part
from anykey.training.losses.rows import NUM_MODALITIES


def symmetric_lse(negatives: Negatives, vectors_RD: Tensor, scale: Tensor) -> Tensor:
    """Log of the sum of exp(logit) over the negatives of every row, by slot, `[R, 3]`; -inf where there are none.

    Args:
        negatives: Who meets whom, with `is_symmetric()`.
        vectors_RD: Unit vectors.
        scale: Inverse temperature, a scalar.
    """
    lse_R3: Tensor = _SymmetricLse.apply(vectors_RD, scale, negatives)
    return lse_R3


class _SymmetricLse(torch.autograd.Function):
    """`symmetric_lse` with its gradient; keeps the logits only when they are few."""

    @staticmethod
    def forward(ctx: Any, vectors_RD: Tensor, scale: Tensor, negatives: Negatives) -> Tensor:
        kept: list[Tensor] = []
        keep = negatives.keeps_logits() and any(ctx.needs_input_grad)
        lse_R3 = vectors_RD.new_full((len(vectors_RD), NUM_MODALITIES), -torch.inf)
        for tile, mirrored in _tiles(negatives):
            logits_TS = negatives.logits(tile, vectors_RD[tile.rows] * scale, vectors_RD)
            _merge(lse_R3, tile, logits_TS.logsumexp(1))
            if mirrored is not None:
                _merge(lse_R3, mirrored, logits_TS.logsumexp(0))
            if keep:
                kept.append(logits_TS)
        ctx.save_for_backward(vectors_RD, scale, lse_R3, *kept)
        ctx.negatives = negatives
        return lse_R3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_R3: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors_RD, scale, sums_R3, *kept = ctx.saved_tensors
        # A row without candidates has only logits of -inf: any finite number in place of its sum gives weights of 0.
        lse_R3 = sums_R3.masked_fill(sums_R3 == -torch.inf, 0)
        with torch.autocast(vectors_RD.device.type, enabled=False):
            pull_RD = _pull(ctx.negatives, vectors_RD, scale, lse_R3, grad_R3, iter(kept))
            # Both rows of each product are pulled, so each product counts twice here.
            scale_grad = 0.5 * (vectors_RD * pull_RD).sum()
        return pull_RD.mul_(scale), scale_grad, None


def _pull(
    negatives: Negatives,
    vectors_RD: Tensor,
    scale: Tensor,
    lse_R3: Tensor,
    grad_R3: Tensor,
    kept: Iterator[Tensor],
) -> Tensor:
    """Gradient with respect to the vectors at a temperature of 1, `[R, D]`."""
    pull_RD = torch.zeros_like(vectors_RD)
    for tile, mirrored in _tiles(negatives):
        logits_TS = next(kept, None)
        if logits_TS is None:
            logits_TS = negatives.logits(tile, vectors_RD[tile.rows] * scale, vectors_RD)
        back = tile if mirrored is None else mirrored
        weights_TS = (logits_TS - lse_R3[tile.rows, tile.slot, None]).exp_().mul_(grad_R3[tile.rows, tile.slot, None])
        weights_TS += (logits_TS - lse_R3[back.rows, back.slot]).exp_().mul_(grad_R3[back.rows, back.slot])
        if negatives.semantics is not None:
            weights_TS *= negatives.semantics.distances(tile)
        _add_product(pull_RD, tile.rows, weights_TS, vectors_RD[tile.candidates])
        if mirrored is not None:
            _add_product(pull_RD, mirrored.rows, weights_TS.T, vectors_RD[tile.rows])
    return pull_RD


def _tiles(negatives: Negatives) -> Iterator[tuple[Tile, Tile | None]]:
    """Tiles that hold each two rows once, with the tile turned over; a tile on the diagonal is its own."""
    step = negatives.step()
    for (left, num_left, to_slot), (right, num_right, from_slot) in _sides(negatives):
        is_square = left is right
        for begin in range(0, num_left, step):
            here = part(left, begin, min(begin + step, num_left))
            for start in range(begin if is_square else 0, num_right, step):
                there = part(right, start, min(start + step, num_right))
                is_diagonal = is_square and start == begin
                yield Tile(here, there, to_slot), None if is_diagonal else Tile(there, here, from_slot)


def _sides(negatives: Negatives) -> Iterator[tuple[tuple[Index, int, int], tuple[Index, int, int]]]:
    """Rows that meet each other: each side's rows, their number, and the slot of the other side.

    Where the sides are the same rows, they are one object.
    """
    row_C = negatives.labels.row_C
    if negatives.meets_all():
        everyone = (compact(row_C), len(row_C), 0)
        yield everyone, everyone
        return
    of_modality = [row_C[negatives.labels.modality_R[row_C] == m] for m in range(NUM_MODALITIES)]
    sides = [compact(rows) for rows in of_modality]
    for a in range(NUM_MODALITIES):
        for b in range(a, NUM_MODALITIES):
            if negatives.needed[a][b]:
                yield (sides[a], len(of_modality[a]), b), (sides[b], len(of_modality[b]), a)


def _merge(lse_R3: Tensor, tile: Tile, lse_T: Tensor) -> None:
    lse_R3[tile.rows, tile.slot] = torch.logaddexp(lse_R3[tile.rows, tile.slot], lse_T)


def _add_product(target_RD: Tensor, index: Index, weights_TS: Tensor, vectors_SD: Tensor) -> None:
    """Adds weights @ vectors in place at the index."""
    if isinstance(index, slice):
        target_RD[index].addmm_(weights_TS, vectors_SD)
    else:
        target_RD.index_add_(0, index, weights_TS @ vectors_SD)
