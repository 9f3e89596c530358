"""The losses beside the contrastive one: normalised and sigmoid, and AlignCLIP's separation within a modality.

Normalized Contrastive Learning (Park et al., EMNLP 2022, arXiv 2212.11790) keeps any candidate from being everyone's
answer or no one's: the probability of being found, summed over the anchors, should be the same for each candidate.
Biases from Sinkhorn's iterations, which carry no gradient, make it so before the loss is taken.

SigLIP (Zhai et al., ICCV 2023, arXiv 2303.15343) asks of each image and text of a batch whether they belong together.
Here the question is asked of all rows, so that image, text and fused candidates are calibrated against one another; the
positives of an anchor do not compete.

AlignCLIP's separation (Eslami and de Melo, "Mitigate the Gap", ICLR 2025, arXiv 2406.17639) keeps vectors of one
modality apart as far as their meanings differ; the form follows the authors' code (sarahESL/AlignCLIP,
`align_clip/loss.py`).

e5-omni (Chen et al., arXiv 2601.03666) whitens a batch's vectors and asks that what is compared has equal covariances.

Shape legend: R = rows, D = width, N = instances, A = anchors, E = edges (an anchor and a row of its instance that it
meets), P = edges to positives, S = distinct tokens of a batch, T = tokens of a caption.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.choices import Reading
from anykey.training.errors import InvalidRecipeError
from anykey.training.losses.kernels import edge_logits, lse_with_edges, negatives_lse, negatives_softplus
from anykey.training.losses.pool import (
    CLIP_WEIGHTS,
    Needed,
    Negatives,
    Pool,
    Semantics,
    Terms,
    full_precision,
    make_pool,
)
from anykey.training.losses.rows import NUM_MODALITIES, Rows

_GCL = Terms()
_PARTNERS = Terms(CLIP_WEIGHTS, Reading.R3)
_OWN_MODALITY: Needed = ((True, False, False), (False, True, False), (False, False, False))


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
        logit_E = edge_logits(pool) + bias_R[pool.right_E]
        negatives = self._negatives(torch.unique_consecutive(left_P), self.needed, bias_R)
        negatives_R3 = negatives_lse(negatives, pool.vectors_RD, pool.scale_33)
        lse_R = lse_with_edges(negatives_R3, logit_E[inside_E], pool.left_E[inside_E])
        return (pool.share_E[here_E] * (lse_R[left_P] - logit_E[here_E])).sum()

    def biases(self, num_iterations: int) -> Tensor:
        """Sinkhorn's biases of the candidates, `[R]`; their mean is 0."""
        pool = self.pool
        bias_R = torch.zeros_like(pool.vectors_RD[:, 0])
        inside_E = self._edges()
        left_E, right_E, logit_E = pool.left_E[inside_E], pool.right_E[inside_E], edge_logits(pool)[inside_E]
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


def sigmoid_loss(
    rows: Rows,
    scale: Tensor,
    bias: Tensor,
    terms: Terms = _GCL,
    anchors: slice | None = None,
    tile_size: int | None = None,
) -> Tensor:
    """The sum of -log sigmoid(z (s x.y + b)) over all cells (anchor, row), divided by the number of anchors.

    z is 1 for positives, rows of the anchor's instance in a modality of weight > 0, and -1 for rows of other
    instances and hard negatives of the anchor's own. The anchor itself, rows that are alike and other rows of the
    instance are no cells. Anchors are the rows that have a positive. With `CLIP_WEIGHTS` and R5 this is SigLIP's loss.
    Memory is O(R D) as in `contrastive_loss`.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        scale: Inverse temperature: a scalar, or `[3, 3]` for each modality of an anchor and of a candidate. SigLIP
            starts at 10.
        bias: Scalar, added to each logit. SigLIP starts at -10, as most cells are negatives.
        terms: Which pairs of modalities are positives (weights beyond 0 and not 0 do not matter), and which negatives
            an anchor meets: other modalities only (R4), only modalities that hold positives (R5), else all.
        anchors: The rows that are anchors here, as in `contrastive_loss`: slices add up to the pool.
        tile_size: Anchors and candidates computed at a time; None: what is fast.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64).
    """
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        pool = make_pool(rows, scale, terms, anchors)
        bias = bias.to(pool.vectors_RD)
        if len(pool.row_A) == 0:
            return pool.zero() + bias * 0
        negatives = Negatives(pool.labels, pool.row_A, terms.needed(), pool.is_uniform, tile_size=tile_size)
        negatives_sum = negatives_softplus(negatives, pool.vectors_RD, pool.scale_33, bias)
        return (negatives_sum + _edges_sum(pool, bias, terms)) / pool.num_anchors


def _edges_sum(pool: Pool, bias: Tensor, terms: Terms) -> Tensor:
    """The cells of positives and of hard negatives."""
    logit_E = edge_logits(pool) + bias
    modality_R = pool.labels.modality_R
    is_needed_33 = torch.tensor(terms.needed(), device=logit_E.device)
    is_hard_E = pool.labels.is_hard_R[pool.right_E] & is_needed_33[modality_R[pool.left_E], modality_R[pool.right_E]]
    hard = functional.softplus(logit_E[is_hard_E]).sum()
    return hard + functional.softplus(-logit_E[pool.is_positive_E]).sum()


