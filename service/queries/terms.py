"""What a query's vector is the sum of, and how well each hit matches each of them.

Shape legend: D = width, P = vectors, of parts and of what they are made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.hits import Hit
from anykey.service.answers.schemas import PartScores
from anykey.service.errors import InvalidRequestError

LEAST_NORM = 1e-5  # of a sum, as a share of its weights, below which rounding decides where it points

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class PartRows:
    """Which vectors of a query's terms belong to one of its parts.

    Attributes:
        whole: The part's own.
        text: That of its text alone; `None` if it has none, or nobody can tell.
        image: That of its images alone.
    """

    whole: int
    text: int | None = None
    image: int | None = None


@dataclass(frozen=True, eq=False)
class Terms:
    """The vectors that a query's is the weighted sum of, and those that hits are only scored with.

    Attributes:
        vectors_PD: Unit vectors.
        weights_P: How much each counts; 0 for those that hits are only scored with.
        modalities: What each is the vector of; `None` where nobody knows.
        names: What messages call each.
        rows: Which vectors belong to each part of the query.
    """

    vectors_PD: Vector
    weights_P: NDArray[np.float64]
    modalities: tuple[Modality | None, ...]
    names: tuple[str, ...]
    rows: tuple[PartRows, ...]

    def part_scores(self, hit: Hit) -> list[PartScores]:
        """How well a hit that was scored with each vector matches each part."""
        assert hit.part_scores is not None
        scores = hit.part_scores

        def score(row: int | None) -> float | None:
            return None if row is None else scores[row]

        return [PartScores(score=scores[of.whole], text=score(of.text), image=score(of.image)) for of in self.rows]


def weighted_sum(vectors_PD: Vector, weights_P: NDArray[np.float64] | Sequence[float]) -> Vector:
    """The normalised weighted sum `[D]`; one vector alone that is looked for is as it is.

    Raises:
        InvalidRequestError: the vectors cancel out.
    """
    weights_P = np.asarray(weights_P, np.float64)
    counting = np.flatnonzero(weights_P)
    if len(counting) == 1 and weights_P[counting[0]] > 0:
        return np.asarray(vectors_PD[counting[0]])
    sum_D = weights_P[counting] @ vectors_PD[counting].astype(np.float64)
    norm = float(np.linalg.norm(sum_D))
    if not norm > LEAST_NORM * np.abs(weights_P).sum():
        raise InvalidRequestError("parts: they cancel out, so that their sum has no direction; change a weight")
    return np.asarray(sum_D / norm, np.float32)
