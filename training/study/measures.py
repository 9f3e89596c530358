"""What a study measures of one encoder on held-out pairs, with and without mean-centring.

Shape legend: P = held-out pairs.
"""

import torch

from anykey.sources.errors import SourceError
from anykey.training.gaps import centre, measure_gaps
from anykey.training.validation import COMBINATIONS, MODALITIES, HeldOut, gains_by_rank, gains_of_queries, measure

CUTOFFS = (1, 10, 50)
NDCG_CUTOFFS = (10,)
METRICS = (*(f"success@{k}" for k in CUTOFFS), *(f"ndcg@{k}" for k in NDCG_CUTOFFS))
JUDGED = "success@10"  # what leads are tested by, and a search chooses by
POOLS = ("local", "mixed")
PLAIN, GR_CLIP, OWN_MEANS = "plain", "gr-clip", "own-means"
CENTRINGS = (PLAIN, GR_CLIP, OWN_MEANS)


def measure_centrings(test: HeldOut, validation: HeldOut) -> dict[str, dict[str, float]]:
    """Everything by centring; the means come from the validation pairs, so that nothing of the test pairs is used.

    `plain`: the vectors as they are. `gr-clip`: image, text and fused vectors less their means, fused ones as the sum
    of the unit halves, whatever the encoder's own fusion (arXiv 2507.19054). `own-means`: the encoder's own fused
    vectors less their mean.
    """
    return {
        PLAIN: measure_rotations(test),
        GR_CLIP: measure_rotations(centre(test, validation)),
        OWN_MEANS: measure_rotations(centre(test, validation, fuse_halves=False)),
    }


def measure_rotations(held_out: HeldOut) -> dict[str, float]:
    """Numbers of `measure` and `measure_gaps`, the mean over the three ways to deal out the mixed pool, and of pairs.

    In the mixed pool each photo is once, as an image, a text or a fused key. Over the three rotations each photo is
    each of them in turn, so that every query counts. Of a number of pairs that is no multiple of three, the last one
    or two are left out.

    Raises:
        SourceError: there are fewer than three pairs.
    """
    dealt = _rotations(held_out)
    rotations = [_measure(held_out.rows(rows_P)) for rows_P in dealt]
    means = {name: sum(numbers[name] for numbers in rotations) / len(rotations) for name in _common(rotations)}
    return {"num_pairs": float(len(dealt[0])), **means}


def gains_of_pairs(held_out: HeldOut) -> dict[str, list[float]]:
    """By pool, the success@10 of each pair `[P]`: the mean over the combinations in which it is asked for.

    Over the rotations of `measure_rotations` a pair is asked for equally often in every one that its captions allow.

    Raises:
        SourceError: there are fewer than three pairs.
    """
    dealt, gains = _rotations(held_out), gains_by_rank(CUTOFFS, NDCG_CUTOFFS)
    found = {}
    for pool in POOLS:
        sum_P, count_P = torch.zeros(2, len(dealt[0]), dtype=torch.float64)
        for rows_P in dealt:
            for combination in COMBINATIONS:
                own_Q, gained = gains_of_queries(held_out.rows(rows_P), pool, combination, gains)
                if len(own_Q):
                    gain_Q = gained[JUDGED].double()
                    sum_P.index_add_(0, rows_P[own_Q], gain_Q)
                    count_P.index_add_(0, rows_P[own_Q], torch.ones_like(gain_Q))
        found[pool] = (sum_P / count_P).tolist()
    return found


def _rotations(held_out: HeldOut) -> list[torch.Tensor]:
    """The pairs `[P]` in the orders that deal each of them as each modality."""
    num_pairs = len(held_out.has_second_P) // len(MODALITIES) * len(MODALITIES)
    if not num_pairs:
        raise SourceError(f"a mixed pool needs at least 3 pairs, found {len(held_out.has_second_P)}")
    return [torch.arange(num_pairs).roll(shift) for shift in range(len(MODALITIES))]


def _measure(held_out: HeldOut) -> dict[str, float]:
    return measure(held_out, COMBINATIONS, CUTOFFS, NDCG_CUTOFFS) | measure_gaps(held_out)


def _common(rotations: list[dict[str, float]]) -> list[str]:
    """Names that all rotations have: with few pairs one may have nothing to ask for."""
    return [name for name in rotations[0] if all(name in numbers for numbers in rotations)]
