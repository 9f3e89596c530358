"""The normalised loss against Sinkhorn's algorithm on a dense matrix, and what its biases are for."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anykey.training.errors import InvalidRecipeError
from anykey.training.losses import CLIP_WEIGHTS, Reading, Rows, Terms, contrastive_loss, normalized_loss, triples
from tests.unit.training.loss_cases import (
    ANY_WEIGHTS,
    EXACT,
    drawn_rows,
    gradients,
    is_hard,
    is_negative,
    is_positive,
    number,
    unit_vectors,
    with_grad,
)


def dense_loss(rows: Rows, scale: Tensor, terms: Terms, num_iterations: int) -> Tensor:
    """The definition over whole matrices, one for R2, one for each ordered pair of modalities for R5."""
    pairs = [(a, b) for a in range(3) for b in range(3) if terms.weights[a][b]]
    groups = [pairs] if terms.reading is Reading.R2 else [[pair] for pair in pairs]
    modality, num_rows = rows.modality_R.tolist(), len(rows)
    logits = scale.expand(3, 3)[rows.modality_R][:, rows.modality_R] * (rows.vectors_RD @ rows.vectors_RD.T)
    total, sum_of_weights = rows.vectors_RD.sum() * 0, 0.0
    for group in groups:
        is_pos = torch.zeros(num_rows, num_rows, dtype=torch.bool)
        is_neg = torch.zeros(num_rows, num_rows, dtype=torch.bool)
        for r in (r for r in range(num_rows) if not is_hard(rows, r)):
            for c in range(num_rows):
                is_pos[r, c] = any(is_positive(rows, r, c, b) for a, b in group if a == modality[r])
                in_group = terms.reading is Reading.R2 or (modality[r], modality[c]) == group[0]
                is_neg[r, c] = in_group and is_negative(rows, r, c)
        is_anchor = is_pos.any(1)
        seen = (is_pos | is_neg) & is_anchor[:, None]
        biased = logits.masked_fill(~seen, -torch.inf)
        bias = sinkhorn(
            biased.detach(), is_anchor, torch.tensor([is_hard(rows, c) for c in range(num_rows)]), num_iterations
        )
        for r in is_anchor.nonzero()[:, 0].tolist():
            lse = (biased[r] + bias).logsumexp(0)
            for a, b in (pair for pair in group if pair[0] == modality[r]):
                positives = [c for c in range(num_rows) if is_positive(rows, r, c, b)]
                if positives:
                    sum_of_weights += terms.weights[a][b]
                    mean = torch.stack([lse - logits[r, p] - bias[p] for p in positives]).mean()
                    total = total + terms.weights[a][b] * mean
    return total / sum_of_weights if sum_of_weights else total


def sinkhorn(logits: Tensor, is_anchor: Tensor, is_hard_R: Tensor, num_iterations: int) -> Tensor:
    bias = torch.zeros_like(logits[0])
    for _ in range(num_iterations):
        anchor_bias = torch.where(is_anchor, -(logits + bias).logsumexp(1), -torch.inf)
        bias = -(logits + anchor_bias[:, None]).logsumexp(0)
        met = bias.isfinite() & ~is_hard_R
        bias = torch.where(met, bias - bias[met].mean(), 0.0)
    return bias


@settings(max_examples=40, deadline=None)
@given(
    drawn_rows(),
    st.sampled_from(ANY_WEIGHTS),
    st.sampled_from([Reading.R2, Reading.R5]),
    st.booleans(),
    st.sampled_from([None, 3]),
)
def test_any_rows_give_the_value_and_gradient_of_whole_matrices(
    rows: Rows, weights: tuple, reading: Reading, per_pair: bool, tile_size: int | None
) -> None:
    rows, terms = with_grad(rows), Terms(weights, reading)
    scale = (torch.linspace(2, 10, 9, dtype=torch.float64).view(3, 3) if per_pair else number(6.0)).requires_grad_()
    found = normalized_loss(rows, scale, terms, 3, tile_size=tile_size)
    expected = dense_loss(rows, scale, terms, 3)
    torch.testing.assert_close(found, expected, **EXACT)
    for one, other in zip(gradients(found, rows, scale), gradients(expected, rows, scale), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("reading", [Reading.R2, Reading.R5])
def test_no_iterations_give_the_contrastive_loss(reading: Reading) -> None:
    rows, terms = triples(*unit_vectors(15).chunk(3)), Terms(reading=reading)
    found = normalized_loss(rows, number(9.0), terms, num_iterations=0)
    torch.testing.assert_close(found, contrastive_loss(rows, number(9.0), terms), **EXACT)


def test_a_hub_loses_its_lead() -> None:
    """One text is near every image. Under CLIP's loss it troubles all of them; balanced, the others win."""
    eye = torch.eye(4, dtype=torch.float64)
    text = eye.clone()
    text[0] = torch.tensor([1.0, 0.9, 0.9, 0.9])
    rows, terms = triples(eye, text), Terms(CLIP_WEIGHTS, Reading.R5)
    plain, balanced = (normalized_loss(rows, number(5.0), terms, n).item() for n in (0, 50))
    assert balanced < 0.7 * plain


@settings(max_examples=20, deadline=None)
@given(drawn_rows(), st.sampled_from([Reading.R2, Reading.R5]), st.integers(0, 12))
def test_slices_add_up_to_the_pool(rows: Rows, reading: Reading, cut: int) -> None:
    facts = (rows, number(6.0), Terms(reading=reading), 2)
    parts = [normalized_loss(*facts, here) for here in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), normalized_loss(*facts), **EXACT)


def test_low_temperature_stays_finite() -> None:
    rows = triples(*unit_vectors(48).chunk(3))
    rows = with_grad(replace(rows, vectors_RD=rows.vectors_RD.float()))
    scale = torch.tensor(100.0, requires_grad=True)
    loss = normalized_loss(rows, scale)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, rows, scale))


@pytest.mark.parametrize("reading", [Reading.R1, Reading.R3, Reading.R4])
def test_other_readings_are_refused(reading: Reading) -> None:
    with pytest.raises(InvalidRecipeError, match="R2 and R5"):
        normalized_loss(triples(*unit_vectors(6).chunk(3)), number(5.0), Terms(reading=reading))
