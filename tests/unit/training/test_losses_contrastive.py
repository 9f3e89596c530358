"""The generalised contrastive loss against its definition as loops, SupCon, its floors, and float64 gradients."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anykey.training.errors import InvalidRecipeError
from anykey.training.losses import (
    CLIP_WEIGHTS,
    CROSS_MODALITY,
    FUSED,
    IMAGE,
    TEXT,
    Reading,
    Rows,
    Terms,
    contrastive_loss,
    triples,
)
from tests.unit.training.loss_cases import (
    ANY_TERMS,
    EXACT,
    drawn_rows,
    drawn_terms,
    gradients,
    loop_over_terms,
    number,
    unit_vectors,
    with_grad,
)

FLOORS = {
    Reading.R1: math.log(3),
    Reading.R2: math.log(2),
    Reading.R3: 0.0,
    Reading.R4: math.log(2),
    Reading.R5: 0.0,
}


def random_triples(num_pairs: int, seed: int = 0, alike_NK: Tensor | None = None) -> Rows:
    return triples(*unit_vectors(3 * num_pairs, seed=seed).chunk(3), alike_NK)


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("tile_size", [None, 4])
def test_default_weights_give_the_formula(reading: Reading, tile_size: int | None) -> None:
    rows, terms = random_triples(5), Terms(reading=reading)
    found = contrastive_loss(rows, number(9.0), terms, tile_size=tile_size)
    torch.testing.assert_close(found, loop_over_terms(rows, number(9.0), terms), **EXACT)


@pytest.mark.parametrize("terms", ANY_TERMS, ids=str)
def test_any_terms_give_the_loops(terms: Terms) -> None:
    generator = torch.Generator().manual_seed(1)
    modality_R, instance_R, owner_R = (torch.randint(n, (24,), generator=generator) for n in (3, 4, 16))
    rows = Rows(unit_vectors(24), modality_R, instance_R, owner_R=torch.where(owner_R < 4, owner_R, -1))
    found = contrastive_loss(rows, number(6.0), terms)
    torch.testing.assert_close(found, loop_over_terms(rows, number(6.0), terms), **EXACT)


@settings(max_examples=70, deadline=None)
@given(drawn_rows(), drawn_terms(), st.booleans(), st.sampled_from([None, 1, 3]), st.sampled_from([0.0, 4.0]))
def test_any_rows_give_the_value_and_gradient_of_the_loops(
    rows: Rows, terms: Terms, per_pair: bool, tile_size: int | None, hardness: float
) -> None:
    rows = with_grad(rows)
    scale = (torch.linspace(2, 10, 9, dtype=torch.float64).view(3, 3) if per_pair else number(6.0)).requires_grad_()
    found = contrastive_loss(rows, scale, terms, tile_size=tile_size, hardness=hardness)
    expected = loop_over_terms(rows, scale, terms, hardness=hardness)
    torch.testing.assert_close(found, expected, **EXACT)
    if expected.requires_grad:
        found_grads = torch.autograd.grad(found, (rows.vectors_RD, scale))
        expected_grads = torch.autograd.grad(
            expected, (rows.vectors_RD, scale), materialize_grads=True, allow_unused=True
        )
        for found_grad, expected_grad in zip(found_grads, expected_grads, strict=True):
            torch.testing.assert_close(found_grad, expected_grad, **EXACT)


@settings(max_examples=50, deadline=None)
@given(drawn_rows(), drawn_terms(), st.integers(0, 12))
def test_slices_add_up_to_the_pool(rows: Rows, terms: Terms, cut: int) -> None:
    parts = [contrastive_loss(rows, number(6.0), terms, anchors) for anchors in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), contrastive_loss(rows, number(6.0), terms), **EXACT)


@pytest.mark.parametrize("reading", Reading)
def test_tiles_change_neither_value_nor_gradient(reading: Reading) -> None:
    alike_NK = torch.tensor([[0, -1], [1, 7], [0, -1], [2, 7], [3, -1], [4, -1]])
    rows = with_grad(random_triples(6, alike_NK=alike_NK))
    scale = number(20.0).requires_grad_()
    whole, tiled = (contrastive_loss(rows, scale, Terms(reading=reading), tile_size=size) for size in (None, 2))
    torch.testing.assert_close(tiled, whole, **EXACT)
    for one, other in zip(gradients(tiled, rows, scale), gradients(whole, rows, scale), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("reading", [Reading.R2, Reading.R5])
def test_many_rows_give_what_one_tile_of_all_gives(reading: Reading) -> None:
    rows, scale = with_grad(triples(*unit_vectors(1800, width=3).chunk(3))), number(5.0).requires_grad_()
    found, expected = (contrastive_loss(rows, scale, Terms(reading=reading), tile_size=size) for size in (None, 1800))
    torch.testing.assert_close(found, expected, **EXACT)
    for one, other in zip(gradients(found, rows, scale), gradients(expected, rows, scale), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_r2_is_supervised_contrastive_learning_with_three_views() -> None:
    """SupCon's L_out (Khosla et al. 2020), one class for each pair."""
    rows = random_triples(8)
    logits = 12.0 * rows.vectors_RD @ rows.vectors_RD.T
    terms = []
    for i in range(24):
        others = torch.tensor([a for a in range(24) if a != i])
        positives = [p for p in range(24) if p % 8 == i % 8 and p != i]
        log_denominator = logits[i, others].logsumexp(0)
        terms.append(-sum(logits[i, p] - log_denominator for p in positives) / len(positives))
    torch.testing.assert_close(contrastive_loss(rows, number(12.0)), torch.stack(terms).mean(), **EXACT)