def separation_loss(
    rows: Rows,
    scale: Tensor,
    semantics_NS: Tensor | None = None,
    anchors: slice | None = None,
    tile_size: int | None = None,
) -> Tensor:
    """Pushes images away from images, and texts from texts, as far as their instances differ in meaning.

    For an image j with its text t_j: -log of exp(s v_j.t_j) over that and the sum over the other instances' images k
    of exp(s D_jk v_j.v_k), where D_jk is one minus the semantic similarity of instances j and k; likewise for texts.
    The mean over image and text anchors that have a partner in the other modality. With CLIP's loss, a mean too,
    AlignCLIP's objective CE(i>t) + CE(t>i) + 0.5 (L_image + L_text) is 2 (clip + 0.5 separation).
    Fused rows and hard negatives take no part; rows that are alike are not pushed apart.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        scale: Inverse temperature: a scalar, or `[3, 3]` for each modality of an anchor and of a candidate.
        semantics_NS: Unit vectors of meaning; row `n` belongs to the rows of instance `n`. None: D is 1.
        anchors: The rows that are anchors here, as in `contrastive_loss`: slices add up to the pool.
        tile_size: Anchors and candidates computed at a time; None: what is fast.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64).
    """
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        pool = make_pool(rows, scale, _PARTNERS, anchors)
        if len(pool.row_A) == 0:
            return pool.zero()
        semantics = None
        if semantics_NS is not None:
            semantics = Semantics(semantics_NS.to(pool.vectors_RD), rows.instance_R)
        negatives = Negatives(
            pool.labels, pool.row_A, _OWN_MODALITY, pool.is_uniform, tile_size=tile_size, semantics=semantics
        )
        negatives_R3 = negatives_lse(negatives, pool.vectors_RD, pool.scale_33)
        left_P = pool.left_E[pool.is_positive_E]
        logit_P = edge_logits(pool)[pool.is_positive_E]
        negatives_P = negatives_R3[left_P, pool.labels.modality_R[left_P]]
        return (pool.share_E[pool.is_positive_E] * (torch.logaddexp(negatives_P, logit_P) - logit_P)).sum()


def covariance_loss(rows: Rows, anchors: slice | None = None) -> Tensor:
    """How much the modalities' covariances differ after all rows were whitened together: e5-omni's CORAL term.

    The mean over each two modalities of |C_a - C_b|^2 / (4 D^2). Whitened (Cholesky, as in Ermolov et al., arXiv
    2007.06346) by the covariance of all rows, of whose mean variance a hundredth is added to the diagonal: a batch may
    have fewer rows than D. Hard negatives take no part, nor modalities with fewer than two rows.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        anchors: The rows whose share of the loss is computed here, as in `contrastive_loss`: slices add up to the pool.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64).
    """
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        vectors_RD = full_precision(rows.vectors_RD)
        counts_R = torch.ones_like(rows.modality_R, dtype=torch.bool) if rows.owner_R is None else rows.owner_R < 0
        parts = [vectors_RD[counts_R & (rows.modality_R == modality)] for modality in range(NUM_MODALITIES)]
        parts = [part for part in parts if len(part) > 1]
        if len(parts) < 2:
            return vectors_RD.sum() * 0
        covariance_DD = torch.cat(parts).T.cov()
        ridge = 0.01 * covariance_DD.diagonal().mean()
        factor_DD = torch.linalg.cholesky(covariance_DD + ridge * torch.eye(len(covariance_DD)).to(covariance_DD))
        whitened = [torch.linalg.solve_triangular(factor_DD, part.T, upper=False).cov() for part in parts]
        distances = [(one - other).square().sum() for one, other in combinations(whitened, 2)]
        share = 1.0 if anchors is None else len(range(*anchors.indices(len(rows)))) / len(rows)
        return share * torch.stack(distances).mean() / (4 * vectors_RD.shape[1] ** 2)


def caption_semantics(tokens_NT: Tensor, padding: int = 0) -> Tensor:
    """Meaning of captions as unit vectors of their tokens' weights, a stand-in for a sentence encoder.

    AlignCLIP takes the similarity of captions from a frozen sentence encoder. Bags of tokens weighted by tf-idf within
    the batch need none: captions that share rare tokens are near, and tokens of every caption (begin, end) weigh
    nothing. Over several processes give it the tokens of the whole batch.

    Args:
        tokens_NT: Token ids.
        padding: The id that stands for no token.

    Returns:
        Float32 `[N, S]`, zero for a caption without a token that tells it from the others.
    """
    tokens, index = torch.unique(tokens_NT, return_inverse=True)
    counts_NS = torch.zeros(len(tokens_NT), len(tokens), device=tokens_NT.device)
    counts_NS.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float32))
    counts_NS[:, tokens == padding] = 0
    share_S = (counts_NS > 0).float().mean(0)
    return functional.normalize(counts_NS * -share_S.clamp_min(1 / len(tokens_NT)).log(), dim=1)
