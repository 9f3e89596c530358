"""The named choices of a training run; light, so that settings can be read without torch."""

from collections.abc import Sequence
from enum import StrEnum

MODALITY_NAMES = ("i", "t", "it")


class Loss(StrEnum):
    """What is minimised: GCL, its pairwise reading, CLIP's loss, and three from the literature beside it."""

    GCL = "gcl"
    PAIRWISE = "pairwise"
    CLIP = "clip"
    ALIGNCLIP = "alignclip"
    SIGMOID = "sigmoid"
    NORMALIZED = "normalized"


class Reading(StrEnum):
    """Which candidates an anchor's denominator holds; the paper (arXiv 2509.25638) leaves this open.

    `R1` all rows, the anchor itself included (the formula to the letter). `R2` all but the anchor (the
    default; SupCon). `R3` as R2, without the positives that are not this term's target. `R4` the other
    modalities only. `R5` the target's modality only: the pairwise loss, whose denominators never compare
    candidates of different modalities.
    """

    R1 = "R1"
    R2 = "R2"
    R3 = "R3"
    R4 = "R4"
    R5 = "R5"


class CaptionSampling(StrEnum):
    """Which captions of an image a pass uses: one at random, the first, or each in a pair of its own."""

    RANDOM = "random"
    FIRST = "first"
    ALL = "all"


class Positives(StrEnum):
    """What else is an anchor's positive: nothing, pairs of the same image, or pairs of the same caption."""

    OWN = "own"
    IMAGE = "image"
    CAPTION = "caption"


def parse_pair_weights(entries: Sequence[str]) -> dict[tuple[int, int], float]:
    """Weights of (anchor, target) modality pairs from `anchor>target=weight`; the unnamed ones keep their default.

    >>> parse_pair_weights(["t>i=2", "it>t=0"])
    {(1, 0): 2.0, (2, 1): 0.0}

    Raises:
        ValueError: an entry of another form, a weight below 0, or a second weight of a pair.
    """
    weights = {}
    for entry in entries:
        pair, _, number = entry.partition("=")
        anchor, _, target = pair.strip().partition(">")
        try:
            weight = float(number)
            key = (MODALITY_NAMES.index(anchor), MODALITY_NAMES.index(target))
        except ValueError:
            raise ValueError(f"pair weight '{entry}': expected anchor>target=weight with i, t, it, as t>i=2") from None
        if not 0 <= weight < float("inf"):
            raise ValueError(f"pair weight '{entry}': expected a weight of 0 or more")
        if key in weights:
            raise ValueError(f"pair weight '{entry}': {pair.strip()} has a weight already")
        weights[key] = weight
    return weights
