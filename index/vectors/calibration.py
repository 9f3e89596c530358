"""Per-modality mean-centring (GR-CLIP, arXiv 2507.19054), for encoders that keep the modalities apart.

Such an encoder gives all images one large component and all texts another, so that a mixed corpus is ranked by modality
before it is ranked by meaning. Subtracting each modality's mean from its keys, and from queries of that modality, takes
this component away. Scores are then cosines of centred vectors.

Shape legend: M = modalities, B = batch, D = width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.errors import IndexCorruptError

MODALITIES = tuple(Modality)  # a modality is kept as its position here


@dataclass(frozen=True)
class Calibration:
    """The mean vector of each modality's keys, `[M, D]`.

    The mean of fused keys, where there are none, is taken to lie midway between the other two; a modality about which
    nothing is known is not shifted.
    """

    means_MD: NDArray[np.float32]

    @classmethod
    def of(cls, batches: Iterable[tuple[NDArray[np.float32], NDArray[np.uint8]]], width: int) -> "Calibration":
        """The means of vectors `[B, D]` by their modalities' positions `[B]`, batch by batch."""
        sums_MD = np.zeros((len(MODALITIES), width))
        counts_M = np.zeros(len(MODALITIES), np.int64)
        for vectors_BD, codes_B in batches:
            for code in range(len(MODALITIES)):
                chosen = vectors_BD[codes_B == code]
                sums_MD[code] += chosen.sum(axis=0, dtype=np.float64)
                counts_M[code] += len(chosen)
        means_MD = sums_MD / np.maximum(counts_M, 1)[:, None]
        text, image, fused = (
            MODALITIES.index(modality) for modality in (Modality.TEXT, Modality.IMAGE, Modality.FUSED)
        )
        if not counts_M[fused] and counts_M[text] and counts_M[image]:
            means_MD[fused] = (means_MD[text] + means_MD[image]) / 2
        return cls(means_MD.astype(np.float32))

    def apply(self, vectors_BD: NDArray[np.float32], codes_B: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Centres vectors and scales them to unit length; one that equals its mean becomes zero."""
        centred_BD = vectors_BD - self.means_MD[codes_B]
        norms_B1 = np.linalg.norm(centred_BD, axis=1, keepdims=True)
        return np.asarray(centred_BD / np.where(norms_B1 > 0, norms_B1, 1), np.float32)

    def write(self, path: Path) -> None:
        """Writes the means as a NumPy file."""
        np.save(path, self.means_MD)


def codes_of(modalities: Sequence[Modality]) -> NDArray[np.uint8]:
    """Modalities as their positions."""
    return np.array([MODALITIES.index(modality) for modality in modalities], np.uint8)


def read_calibration(path: Path, width: int) -> Calibration:
    """Reads what `Calibration.write` wrote.

    Raises:
        IndexCorruptError: the file is damaged or of another width.
    """
    try:
        means_MD = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexCorruptError(path, str(error)) from error
    expected = (len(MODALITIES), width)
    if means_MD.shape != expected or means_MD.dtype != np.float32 or not np.isfinite(means_MD).all():
        raise IndexCorruptError(path, f"expected {expected} finite float32 means, got {means_MD.shape}")
    return Calibration(means_MD)
