"""The generalised contrastive loss: any ordered pairs of modalities, any reading, any number of positives.

Generalized Contrastive Learning (GCL, Lee et al., NeurIPS 2025, arXiv 2509.25638) treats the image, the text
and the fused vector of a pair as three candidates in one pool: each vector is an anchor, its positives are
the other two vectors of its pair, and its denominator runs over all modalities. With other weights the same
function is CLIP's loss, the pairwise loss or SupCon.

Shape legend: R = rows, D = width, E = edges (an anchor and a row of its instance that it meets), P = edges to
positives.
"""

import torch
from torch import Tensor

from anykey.training.choices import Reading
from anykey.training.losses.kernels import edge_logits, lse_with_edges, negatives_lse
from anykey.training.losses.pool import Negatives, Pool, Terms, make_pool
from anykey.training.losses.rows import NUM_MODALITIES, Rows

_GCL = Terms()


def contrastive_loss(
    rows: Rows,
    scale: Tensor,
    terms: Terms = _GCL,
    anchors: slice | None = None,
    tile_size: int | None = None,
    hardness: float = 0.0,
) -> Tensor:
    """The weighted mean of -log softmax over all (anchor, target modality) terms that have a positive.

    A term's value is the mean over its positives: rows of the anchor's instance in the target modality,
    neither the anchor itself nor hard negatives. Never in a denominator: rows of other instances that are
    alike, rows of the anchor's instance in a modality of weight 0 (but for the anchor itself under R1), and
    hard negatives that another instance owns. A hard negative that is alike with its anchor is left out too.

    Memory is O(R D) for any number of rows, and some numbers for each two rows of one instance.

    Args:
        rows: Unit vectors with their labels: the whole pool.
        scale: Inverse temperature: a scalar, or `[3, 3]` for each modality of an anchor and of a candidate.
        terms: What is averaged; GCL with reading R2 unless said otherwise.
        anchors: The rows that are anchors here; None: all. The mean is always over the anchors of the whole
            pool, so the sum of the losses of slices that make up the pool is the loss of the pool.
        tile_size: Anchors and candidates computed at a time; None: what is fast.
        hardness: Times the cosine, without a gradient, added to the logits of rows of other instances whose modality
            is a target of the anchor's (weight above 0): the nearer a negative, the more it counts (Lan et al. 2025,
            as in sentence-transformers' `MultipleNegativesRankingLoss`, mode `in_batch_negatives`).

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64); 0, with a graph, when there is
        no term. One row a modality and instance, aligned, orthogonal to all others, at low temperature: it tends
        to log 3 (R1), log 2 (R2, R4) or 0 (R3, R5).
    """
    with torch.autocast(rows.vectors_RD.device.type, enabled=False):
        pool = make_pool(rows, scale, terms, anchors)
        if len(pool.row_A) == 0:
            return pool.zero()
        hardness_33 = hardness * (pool.scale_33.new_tensor(terms.weights) > 0) if hardness else None
        negatives = Negatives(
            pool.labels,
            pool.row_A,
            terms.needed(),
            is_uniform=pool.is_uniform and hardness_33 is None,
            is_apart=terms.reading is Reading.R5,
            tile_size=tile_size,
            hardness_33=hardness_33,
        )
        negatives_R3 = negatives_lse(negatives, pool.vectors_RD, pool.scale_33)
        logit_E = edge_logits(pool)
        denominator_P = _denominators(pool, terms.reading, negatives_R3, logit_E)
        share_P, logit_P = pool.share_E[pool.is_positive_E], logit_E[pool.is_positive_E]
        return (share_P * (denominator_P - logit_P)).sum()


def _denominators(pool: Pool, reading: Reading, negatives_R3: Tensor, logit_E: Tensor) -> Tensor:
    """Log-sum-exp of the denominator of each edge to a positive, `[P]`."""
    left_P = pool.left_E[pool.is_positive_E]
    if reading is Reading.R3:
        is_rival_E = ~pool.is_positive_E
        rivals_R = lse_with_edges(negatives_R3, logit_E[is_rival_E], pool.left_E[is_rival_E])
        return torch.logaddexp(rivals_R[left_P], logit_E[pool.is_positive_E])
    if reading is not Reading.R5:
        return lse_with_edges(negatives_R3, logit_E, pool.left_E)[left_P]
    cell_E = pool.left_E * NUM_MODALITIES + pool.labels.modality_R[pool.right_E]
    return lse_with_edges(negatives_R3.view(-1, 1), logit_E, cell_E)[cell_E[pool.is_positive_E]]
