"""The losses against the paper's formula written as loops, SupCon, their floors, and float64 gradients."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.losses import Reading, clip_loss, duplicate_pairs, gcl_loss, pairwise_loss

FLOORS = {
    Reading.R1: math.log(3),
    Reading.R2: math.log(2),
    Reading.R3: 0.0,
    Reading.R4: math.log(2),
    Reading.R5: 0.0,
}


def random_vectors(num_pairs: int, width: int = 7, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        functional.normalize(torch.randn(num_pairs, width, dtype=torch.float64, generator=generator), dim=-1)
        for _ in range(3)
    ]


def candidates(reading: Reading, anchor: tuple[int, int], target: tuple[int, int], num_pairs: int) -> list[tuple]:
    """The denominator of one term, straight from the reading's definition; (modality, pair)."""
    everything = list(itertools.product(range(3), range(num_pairs)))
    other = next((m, anchor[1]) for m in range(3) if m not in (anchor[0], target[0]))
    keep = {
        Reading.R1: lambda c: True,
        Reading.R2: lambda c: c != anchor,
        Reading.R3: lambda c: c not in (anchor, other),
        Reading.R4: lambda c: c[0] != anchor[0],
        Reading.R5: lambda c: c[0] == target[0],
    }[reading]
    return [c for c in everything if keep(c)]


def loop_over_terms(vectors: list[Tensor], scale: float, reading: Reading, duplicates: Tensor | None = None) -> Tensor:
    num_pairs = len(vectors[0])
    terms = []
    for pair in range(num_pairs):
        for a, b in itertools.permutations(range(3), 2):
            pool = candidates(reading, (a, pair), (b, pair), num_pairs)
            if duplicates is not None:
                pool = [c for c in pool if c[1] == pair or not duplicates[pair, c[1]]]
            logits = torch.stack([scale * vectors[a][pair] @ vectors[m][k] for m, k in pool])
            terms.append(logits.logsumexp(0) - scale * vectors[a][pair] @ vectors[b][pair])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("num_pairs", [2, 5])
def test_gcl_equals_the_formula_written_as_loops(reading: Reading, num_pairs: int) -> None:
    vectors = random_vectors(num_pairs)
    torch.testing.assert_close(
        gcl_loss(*vectors, 9.0, reading), loop_over_terms(vectors, 9.0, reading), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("reading", Reading)
def test_duplicates_leave_the_denominators(reading: Reading) -> None:
    vectors = random_vectors(6)
    duplicates = torch.zeros(6, 6, dtype=torch.bool)
    duplicates[0, 3] = duplicates[3, 0] = duplicates[1, 1] = True
    torch.testing.assert_close(
        gcl_loss(*vectors, 9.0, reading, duplicates),
        loop_over_terms(vectors, 9.0, reading, duplicates),
        atol=1e-12,
        rtol=0,
    )


def test_r2_is_supervised_contrastive_learning_with_three_views() -> None:
    """SupCon's L_out (Khosla et al. 2020), one class for each pair."""
    vectors = random_vectors(8)
    views = torch.cat(vectors)
    logits = 12.0 * views @ views.T
    terms = []
    for i in range(24):
        others = torch.tensor([a for a in range(24) if a != i])
        positives = [p for p in range(24) if p % 8 == i % 8 and p != i]
        log_denominator = logits[i, others].logsumexp(0)
        terms.append(-sum(logits[i, p] - log_denominator for p in positives) / len(positives))
    torch.testing.assert_close(gcl_loss(*vectors, 12.0), torch.stack(terms).mean(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("reading", Reading)
def test_perfectly_aligned_pairs_reach_the_floor(reading: Reading) -> None:
    eye = torch.eye(8, dtype=torch.float64)
    assert gcl_loss(eye, eye, eye, 100.0, reading).item() == pytest.approx(FLOORS[reading], abs=1e-9)


def test_a_single_pair_has_only_its_positives_in_the_denominator() -> None:
    one = functional.normalize(torch.ones(1, 4), dim=-1)
    assert gcl_loss(one, one, one, 10.0).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("reading", Reading)
def test_gradients_are_right_in_float64(reading: Reading) -> None:
    vectors = [vector.requires_grad_() for vector in random_vectors(4)]
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, t, f, s: gcl_loss(i, t, f, s, reading), (*vectors, scale))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.sampled_from(list(Reading)))
def test_the_order_of_pairs_does_not_matter(order: list[int], reading: Reading) -> None:
    vectors = random_vectors(6)
    shuffled = [vector[list(order)] for vector in vectors]
    torch.testing.assert_close(gcl_loss(*shuffled, 8.0, reading), gcl_loss(*vectors, 8.0, reading))


@pytest.mark.parametrize("reading", Reading)
def test_temperature_of_one_hundredth_stays_finite(reading: Reading) -> None:
    vectors = [vector.float().requires_grad_() for vector in random_vectors(16)]
    loss = gcl_loss(*vectors, 100.0, reading)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(vector.grad).all() for vector in vectors)


def test_half_precision_vectors_give_float32_logits() -> None:
    vectors = [vector.bfloat16() for vector in random_vectors(16)]
    loss = gcl_loss(*vectors, 100.0)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, gcl_loss(*[vector.float() for vector in vectors], 100.0))
    assert clip_loss(vectors[0], vectors[1], 100.0).dtype is torch.float32


def test_pairwise_is_six_contrastive_losses_averaged() -> None:
    image, text, fused = random_vectors(5)
    pairs = [(image, text), (image, fused), (text, fused)]
    expected = torch.stack([clip_loss(a, b, 7.0) for a, b in pairs]).mean()
    torch.testing.assert_close(pairwise_loss(image, text, fused, 7.0), expected)


def test_clip_loss_is_cross_entropy_both_ways() -> None:
    image, text, _ = random_vectors(5)
    logits = 7.0 * image @ text.T
    by_row = -torch.stack([logits[i, i] - logits[i].logsumexp(0) for i in range(5)]).mean()
    by_column = -torch.stack([logits[i, i] - logits[:, i].logsumexp(0) for i in range(5)]).mean()
    torch.testing.assert_close(clip_loss(image, text, 7.0), (by_row + by_column) / 2)


def test_identical_captions_do_not_compete_in_clip_loss() -> None:
    image, text, _ = random_vectors(4)
    text = text.clone()
    text[2] = text[0]
    duplicates = duplicate_pairs(torch.arange(4), torch.tensor([0, 1, 0, 3]))
    logits = 7.0 * image @ text.T
    by_row = -torch.stack([logits[i, i] - logits[i][~duplicates[i]].logsumexp(0) for i in range(4)]).mean()
    by_column = -torch.stack([logits[i, i] - logits[:, i][~duplicates[i]].logsumexp(0) for i in range(4)]).mean()
    torch.testing.assert_close(clip_loss(image, text, 7.0, duplicates), (by_row + by_column) / 2)


def test_duplicate_pairs_share_an_image_or_a_caption() -> None:
    duplicates = duplicate_pairs(torch.tensor([0, 0, 1]), torch.tensor([5, 6, 6]))
    assert duplicates.tolist() == [[False, True, False], [True, False, True], [False, True, False]]