@pytest.mark.parametrize("reading", Reading)
def test_perfectly_aligned_pairs_reach_the_floor(reading: Reading) -> None:
    eye = torch.eye(8, dtype=torch.float64)
    loss = contrastive_loss(triples(eye, eye, eye), number(100.0), Terms(reading=reading))
    assert loss.item() == pytest.approx(FLOORS[reading], abs=1e-9)


def test_clip_weights_give_clips_cross_entropy_both_ways() -> None:
    image, text = unit_vectors(10).chunk(2)
    logits = 7.0 * image @ text.T
    target = torch.arange(5)
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    found = contrastive_loss(triples(image, text), number(7.0), Terms(CLIP_WEIGHTS, Reading.R5))
    torch.testing.assert_close(found, expected, **EXACT)


def test_r5_is_six_contrastive_losses_averaged() -> None:
    rows = random_triples(5)
    parts = []
    for a, b in ((IMAGE, TEXT), (IMAGE, FUSED), (TEXT, FUSED)):
        one, other = rows.vectors_RD[rows.modality_R == a], rows.vectors_RD[rows.modality_R == b]
        parts.append(contrastive_loss(triples(one, other), number(7.0), Terms(CLIP_WEIGHTS, Reading.R5)))
    found = contrastive_loss(rows, number(7.0), Terms(reading=Reading.R5))
    torch.testing.assert_close(found, torch.stack(parts).mean(), **EXACT)


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("tile_size", [None, 3])
def test_gradients_are_right_in_float64(reading: Reading, tile_size: int | None) -> None:
    rows = random_triples(3)
    vectors = rows.vectors_RD.clone().requires_grad_()
    scale = torch.linspace(2, 10, 9, dtype=torch.float64).view(3, 3).requires_grad_()

    def loss(vectors_RD: Tensor, scale_33: Tensor) -> Tensor:
        return contrastive_loss(replace(rows, vectors_RD=vectors_RD), scale_33, Terms(reading=reading), None, tile_size)

    assert torch.autograd.gradcheck(loss, (vectors, scale))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(18)), drawn_terms())
def test_the_order_of_rows_does_not_matter(order: list[int], terms: Terms) -> None:
    rows = random_triples(6, alike_NK=torch.tensor([[0], [1], [0], [2], [-1], [-1]]))
    columns = (rows.vectors_RD, rows.modality_R, rows.instance_R, rows.alike_RK)
    shuffled = Rows(*[column[list(order)] for column in columns])
    torch.testing.assert_close(
        contrastive_loss(shuffled, number(8.0), terms), contrastive_loss(rows, number(8.0), terms), **EXACT
    )


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("num_pairs", [1, 16])
@pytest.mark.parametrize("tile_size", [None, 5])
def test_temperature_of_one_hundredth_stays_finite(reading: Reading, num_pairs: int, tile_size: int | None) -> None:
    rows = random_triples(num_pairs)
    rows = with_grad(replace(rows, vectors_RD=rows.vectors_RD.float()))
    scale = torch.tensor(100.0, requires_grad=True)
    loss = contrastive_loss(rows, scale, Terms(reading=reading), tile_size=tile_size)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, rows, scale))


def test_a_single_pair_has_only_its_positives_in_the_denominator() -> None:
    one = functional.normalize(torch.ones(1, 4), dim=-1)
    assert contrastive_loss(triples(one, one, one), torch.tensor(10.0)).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("reading", Reading)
