"""AlignCLIP's separation against the formula as loops, and what a caption's tokens say of its meaning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anykey.training.losses import IMAGE, TEXT, Rows, caption_semantics, separation_loss, triples
from tests.unit.training.loss_cases import (
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


def loop_over_anchors(rows: Rows, scale: Tensor, semantics: Tensor | None = None) -> Tensor:
    """The mean over image and text anchors of the mean over their partners."""
    scale_33 = scale.expand(3, 3)
    modality, instance = rows.modality_R.tolist(), rows.instance_R.tolist()
    terms = []

    def logit(anchor: int, other: int) -> Tensor:
        return scale_33[modality[anchor], modality[other]] * (rows.vectors_RD[anchor] @ rows.vectors_RD[other])

    for anchor in range(len(rows)):
        if is_hard(rows, anchor) or modality[anchor] not in (IMAGE, TEXT):
            continue
        partners = [p for p in range(len(rows)) if is_positive(rows, anchor, p, 1 - modality[anchor])]
        others = [c for c in range(len(rows)) if is_negative(rows, anchor, c) and modality[c] == modality[anchor]]
        pushes = []
        for other in (c for c in others if not is_hard(rows, c)):
            distance = 1.0 if semantics is None else 1 - semantics[instance[anchor]] @ semantics[instance[other]]
            pushes.append(distance * logit(anchor, other))
        if partners:
            pulls = [logit(anchor, p) for p in partners]
            terms.append(torch.stack([torch.stack([p, *pushes]).logsumexp(0) - p for p in pulls]).mean())
    return torch.stack(terms).mean() if terms else rows.vectors_RD.sum() * 0


@settings(max_examples=40, deadline=None)
@given(drawn_rows(), st.booleans(), st.booleans(), st.sampled_from([None, 1, 3]))
def test_any_rows_give_the_value_and_gradient_of_the_loops(
    rows: Rows, per_pair: bool, with_semantics: bool, tile_size: int | None
) -> None:
    rows = with_grad(rows)
    scale = (torch.linspace(2, 10, 9, dtype=torch.float64).view(3, 3) if per_pair else number(6.0)).requires_grad_()
    semantics = unit_vectors(4, width=3).abs() if with_semantics else None
    found = separation_loss(rows, scale, semantics, tile_size=tile_size)
    expected = loop_over_anchors(rows, scale, semantics)
    torch.testing.assert_close(found, expected, **EXACT)
    for one, other in zip(gradients(found, rows, scale), gradients(expected, rows, scale), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_it_is_the_formula_of_the_authors_code() -> None:
    """Cross-entropy over D * v v' with the paired logit on the diagonal."""
    image, text = unit_vectors(12).chunk(2)
    semantics = unit_vectors(6, width=3, seed=1)
    distance = (1 - semantics @ semantics.T).fill_diagonal_(0)
    paired = torch.diag((image * text).sum(1))
    target = torch.arange(6)
    both = [functional.cross_entropy(9.0 * (distance * (v @ v.T) + paired), target) for v in (image, text)]
    torch.testing.assert_close(separation_loss(triples(image, text), number(9.0), semantics), sum(both) / 2, **EXACT)


@settings(max_examples=20, deadline=None)
@given(drawn_rows(), st.integers(0, 12))
def test_slices_add_up_to_the_pool(rows: Rows, cut: int) -> None:
    parts = [separation_loss(rows, number(6.0), anchors=here) for here in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), separation_loss(rows, number(6.0)), **EXACT)


def test_gradients_are_right_in_float64() -> None:
    vectors, semantics = unit_vectors(8).requires_grad_(), unit_vectors(4, width=3)
    scale = number(5.0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, s: separation_loss(triples(*v.chunk(2)), s, semantics, tile_size=3), (vectors, scale)
    )


def test_captions_of_one_meaning_are_not_pushed_apart() -> None:
    rows, meanings = triples(*unit_vectors(8).chunk(2)), torch.ones(4, 1, dtype=torch.float64)
    moved = triples(*(rows.vectors_RD[:4].flip(0), rows.vectors_RD[4:].flip(0)))
    logit = 5.0 * (rows.vectors_RD[:4] * rows.vectors_RD[4:]).sum(1)
    expected = (torch.log(logit.exp() + 3) - logit).mean()
    for case in (rows, moved):
        torch.testing.assert_close(separation_loss(case, number(5.0), meanings), expected, **EXACT)


def test_rare_words_in_common_mean_more_than_frequent_ones() -> None:
    begin, end, a, dog, cat, zebra = 1, 2, 3, 4, 5, 6
    tokens = torch.tensor(
        [
            [begin, a, zebra, end, 0],
            [begin, zebra, end, 0, 0],
            [begin, a, dog, end, 0],
            [begin, a, cat, end, 0],
            [begin, a, dog, dog, end],
        ]
    )
    semantics = caption_semantics(tokens)
    torch.testing.assert_close(semantics.norm(dim=1), torch.ones(5))
    similarity = semantics @ semantics.T
    assert similarity[0, 1] > similarity[0, 2] > 0
    assert similarity[1, 2].item() == pytest.approx(0, abs=1e-6)
    assert similarity[2, 4] > 0.9


def test_captions_that_nothing_tells_apart_have_no_meaning() -> None:
    assert caption_semantics(torch.tensor([[1, 5, 2, 0], [1, 5, 2, 0]])).abs().max().item() == 0
