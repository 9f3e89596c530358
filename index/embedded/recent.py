"""The keys that are newer than the published version, in memory, searched exactly.

Shape legend: R = recent rows, Q = queries, D = width, K = results per query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from index.embedded.store_reader import Changes
from index.filtering.conditions import matches
from index.hits import StoredKey
from index.key_index import Scope
from index.vectors.comparing import best

MIN_CAPACITY = 64


@dataclass(frozen=True)
class Recent:
    """Recent keys at one moment; `after` gives those of a later one and leaves this as it is.

    What is appended shares its memory with what was there: buffers only grow behind the rows of earlier moments.

    Attributes:
        width: D.
        num_rows: R, rows that came, also those that went again.
        num_alive: Rows that are there.
    """

    width: int
    num_rows: int = 0
    num_alive: int = 0
    _rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _is_alive_R: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    _vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _keys: list[StoredKey] = field(default_factory=list)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows `[R]`, ascending."""
        return self._rows[: self.num_rows]

    def after(self, changes: Changes) -> "Recent":
        """The recent keys after some changes; only the last moment may be asked."""
        is_alive_R = np.concatenate([self._is_alive_R, np.ones(len(changes.rows_R), np.bool_)])
        later = replace(
            self,
            num_rows=self.num_rows + len(changes.rows_R),
            _rows=_appended(self._rows, self.num_rows, changes.rows_R),
            _vectors=_appended(self._vectors.reshape(-1, self.width), self.num_rows, changes.vectors_RD),
            _is_alive_R=is_alive_R,
        )
        later._keys[self.num_rows :] = changes.keys
        is_alive_R[later._positions(changes.removed)] = False
        later = replace(later, num_alive=int(is_alive_R.sum()))
        return later._without_the_dead() if later.num_alive < later.num_rows // 2 else later

    def positions(
        self, scope: Scope, within: NDArray[np.int64] | None, exclude: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Positions of the rows in a scope, ascending; its key sets are given by their rows."""
        is_in_R = self._is_alive_R.copy()
        if within is not None:
            is_in_R &= np.isin(self.rows, within)
        if len(exclude):
            is_in_R &= ~np.isin(self.rows, exclude)
        positions = np.flatnonzero(is_in_R)
        if scope.modalities is None and scope.pool is None and scope.condition is None:
            return positions
        is_in = (_is_in_scope(self._keys[position], scope) for position in positions)
        return positions[np.fromiter(is_in, np.bool_, len(positions))]

    def search(
        self, queries_QD: NDArray[np.float32], k: int, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best of some positions for each query: scores and rows `[Q, min(k, positions)]`, best first."""
        vectors = self._vectors[: self.num_rows]
        if len(positions) < self.num_rows:
            vectors = vectors[positions]
        scores = queries_QD @ vectors.T
        rows = np.broadcast_to(self.rows[positions], scores.shape)
        return best(scores, rows, k)

    def pools(self) -> frozenset[str]:
        """Names of the pools that the keys are in."""
        return frozenset(pool for key in self._keys[: self.num_rows] for pool in key.pools)

    def keys(self, positions: Sequence[int]) -> list[StoredKey]:
        """Keys by position."""
        return [self._keys[position] for position in positions]

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of those of some rows that are here."""
        return np.flatnonzero(np.isin(self.rows, rows))

    def _without_the_dead(self) -> "Recent":
        alive = np.flatnonzero(self._is_alive_R)
        return Recent(
            self.width,
            len(alive),
            len(alive),
            self.rows[alive],
            np.ones(len(alive), np.bool_),
            self._vectors[alive],
            self.keys(alive.tolist()),
        )


def _is_in_scope(key: StoredKey, scope: Scope) -> bool:
    if scope.modalities is not None and key.modality not in scope.modalities:
        return False
    if scope.pool is not None and scope.pool not in key.pools:
        return False
    return scope.condition is None or matches(scope.condition, key.payload.metadata)


def _appended(buffer: NDArray, length: int, new: NDArray) -> NDArray:  # type: ignore[type-arg]
    """A buffer with rows behind its first `length` ones: the same one while it has room, else a larger copy."""
    needed = length + len(new)
    if needed > len(buffer):
        grown = np.empty((max(MIN_CAPACITY, 2 * len(buffer), needed), *buffer.shape[1:]), buffer.dtype)
        grown[:length] = buffer[:length]
        buffer = grown
    buffer[length:needed] = new
    return buffer
