"""The losses over triples of equal length, with the whole matrix of logits in memory.

Generalized Contrastive Learning (GCL, Lee et al., NeurIPS 2025, arXiv 2509.25638) treats the image, the
text and the fused vector of a pair as three candidates in one pool: each of the 3N vectors is an anchor,
its positives are the other two vectors of its pair, and its denominator runs over all modalities.

Shape legend: N = pairs in the batch, D = width, M = 3N rows: images, then texts, then fused.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.losses.reading import Reading

MODALITIES = 3


def gcl_loss(
    image_ND: Tensor,
    text_ND: Tensor,
    fused_ND: Tensor,
    scale: Tensor | float,
    reading: Reading = Reading.R2,
    duplicates_NN: Tensor | None = None,
) -> Tensor:
    """Generalized Contrastive Learning: the mean over the 6N (anchor, positive) terms.

    Args:
        image_ND: Unit image vectors.
        text_ND: Unit text vectors.
        fused_ND: Unit fused vectors of the same pairs.
        scale: Inverse temperature.
        reading: Which candidates the denominators hold.
        duplicates_NN: True where two different pairs share their image or caption. They are neither
            positives nor negatives of each other. The diagonal does not count.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64). With aligned pairs, orthogonal
        to each other, at low temperature it tends to log 3 (R1), log 2 (R2, R4) or 0 (R3, R5).
    """
    vectors_MD = _full_precision(torch.cat([image_ND, text_ND, fused_ND]))
    num_pairs = image_ND.shape[0]
    logits_MM = scale * (vectors_MD @ vectors_MD.T)
    rows_M = torch.arange(MODALITIES * num_pairs, device=logits_MM.device)
    first_M = logits_MM[rows_M, (rows_M + num_pairs) % len(rows_M)]
    second_M = logits_MM[rows_M, (rows_M + 2 * num_pairs) % len(rows_M)]
    excluded_MM = _excluded(num_pairs, reading, duplicates_NN, logits_MM.device)
    logits_MM = logits_MM.masked_fill(excluded_MM, -torch.inf)
    if reading is Reading.R3:
        negatives_M = logits_MM.logsumexp(1)
        terms_M = torch.logaddexp(negatives_M, first_M) - first_M + torch.logaddexp(negatives_M, second_M) - second_M
        return 0.5 * terms_M.mean()
    if reading is Reading.R5:
        per_target_M3 = logits_MM.view(-1, MODALITIES, num_pairs).logsumexp(2)
        own_M = rows_M // num_pairs
        first_lse_M = per_target_M3[rows_M, (own_M + 1) % MODALITIES]
        second_lse_M = per_target_M3[rows_M, (own_M + 2) % MODALITIES]
        return 0.5 * (first_lse_M - first_M + second_lse_M - second_M).mean()
    return (logits_MM.logsumexp(1) - 0.5 * (first_M + second_M)).mean()


def pairwise_loss(
    image_ND: Tensor,
    text_ND: Tensor,
    fused_ND: Tensor,
    scale: Tensor | float,
    duplicates_NN: Tensor | None = None,
) -> Tensor:
    """Six separate contrastive losses, one for each ordered pair of modalities (reading R5 of GCL).

    Args and result as for `gcl_loss`.
    """
    return gcl_loss(image_ND, text_ND, fused_ND, scale, Reading.R5, duplicates_NN)


def clip_loss(image_ND: Tensor, text_ND: Tensor, scale: Tensor | float, duplicates_NN: Tensor | None = None) -> Tensor:
    """CLIP's contrastive loss (Radford et al. 2021): image to text and text to image, averaged.

    Args:
        image_ND: Unit image vectors.
        text_ND: Unit text vectors.
        scale: Inverse temperature.
        duplicates_NN: True where two different pairs share their image or caption; they do not compete.

    Returns:
        Scalar, float32 whatever the inputs' precision (float64 stays float64).
    """
    logits_NN = scale * (_full_precision(image_ND) @ _full_precision(text_ND).T)
    if duplicates_NN is not None:
        logits_NN = logits_NN.masked_fill(_off_diagonal(duplicates_NN), -torch.inf)
    target_N = torch.arange(logits_NN.shape[0], device=logits_NN.device)
    return 0.5 * (functional.cross_entropy(logits_NN, target_N) + functional.cross_entropy(logits_NN.T, target_N))


def duplicate_pairs(image_id_N: Tensor, text_id_N: Tensor) -> Tensor:
    """Which pairs of a batch share their image or their caption.

    Args:
        image_id_N: Equal integers mean equal images.
        text_id_N: Equal integers mean equal captions.

    Returns:
        Boolean `[N, N]`, false on the diagonal.
    """
    same_NN = (image_id_N[:, None] == image_id_N[None]) | (text_id_N[:, None] == text_id_N[None])
    return _off_diagonal(same_NN)


def _excluded(num_pairs: int, reading: Reading, duplicates_NN: Tensor | None, device: torch.device) -> Tensor:
    """Boolean `[M, M]`: candidates (columns) that are not in an anchor's (row's) denominator."""
    eye_NN = torch.eye(num_pairs, dtype=torch.bool, device=device)
    diagonal_MM = torch.eye(MODALITIES * num_pairs, dtype=torch.bool, device=device)
    excluded_MM = torch.zeros_like(diagonal_MM)
    if reading is Reading.R2:
        excluded_MM = diagonal_MM
    elif reading is Reading.R3:
        excluded_MM = eye_NN.repeat(MODALITIES, MODALITIES)
    elif reading is Reading.R4:
        modality_M = torch.arange(MODALITIES * num_pairs, device=device) // num_pairs
        excluded_MM = modality_M[:, None] == modality_M[None]
    if duplicates_NN is not None:
        excluded_MM = excluded_MM | _off_diagonal(duplicates_NN).repeat(MODALITIES, MODALITIES)
    return excluded_MM


def _off_diagonal(matrix_NN: Tensor) -> Tensor:
    return matrix_NN & ~torch.eye(matrix_NN.shape[0], dtype=torch.bool, device=matrix_NN.device)


def _full_precision(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype is torch.float64 else vectors.float()
