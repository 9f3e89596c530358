"""Dot products of listed pairs of rows, without a copy of both rows for each pair.

Shape legend: R = rows, D = width, E = pairs of rows, P = pairs at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_MAX_ELEMENTS = 2**21


def pair_dots(vectors_RD: Tensor, left_E: Tensor, right_E: Tensor) -> Tensor:
    """Dot product of row `left` and row `right` of each pair, `[E]`, in memory of O(E)."""
    dots_E: Tensor = _PairDots.apply(vectors_RD, left_E, right_E)
    return dots_E


class _PairDots(torch.autograd.Function):
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
