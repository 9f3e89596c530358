"""What a contrastive loss averages: weights of pairs of modalities, and the denominators' reading."""

import math
from dataclasses import dataclass

from anykey.training.choices import Reading
from anykey.training.errors import InvalidRecipeError
from anykey.training.losses.rows import NUM_MODALITIES

Weights = tuple[tuple[float, float, float], ...]
Needed = tuple[tuple[bool, ...], ...]

CROSS_MODALITY: Weights = ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
CLIP_WEIGHTS: Weights = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Terms:
    """What the loss averages.

    Attributes:
        weights: Weight of each ordered pair of modalities, `[anchor][target]`, in the order image, text, fused.
            `CLIP_WEIGHTS` with reading R5 is CLIP's loss.
        reading: Which candidates the denominators hold.

    Raises:
        InvalidRecipeError: the weights are no 3 x 3 finite numbers >= 0, all are 0, or a modality is its own
            target under R4, whose denominators would lack the target.
    """

    weights: Weights = CROSS_MODALITY
    reading: Reading = Reading.R2

    def __post_init__(self) -> None:
        flat = [weight for row in self.weights for weight in row]
        if [len(row) for row in self.weights] != [NUM_MODALITIES] * NUM_MODALITIES:
            raise InvalidRecipeError(f"expected 3 x 3 weights of modality pairs, got {self.weights}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in flat) or not any(flat):
            raise InvalidRecipeError(f"weights must be finite, >= 0 and not all 0, got {self.weights}")
        if self.reading is Reading.R4 and any(self.weights[m][m] for m in range(NUM_MODALITIES)):
            raise InvalidRecipeError("reading R4 leaves out the anchor's modality: no modality can be its own target")

    def needed(self) -> Needed:
        """For each modality of an anchor, whether it meets candidates of each modality as negatives."""
        modalities = range(NUM_MODALITIES)
        if self.reading is Reading.R4:
            return tuple(tuple(c != a for c in modalities) for a in modalities)
        if self.reading is Reading.R5:
            return tuple(tuple(weight > 0 for weight in row) for row in self.weights)
        return ((True,) * NUM_MODALITIES,) * NUM_MODALITIES
