"""AlignCLIP's intra-modality separation: vectors of one modality keep apart as far as their meanings differ.

Eslami and de Melo, "Mitigate the Gap" (AlignCLIP, ICLR 2025, arXiv 2406.17639); the form follows the authors'
code (sarahESL/AlignCLIP, `align_clip/loss.py`).

Shape legend: R = rows, D = width, N = instances, S = distinct tokens of a batch, T = tokens of a caption,
P = edges from an anchor to its partner.
"""

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.choices import Reading
from anykey.training.losses.kernels import negatives_lse
from anykey.training.losses.negatives import Negatives, Semantics
from anykey.training.losses.pool import make_pool
from anykey.training.losses.rows import Rows
from anykey.training.losses.terms import CLIP_WEIGHTS, Needed, Terms

_PARTNERS = Terms(CLIP_WEIGHTS, Reading.R3)
_OWN_MODALITY: Needed = ((True, False, False), (False, True, False), (False, False, False))


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
        logit_P = pool.logits()[pool.is_positive_E]
        negatives_P = negatives_R3[left_P, pool.labels.modality_R[left_P]]
        return (pool.share_E[pool.is_positive_E] * (torch.logaddexp(negatives_P, logit_P) - logit_P)).sum()


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
