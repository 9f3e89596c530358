"""e5-omni's covariance term against numpy, and what it is 0 of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anykey.training.losses import Rows, covariance_loss, triples
from tests.unit.training.loss_cases import EXACT, drawn_rows, is_hard, unit_vectors


def by_numpy(rows: Rows) -> float:
    """Whitens by the inverse of Cholesky's factor, and compares covariances entry by entry."""
    vectors, modality = rows.vectors_RD.numpy(), rows.modality_R.tolist()
    own = [[r for r in range(len(rows)) if modality[r] == m and not is_hard(rows, r)] for m in range(3)]
    parts = [vectors[rows_of] for rows_of in own if len(rows_of) > 1]
    if len(parts) < 2:
        return 0.0
    covariance = np.cov(np.concatenate(parts), rowvar=False)
    width = len(covariance)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance + 0.01 * np.trace(covariance) / width * np.eye(width)))
    covariances = [np.cov(part @ whiten.T, rowvar=False) for part in parts]
    pairs = [(a, b) for a in range(len(parts)) for b in range(a)]
    return float(np.mean([((covariances[a] - covariances[b]) ** 2).sum() / (4 * width**2) for a, b in pairs]))


@settings(max_examples=40, deadline=None)
@given(drawn_rows())
def test_any_rows_give_what_numpy_gives(rows: Rows) -> None:
    assert covariance_loss(rows).item() == pytest.approx(by_numpy(rows), abs=1e-9, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(drawn_rows(), st.integers(0, 12))
def test_slices_add_up_to_the_pool(rows: Rows, cut: int) -> None:
    parts = [covariance_loss(rows, anchors) for anchors in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), covariance_loss(rows), **EXACT)


def test_gradients_are_right_in_float64() -> None:
    vectors = unit_vectors(12, width=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: covariance_loss(triples(*v.chunk(2))), vectors)


def test_modalities_that_differ_by_a_shift_alone_have_one_covariance() -> None:
    image = unit_vectors(6)
    assert covariance_loss(triples(image, image + 3.0)).item() == pytest.approx(0, abs=1e-12)


def narrowed(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors * torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]), dim=1)


def test_a_narrower_modality_is_told_from_a_broad_one() -> None:
    image, text = unit_vectors(128).chunk(2)
    alike, unlike = (covariance_loss(triples(image, other)).item() for other in (text, narrowed(text)))
    assert unlike > 3 * alike
