"""Which candidates a contrastive denominator holds."""

from enum import StrEnum


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
