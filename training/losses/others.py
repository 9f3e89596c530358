"""Normalized Contrastive Learning: biases that keep any candidate from being everyone's answer or no one's.

Park et al., "Normalized Contrastive Learning for Text-Video Retrieval" (EMNLP 2022, arXiv 2212.11790): the
probability of being found, summed over the anchors, should be the same for each candidate. Biases from Sinkhorn's
iterations, which carry no gradient, make it so before the loss is taken.

Shape legend: R = rows, A = anchors, C = candidates, E = edges (an anchor and a row of its instance that it meets),
P = edges to positives.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anykey.training.choices import Reading
from anykey.training.errors import InvalidRecipeError
from anykey.training.losses.kernels import lse_with_edges, negatives_lse
from anykey.training.losses.negatives import Negatives
from anykey.training.losses.pool import Pool, make_pool
from anykey.training.losses.rows import NUM_MODALITIES, Rows
from anykey.training.losses.terms import Needed, Terms

_GCL = Terms()


def normalized_loss(
    rows: Rows,
    scale: Tensor,
    terms: Terms = _GCL,
    num_iterations: int = 4,
    anchors: slice | None = None,
    tile_size: int | None = None,
) -> Tensor:
    """`contrastive_loss` with a bias on each candidate, in the denominators and on the positives.

    Under R2 there is one set of biases: each candidate's probabilities, summed over all anchors, come out equal.
    Under R5 there is one for each ordered pair of modalities. Hard negatives get none (0 is the mean of the others).
    Each iteration costs about two forward passes over the whole pool. Memory is O(R D) as in `contrastive_loss`.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        scale: Inverse temperature: a scalar, or `[3, 3]` for each modality of an anchor and of a candidate.
        terms: What is averaged, with reading R2 or R5.
        num_iterations: Of Sinkhorn's algorithm; 0 gives `contrastive_loss`.
        anchors: The rows that are anchors here, as in `contrastive_loss`: slices add up to the pool. The biases
            are the whole pool's, so every process computes them all.
        tile_size: Anchors and candidates computed at a time; None: what is fast.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64).

    Raises:
        InvalidRecipeError: another reading than R2 and R5.
    """
    if terms.reading not in (Reading.R2, Reading.R5):
        raise InvalidRecipeError(f"the normalised loss has readings R2 and R5, got {terms.reading}")
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        pool = make_pool(rows, scale, terms, anchors)
        with torch.no_grad():
            whole = pool if anchors is None else make_pool(rows, scale, terms, None)
            groups = [_Group(whole, needed, tile_size) for needed in _shared_denominators(terms)]
            biases = [group.biases(num_iterations) for group in groups]
        parts = [replace(group, pool=pool).loss(bias_R) for group, bias_R in zip(groups, biases, strict=True)]
        return torch.stack(parts).sum()


def _shared_denominators(terms: Terms) -> list[Needed]:
    """The ordered pairs of modalities that share their denominators, group by group."""
    if terms.reading is Reading.R2:
        return [terms.needed()]
    modalities = range(NUM_MODALITIES)
    pairs = [(a, b) for a in modalities for b in modalities if terms.weights[a][b] > 0]
    return [tuple(tuple((a, b) == pair for b in modalities) for a in modalities) for pair in pairs]


@dataclass(frozen=True)
class _Group:
    """Anchors and candidates that share their denominators.

    Attributes:
        pool: The rows.
        needed: For each modality of an anchor, whether it meets candidates of each modality.
        tile_size: As in `Negatives`.
    """

    pool: Pool
    needed: Needed
    tile_size: int | None

    def loss(self, bias_R: Tensor) -> Tensor:
        """This group's part of the loss."""
        pool = self.pool
        inside_E = self._edges()
        here_E = inside_E & pool.is_positive_E
        left_P = pool.left_E[here_E]
        if len(left_P) == 0:
            return pool.zero()
        logit_E = pool.logits() + bias_R[pool.right_E]
        negatives = self._negatives(torch.unique_consecutive(left_P), self.needed, bias_R)
        negatives_R3 = negatives_lse(negatives, pool.vectors_RD, pool.scale_33)
        lse_R = lse_with_edges(negatives_R3, logit_E[inside_E], pool.left_E[inside_E])
        return (pool.share_E[here_E] * (lse_R[left_P] - logit_E[here_E])).sum()

    def biases(self, num_iterations: int) -> Tensor:
        """Sinkhorn's biases of the candidates, `[R]`; their mean is 0."""
        pool = self.pool
        bias_R = torch.zeros_like(pool.vectors_RD[:, 0])
        inside_E = self._edges()
        left_E, right_E, logit_E = pool.left_E[inside_E], pool.right_E[inside_E], pool.logits()[inside_E]
        is_positive_E = pool.is_positive_E[inside_E]
        row_A = torch.unique_consecutive(left_E[is_positive_E])
        answered = tuple(zip(*self.needed, strict=True))
        for _ in range(num_iterations):
            found = self._negatives(row_A, self.needed, bias_R)
            found_R3 = negatives_lse(found, pool.vectors_RD, pool.scale_33)
            found_R = lse_with_edges(found_R3, logit_E + bias_R[right_E], left_E)
            anchor_bias_R = torch.full_like(found_R, -torch.inf).index_copy(0, row_A, -found_R[row_A])
            asked_R3 = negatives_lse(
                self._negatives(pool.labels.row_C, answered, anchor_bias_R), pool.vectors_RD, pool.scale_33.T
            )
            value_E = (logit_E + anchor_bias_R[left_E])[is_positive_E]
            bias_R = _centred(-lse_with_edges(asked_R3, value_E, right_E[is_positive_E]))
        return bias_R

    def _edges(self) -> Tensor:
        """Boolean `[E]`: edges between modalities of this group."""
        modality_R = self.pool.labels.modality_R
        needed_33 = torch.tensor(self.needed, device=modality_R.device)
        return needed_33[modality_R[self.pool.left_E], modality_R[self.pool.right_E]]

    def _negatives(self, row_A: Tensor, needed: Needed, bias_R: Tensor) -> Negatives:
        return Negatives(self.pool.labels, row_A, needed, self.pool.is_uniform, tile_size=self.tile_size, bias_R=bias_R)


def _centred(bias_R: Tensor) -> Tensor:
    """Biases less their mean; 0 for rows that no anchor meets, which have none yet."""
    is_met_R = bias_R.isfinite()
    mean = bias_R[is_met_R].mean() if is_met_R.any() else 0.0
    return torch.where(is_met_R, bias_R - mean, 0.0)
