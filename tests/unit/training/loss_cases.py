"""Rows for the tests of the losses: drawn at random, with the loss written as loops beside them."""

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from anykey.training.losses import CLIP_WEIGHTS, CROSS_MODALITY, Reading, Rows, Terms

EXACT = {"atol": 1e-10, "rtol": 0}
ANY_WEIGHTS = (
    CROSS_MODALITY,
    CLIP_WEIGHTS,
    ((0.0, 2.0, 0.5), (1.0, 0.0, 0.0), (0.25, 3.0, 0.0)),
    ((0.0, 1.0, 0.0), (1.0, 0.5, 1.0), (0.0, 0.0, 2.0)),
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
)
# R4 leaves out the anchor's modality, so it has no weights of a modality to itself.
ANY_TERMS = [
    Terms(weights, reading)
    for weights in ANY_WEIGHTS
    for reading in Reading
    if reading is not Reading.R4 or not any(weights[m][m] for m in range(3))
]


def unit_vectors(num_rows: int, width: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num_rows, width, dtype=torch.float64, generator=generator), dim=-1)


@st.composite
def drawn_rows(draw: st.DrawFn) -> Rows:
    """Up to twelve rows: several of an instance and modality, missing modalities, duplicates, hard negatives."""
    num_rows = draw(st.integers(2, 12))

    def column(lowest: int, highest: int) -> Tensor:
        return torch.tensor(draw(st.lists(st.integers(lowest, highest), min_size=num_rows, max_size=num_rows)))

    alike_RK = torch.stack([column(-1, 4), column(-2, 9)], 1) if draw(st.booleans()) else None
    owner_R = column(-4, 3).clamp_min(-1) if draw(st.booleans()) else None
    vectors_RD = unit_vectors(num_rows, width=4, seed=draw(st.integers(0, 99)))
    return Rows(vectors_RD, column(0, 2), column(0, 3), alike_RK, owner_R)


def drawn_terms() -> st.SearchStrategy[Terms]:
    return st.sampled_from(ANY_TERMS)


def is_hard(rows: Rows, row: int) -> bool:
    return rows.owner_R is not None and int(rows.owner_R[row]) >= 0


def are_alike(rows: Rows, one: int, other: int) -> bool:
    if rows.alike_RK is None:
        return False
    columns = zip(rows.alike_RK[one].tolist(), rows.alike_RK[other].tolist(), strict=True)
    return any(a == b and a >= 0 for a, b in columns)


def is_negative(rows: Rows, anchor: int, other: int) -> bool:
    """Whether this row may stand in the anchor's denominators as something that it is not."""
    if is_hard(rows, other):
        return bool(rows.owner_R[other] == rows.instance_R[anchor]) and not are_alike(rows, anchor, other)
    return bool(rows.instance_R[other] != rows.instance_R[anchor]) and not are_alike(rows, anchor, other)


def is_positive(rows: Rows, anchor: int, other: int, target: int) -> bool:
    same = bool(rows.instance_R[other] == rows.instance_R[anchor])
    return same and other != anchor and not is_hard(rows, other) and int(rows.modality_R[other]) == target


def denominator(rows: Rows, terms: Terms, anchor: int, target: int, positive: int) -> list[int]:
    """The candidates of one positive, straight from the definition."""
    everything = range(len(rows))
    own = int(rows.modality_R[anchor])
    negatives = [c for c in everything if is_negative(rows, anchor, c)]
    positives = [c for c in everything for b in range(3) if terms.weights[own][b] and is_positive(rows, anchor, c, b)]
    modality = rows.modality_R.tolist()
    return {
        Reading.R1: [anchor, *positives, *negatives],
        Reading.R2: [*positives, *negatives],
        Reading.R3: [positive, *negatives],
        Reading.R4: [c for c in [*positives, *negatives] if modality[c] != own],
        Reading.R5: [c for c in [*positives, *negatives] if modality[c] == target],
    }[terms.reading]


def loop_over_terms(
    rows: Rows, scale: Tensor, terms: Terms, anchors: slice | None = None, hardness: float = 0.0
) -> Tensor:
    """`contrastive_loss` as loops over anchors, target modalities and positives."""
    scale_33 = scale.expand(3, 3)
    modality = rows.modality_R.tolist()

    def logit(anchor: int, other: int) -> Tensor:
        cosine = rows.vectors_RD[anchor] @ rows.vectors_RD[other]
        is_target = terms.weights[modality[anchor]][modality[other]] > 0
        is_in_batch = not is_hard(rows, other) and rows.instance_R[other] != rows.instance_R[anchor]
        harder = hardness * cosine.detach() if is_target and is_in_batch else 0.0
        return scale_33[modality[anchor], modality[other]] * cosine + harder

    total, sum_of_weights = rows.vectors_RD.sum() * 0, 0.0
    for anchor in (r for r in range(len(rows)) if not is_hard(rows, r)):
        for target in range(3):
            weight = terms.weights[modality[anchor]][target]
            positives = [p for p in range(len(rows)) if is_positive(rows, anchor, p, target)]
            if not weight or not positives:
                continue
            sum_of_weights += weight
            if anchors is not None and anchor not in range(*anchors.indices(len(rows))):
                continue
            for positive in positives:
                pool = denominator(rows, terms, anchor, target, positive)
                term = torch.stack([logit(anchor, c) for c in pool]).logsumexp(0) - logit(anchor, positive)
                total = total + weight * term / len(positives)
    return total / sum_of_weights if sum_of_weights else total


def with_grad(rows: Rows) -> Rows:
    """The same rows with vectors of their own that collect a gradient."""
    return replace(rows, vectors_RD=rows.vectors_RD.detach().clone().requires_grad_())


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def gradients(loss: Tensor, rows: Rows, *others: Tensor) -> tuple[Tensor, ...]:
    inputs = (rows.vectors_RD, *others)
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