def test_an_anchor_without_negatives_beside_others_that_have_some_gives_no_nan(reading: Reading) -> None:
    rows = with_grad(random_triples(3, alike_NK=torch.tensor([[0, 1], [0, 2], [3, 1]])))
    scale = number(100.0).requires_grad_()
    loss = contrastive_loss(rows, scale, Terms(reading=reading))
    torch.testing.assert_close(loss, loop_over_terms(rows, scale, Terms(reading=reading)), **EXACT)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, rows, scale))


def test_rows_without_any_positive_give_zero_with_a_graph() -> None:
    rows = with_grad(Rows(unit_vectors(3), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])))
    scale = number(5.0).requires_grad_()
    loss = contrastive_loss(rows, scale)
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, rows, scale))


def test_identical_captions_do_not_compete() -> None:
    image, text = unit_vectors(8).chunk(2)
    text = text.clone()
    text[2] = text[0]
    rows = triples(image, text, alike_NK=torch.tensor([[5], [6], [5], [8]]))
    apart = torch.tensor([[True, True, False, True], [True] * 4, [False, True, True, True], [True] * 4])
    logits = (7.0 * image @ text.T).masked_fill(~apart, -torch.inf)
    target = torch.arange(4)
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(rows, number(7.0), Terms(CLIP_WEIGHTS, Reading.R5)), expected, **EXACT)


def test_a_hard_negative_troubles_its_owner_alone() -> None:
    rows = random_triples(4)
    hard = Rows(
        torch.cat([rows.vectors_RD, rows.vectors_RD[:1]]),
        torch.cat([rows.modality_R, torch.tensor([IMAGE])]),
        torch.cat([rows.instance_R, torch.tensor([99])]),
        owner_R=torch.tensor([-1] * 12 + [2]),
    )
    for anchor in range(12):
        here = slice(anchor, anchor + 1)
        difference = contrastive_loss(hard, number(5.0), anchors=here) - contrastive_loss(
            rows, number(5.0), anchors=here
        )
        assert (difference.item() > 1e-6) == (anchor % 4 == 2)


@pytest.mark.parametrize("reading", Reading)
def test_hard_negatives_of_every_modality_follow_the_reading(reading: Reading) -> None:
    vectors = unit_vectors(15)
    rows = Rows(
        vectors,
        torch.cat([torch.arange(3).repeat_interleave(4), torch.arange(3)]),
        torch.tensor([*(list(range(4)) * 3), 90, 91, 92]),
        owner_R=torch.tensor([-1] * 12 + [2, 2, 0]),
    )
    terms = Terms(reading=reading)
    torch.testing.assert_close(
        contrastive_loss(rows, number(5.0), terms), loop_over_terms(rows, number(5.0), terms), **EXACT
    )


def test_a_hard_negative_that_is_alike_with_its_anchor_is_left_out() -> None:
    rows = Rows(
        unit_vectors(3),
        torch.tensor([0, 1, 1]),
        torch.tensor([0, 0, 0]),
        torch.tensor([[7], [8], [8]]),
        torch.tensor([-1, -1, 0]),
    )
    terms = Terms(CLIP_WEIGHTS, Reading.R5)
    assert contrastive_loss(rows, number(5.0), terms, slice(0, 1)).item() > 0
    torch.testing.assert_close(contrastive_loss(rows, number(5.0), terms), loop_over_terms(rows, number(5.0), terms))
    everything_alike = replace(rows, alike_RK=torch.zeros(3, 1, dtype=torch.long))
    assert contrastive_loss(everything_alike, number(5.0), terms).item() == 0


def test_autocast_and_half_precision_leave_the_logits_in_float32() -> None:
    rows = random_triples(16)
    half = replace(rows, vectors_RD=rows.vectors_RD.bfloat16())
    scale = torch.tensor(100.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(half, scale)
    assert loss.dtype is torch.float32
    expected = contrastive_loss(replace(half, vectors_RD=half.vectors_RD.double()), scale)
    torch.testing.assert_close(loss.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("weights", "reading", "message"),
    [
        (CROSS_MODALITY[:2], Reading.R2, "3 x 3"),
        (((0.0, -1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), Reading.R2, ">= 0"),
        (((0.0, math.nan, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), Reading.R2, "finite"),
        (((0.0,) * 3,) * 3, Reading.R2, "not all 0"),
        (((1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), Reading.R4, "own target"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: tuple, reading: Reading, message: str) -> None:
    with pytest.raises(InvalidRecipeError, match=message):
        Terms(weights, reading)
