"""Principal components of many vectors, for a picture in the plane.

Shape legend: R = rows, D = width.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """The two directions in which the rows it was fitted to vary most.

    Attributes:
        mean_D: Mean of those rows.
        axes_2D: The directions, of unit norm; each one's largest entry is positive, so that the sign is settled.
        share: Share of the rows' variance that lies in the plane, in [0, 1].
    """

    mean_D: npt.NDArray[np.float64]
    axes_2D: npt.NDArray[np.float64]
    share: float

    @classmethod
    def fit(cls, rows_RD: Floats) -> Self:
        """Fits the plane to all rows at once; D is at least 2."""
        rows_RD = rows_RD.astype(np.float64)
        mean_D = rows_RD.mean(0)
        centred_RD = rows_RD - mean_D
        variances, directions = np.linalg.eigh(centred_RD.T @ centred_RD)
        axes_2D = directions[:, [-1, -2]].T
        largest = axes_2D[[0, 1], np.abs(axes_2D).argmax(1)]
        total = float(variances.sum())
        share = float(variances[-2:].sum()) / total if total > 0 else 1.0
        return cls(mean_D, axes_2D * np.sign(largest)[:, None], share)

    def points(self, rows_RD: Floats) -> npt.NDArray[np.float64]:
        """Where rows `[R, D]` lie in the plane `[R, 2]`."""
        points: npt.NDArray[np.float64] = (rows_RD - self.mean_D) @ self.axes_2D.T
        return points
