"""The sigmoid loss against its cells as loops, SigLIP's own form, and float64 gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anykey.training.losses import CLIP_WEIGHTS, Reading, Rows, Terms, sigmoid_loss, triples
from tests.unit.training.loss_cases import (
    EXACT,
    drawn_rows,
    drawn_terms,
    gradients,
    is_hard,
    is_negative,
    is_positive,
    number,
    unit_vectors,
    with_grad,
)


def loop_over_cells(rows: Rows, scale: Tensor, bias: Tensor, terms: Terms) -> Tensor:
    """The definition: positives with z = 1, negatives with z = -1, nothing else."""
    scale_33, modality = scale.expand(3, 3), rows.modality_R.tolist()
    total, num_anchors = rows.vectors_RD.sum() * 0, 0
    for anchor in (r for r in range(len(rows)) if not is_hard(rows, r)):
        own = modality[anchor]
        targets = [b for b in range(3) if terms.weights[own][b] > 0]
        signs = {}
        for other in range(len(rows)):
            if any(is_positive(rows, anchor, other, b) for b in targets):
                signs[other] = 1
            elif is_negative(rows, anchor, other):
                is_other, is_target = modality[other] != own, modality[other] in targets
                if {Reading.R4: is_other, Reading.R5: is_target}.get(terms.reading, True):
                    signs[other] = -1
        if 1 not in signs.values():
            continue
        num_anchors += 1
        for other, sign in signs.items():
            dot = rows.vectors_RD[anchor] @ rows.vectors_RD[other]
            total = total - functional.logsigmoid(sign * (scale_33[own, modality[other]] * dot + bias))
    return total / max(1, num_anchors)


@settings(max_examples=50, deadline=None)
@given(drawn_rows(), drawn_terms(), st.booleans(), st.sampled_from([None, 1, 3]))
def test_any_rows_give_the_value_and_gradient_of_the_loops(
    rows: Rows, terms: Terms, per_pair: bool, tile_size: int | None
) -> None:
    rows, bias = with_grad(rows), number(-3.0).requires_grad_()
    scale = (torch.linspace(2, 10, 9, dtype=torch.float64).view(3, 3) if per_pair else number(6.0)).requires_grad_()
    found = sigmoid_loss(rows, scale, bias, terms, tile_size=tile_size)
    expected = loop_over_cells(rows, scale, bias, terms)
    torch.testing.assert_close(found, expected, **EXACT)
    for one, other in zip(gradients(found, rows, scale, bias), gradients(expected, rows, scale, bias), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_clip_weights_give_the_loss_of_siglip() -> None:
    image, text = unit_vectors(10).chunk(2)
    signs = 2 * torch.eye(5, dtype=torch.float64) - 1
    expected = -functional.logsigmoid(signs * (10.0 * image @ text.T - 10.0)).sum() / 5
    found = sigmoid_loss(triples(image, text), number(10.0), number(-10.0), Terms(CLIP_WEIGHTS, Reading.R5))
    torch.testing.assert_close(found, expected, **EXACT)


@settings(max_examples=20, deadline=None)
@given(drawn_rows(), drawn_terms(), st.integers(0, 12))
def test_slices_add_up_to_the_pool(rows: Rows, terms: Terms, cut: int) -> None:
    facts = (rows, number(6.0), number(-2.0), terms)
    parts = [sigmoid_loss(*facts, here) for here in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), sigmoid_loss(*facts), **EXACT)


@pytest.mark.parametrize("tile_size", [None, 5])
def test_gradients_are_right_in_float64(tile_size: int | None) -> None:
    vectors = unit_vectors(12).requires_grad_()
    scale, bias = number(5.0).requires_grad_(), number(-2.0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, s, b: sigmoid_loss(triples(*v.chunk(3)), s, b, tile_size=tile_size), (vectors, scale, bias)
    )


def test_autocast_and_half_precision_leave_the_logits_in_float32() -> None:
    rows = triples(*unit_vectors(48).chunk(3))
    half = replace(rows, vectors_RD=rows.vectors_RD.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        loss = sigmoid_loss(half, torch.tensor(100.0), torch.tensor(-10.0))
    double = replace(half, vectors_RD=half.vectors_RD.double())
    torch.testing.assert_close(loss.double(), sigmoid_loss(double, number(100.0), number(-10.0)), atol=1e-4, rtol=1e-6)
