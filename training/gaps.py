"""How far apart the modalities lie in the space, and what mean-centring makes of it.

A gap is not bad in itself: read these numbers beside success in the local and the mixed pool, never as a goal.

Shape legend: P = held-out pairs, D = width, Q = queries, M = modalities.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from anykey.training.validation import (
    ALL_COMBINATIONS,
    COMBINATIONS,
    MODALITIES,
    MODALITY_PAIRS,
    HeldOut,
    centroid_gaps,
    measure,
    mixed_pool,
    mixed_rows,
)

CONFUSION_K = 10
_ROWS_AT_ONCE = 1024


def measure_gaps(held_out: HeldOut) -> dict[str, float]:
    """All measures of the modality gap, by name. What too few pairs leave undefined is left out.

    `cosine/t>i`, nine of them: mean cosine of the true pairs. `alignment/t>i`: their mean squared distance, and
    `uniformity/i` of one modality's keys, `uniformity/mixed` of the mixed pool (Wang and Isola, ICML 2020; lower
    is better for both). `gap/i-t`: distance of the mean keys. `covariance/i-t`: distance of the covariances
    (CORAL, Sun and Saenko 2016). `confusion/t>i`: share of a mixed pool's first 10 that is not of the modality
    looked for. `rank1/t/i`: share of text queries, over `COMBINATIONS`, whose first hit in the mixed pool is an image.
    """
    pool_PD, modality_P = mixed_pool(held_out)
    numbers = _true_pairs(held_out) | centroid_gaps(held_out) | _covariance_distances(held_out)
    for name, vectors_PD in [*held_out.keys.items(), ("mixed", pool_PD)]:
        if len(vectors_PD) > 1:
            numbers[f"uniformity/{name}"] = uniformity(vectors_PD)
    first_by_query: dict[str, list[Tensor]] = {name: [] for name in MODALITIES}
    for combination in ALL_COMBINATIONS:
        query, key = combination.split(">")
        own_Q = mixed_rows(held_out, combination)
        if not len(own_Q):
            continue
        wanted = MODALITIES.index(key)
        num_wanted = int((modality_P == wanted).sum())
        queries_QD = held_out.queries[query][own_Q]
        found_QM = _found(queries_QD, pool_PD, modality_P, min(CONFUSION_K, num_wanted))
        numbers[f"confusion/{combination}"] = 1 - float(found_QM[:, wanted].mean())
        if combination in COMBINATIONS:
            first_by_query[query].append(_found(queries_QD, pool_PD, modality_P, 1))
    return numbers | _rank1_shares(first_by_query)


def uniformity(vectors_PD: Tensor, rows_at_once: int = _ROWS_AT_ONCE) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of different rows at distance d (Wang and Isola, with t = 2).

    0 where all rows are one, near -4 where they are spread evenly over a sphere of many dimensions. Rows are
    unit vectors, at least two; `rows_at_once` of them are compared with all at a time.
    """
    num_rows = len(vectors_PD)
    total = 0.0
    for start in range(0, num_rows, rows_at_once):
        cosine = vectors_PD[start : start + rows_at_once] @ vectors_PD.T
        kernel = torch.exp(4 * cosine.double() - 4)
        total += float(kernel.sum() - kernel.diagonal(start).sum())
    return math.log(total / (num_rows * (num_rows - 1)))


def centre(held_out: HeldOut, reference: HeldOut | None = None, fuse_halves: bool = True) -> HeldOut:
    """Training-free mean-centring (GR-CLIP, arXiv 2507.19054): each modality's mean is subtracted, and norms made 1.

    Queries and keys have their own means. With a `reference`, say the training pairs, the result is honest: nothing
    is known of the pairs that are measured. Without one the means are those of the measured pairs, which flatters
    a little.

    Args:
        held_out: Vectors to centre.
        reference: Where the means come from.
        fuse_halves: True gives fused vectors as GR-CLIP makes them: the sum of the unit image and text less the
            same sum of their means. False keeps the checkpoint's own fusion: its fused vectors less their own mean.

    Returns:
        The centred vectors, of unit norm.
    """
    source = held_out if reference is None else reference
    centred = []
    for side, means in ((held_out.queries, source.queries), (held_out.keys, source.keys)):
        moved = {name: side[name] - means[name].mean(0) for name in MODALITIES}
        if fuse_halves:
            moved["it"] = moved["i"] + moved["t"]
        centred.append({name: functional.normalize(vectors_PD, dim=-1) for name, vectors_PD in moved.items()})
    return HeldOut(queries=centred[0], keys=centred[1], has_second_P=held_out.has_second_P)


def measure_calibrated(held_out: HeldOut) -> dict[str, float]:
    """Mean success@10 in both pools as an index has it that is calibrated by modality, as `calibrated/local/mean/...`.

    Queries and keys less the mean of the keys of their modality: those of the corpus itself, as in such an index.
    """
    by_keys = replace(held_out, queries=held_out.keys)
    numbers = measure(centre(held_out, by_keys, fuse_halves=False), cutoffs=(10,))
    return {f"calibrated/{name}": number for name, number in numbers.items() if name.endswith("/mean/success@10")}


def _true_pairs(held_out: HeldOut) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for combination in ALL_COMBINATIONS:
        query, key = combination.split(">")
        cosine_P = (held_out.queries[query] * held_out.keys[key]).sum(-1)[held_out.askable(combination)]
        if len(cosine_P):
            cosine = float(cosine_P.mean())
            # Of unit vectors the squared distance is 2 - 2 cosine.
            numbers |= {f"cosine/{combination}": cosine, f"alignment/{combination}": 2 - 2 * cosine}
    return numbers


def _covariance_distances(held_out: HeldOut) -> dict[str, float]:
    num_pairs, width = held_out.keys["i"].shape
    if num_pairs < 2:
        return {}
    covariance = {name: torch.cov(held_out.keys[name].T.double()).reshape(width, width) for name in MODALITIES}
    return {
        f"covariance/{first}-{second}": float((covariance[first] - covariance[second]).square().sum() / (4 * width**2))
        for first, second in MODALITY_PAIRS
    }


def _found(query_QD: Tensor, pool_PD: Tensor, modality_P: Tensor, k: int) -> Tensor:
    """Share of each modality among each query's first `k` keys `[Q, M]`: the mean over all orders of equal scores."""
    is_of_PM = functional.one_hot(modality_P, len(MODALITIES)).double()
    parts = []
    for start in range(0, len(query_QD), _ROWS_AT_ONCE):
        score_QP = query_QD[start : start + _ROWS_AT_ONCE] @ pool_PD.T
        last_Q1 = score_QP.topk(k, dim=1).values[:, -1:]
        above_QP, tied_QP = (score_QP > last_Q1).double(), (score_QP == last_Q1).double()
        share_Q1 = (k - above_QP.sum(1, keepdim=True)) / tied_QP.sum(1, keepdim=True)
        parts.append((above_QP + share_Q1 * tied_QP) @ is_of_PM / k)
    return torch.cat(parts)


def _rank1_shares(first_by_query: dict[str, list[Tensor]]) -> dict[str, float]:
    numbers = {}
    for query, first in first_by_query.items():
        if first:
            shares = torch.cat(first).mean(0).tolist()
            numbers.update({f"rank1/{query}/{name}": share for name, share in zip(MODALITIES, shares, strict=True)})
    return numbers
