"""What is computed of a pool, without any large matrix in memory: sums over negatives, and dot products of edges.

The forward pass keeps one number for each anchor and modality; the backward pass computes each tile again,
as FlashAttention (arXiv 2205.14135) and Inf-CL (arXiv 2410.17243) do. The mask is applied inside the tile:
what is left out cannot be subtracted afterwards, since all digits are lost when it dominates the sum.

Shape legend: R = rows, D = width, T = anchors in a tile, S = candidates in a tile, G = groups of
values, K = values of a group, E = pairs of rows or further values, P = pairs at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.losses.pool import Index, Negatives, Pool, Tile, compact, part
from anykey.training.losses.rows import NUM_MODALITIES

_MAX_ELEMENTS = 2**21  # of vectors that are copied at a time


def edge_logits(pool: Pool) -> Tensor:
    """Logits of a pool's edges, `[E]`."""
    modality_R = pool.labels.modality_R
    scale_E = pool.scale_33[modality_R[pool.left_E], modality_R[pool.right_E]]
    return scale_E * pair_dots(pool.vectors_RD, pool.left_E, pool.right_E)


def pair_dots(vectors_RD: Tensor, left_E: Tensor, right_E: Tensor) -> Tensor:
    """Dot product of row `left` and row `right` of each pair, `[E]`, in memory of O(E)."""
    dots_E: Tensor = _PairDots.apply(vectors_RD, left_E, right_E)
    return dots_E


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
        lse_R3: Tensor = _SymmetricLse.apply(vectors_RD, scale_33[0, 0], negatives)
    else:
        lse_R3 = _NegativesLse.apply(vectors_RD, scale_33, negatives)
    return lse_R3


def negatives_softplus(negatives: Negatives, vectors_RD: Tensor, scale_33: Tensor, bias: Tensor) -> Tensor:
    """The sum of log(1 + exp(logit + bias)) over all negatives, a scalar.

    Args:
        negatives: Who meets whom.
        vectors_RD: Unit vectors.
        scale_33: Inverse temperature for each modality of an anchor and of a candidate.
        bias: Scalar.
    """
    total: Tensor = _NegativesSoftplus.apply(vectors_RD, scale_33, bias, negatives)
    return total


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
        sharpness_33 = negatives.sharpness(scale_33)
        for strip in negatives.strips():
            sharpness_T1 = sharpness_33[negatives.labels.modality_R[strip.rows], strip.slot, None]
            anchors_TD = vectors_RD[strip.rows] * sharpness_T1
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


class _SymmetricLse(torch.autograd.Function):
    """`negatives_lse` where whoever meets a row is met by it: half the products do.

    With one temperature the logit of (a, b) is that of (b, a). So each product of two rows serves both as anchors, and
    in the backward pass both are pulled by one matrix. Keeps the logits only when they are few.
    """

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


class _NegativesSoftplus(torch.autograd.Function):
    """`negatives_softplus` with its gradient; keeps the logits only when they are few."""

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


class _PairDots(torch.autograd.Function):
    """`pair_dots` without a copy of both rows for each pair."""

    @staticmethod
    def forward(ctx: Any, vectors_RD: Tensor, left_E: Tensor, right_E: Tensor) -> Tensor:
        ctx.save_for_backward(vectors_RD, left_E, right_E)
        dots_E = vectors_RD.new_empty(len(left_E))
        for here in _slices(vectors_RD, left_E):
            dots_E[here] = (vectors_RD[left_E[here]] * vectors_RD[right_E[here]]).sum(1)
        return dots_E

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_E: Tensor) -> tuple[Tensor, None, None]:
        vectors_RD, left_E, right_E = ctx.saved_tensors
        gradient_RD = torch.zeros_like(vectors_RD)
        for here in _slices(vectors_RD, left_E):
            grad_P1, left_P, right_P = grad_E[here, None], left_E[here], right_E[here]
            gradient_RD.index_add_(0, left_P, vectors_RD[right_P].mul_(grad_P1))
            gradient_RD.index_add_(0, right_P, vectors_RD[left_P].mul_(grad_P1))
        return gradient_RD, None, None


def _slices(vectors_RD: Tensor, left_E: Tensor) -> Iterator[slice]:
    size = max(1, _MAX_ELEMENTS // max(1, vectors_RD.shape[1]))
    return (slice(begin, begin + size) for begin in range(0, len(left_E), size))
