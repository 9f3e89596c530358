"""An index as it was after one change, and what it finds there.

Shape legend: Q = queries, K = results of a query, D = width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.hits import Hit
from anykey.index.key_index import EVERYTHING, Scope


@dataclass(frozen=True)
class Ranking:
    """What a search found for one query, best first.

    Attributes:
        scores_K: Cosine similarities, higher is better.
        found_K: By what the moment that found them knows the keys; nobody else makes anything of it.
    """

    scores_K: NDArray[np.float32]
    found_K: NDArray[Any]

    def __len__(self) -> int:
        return len(self.scores_K)

    def chosen(self, places: slice | NDArray[np.int64] | Sequence[int]) -> "Ranking":
        """Those at some places, from 0, in their order."""
        if not isinstance(places, slice):
            places = np.asarray(places, np.int64)
        return Ranking(self.scores_K[places], self.found_K[places])


class Moment(Protocol):
    """An index after one change: all that is asked of it is of that moment. For one thread at a time."""

    @property
    def version(self) -> str | None:
        """Name of the version that answers; `None` where there are no versions."""
        ...

    @property
    def seq(self) -> int | None:
        """Number of the last change in it; `None` where changes are not counted."""
        ...

    @property
    def snapshot(self) -> str | None:
        """What names the moment to `KeyIndex.moment`; `None` where moments cannot be asked for again."""
        ...

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """The `k` best keys of the scope for each query, as `KeyIndex.search`."""
        ...

    def rank(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
    ) -> list[Ranking]:
        """What `search` finds, without what the keys carry."""
        ...

    def is_exact(self, exact: bool) -> bool:
        """Whether a search compares with every key, so that its first hits are those of a search for more."""
        ...

    def hits(self, ranking: Ranking, *, with_vectors: bool = False) -> list[Hit]:
        """What has been found, ranks from 1; with the keys' vectors, as their encoder made them, if asked for."""
        ...

    def vectors(self, ranking: Ranking) -> NDArray[np.float32]:
        """Unit vectors `[K, D]` of what has been found, as queries are compared with them."""
        ...

    def count(self, scope: Scope = EVERYTHING) -> int:
        """Number of keys in the scope."""
        ...

    def keep(self, *, is_asked_for: bool = False) -> None:
        """Keeps the moment for a while, so that `snapshot` can be asked for again; does what it can.

        Args:
            is_asked_for: Whether somebody said that they would ask: such moments are kept before others.
        """
        ...
