"""The keys that are newer than the published version, in memory, searched exactly.

Shape legend: R = recent records, Q = queries, D = width, K = results per query.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.filtering.growing import FirstPositions, GrowingPostings
from anykey.index.key_index import Scope
from anykey.index.store.store_reader import Changes, Unsound
from anykey.index.vectors.exact import Found, best

MIN_CAPACITY = 64
SCORES_AT_ONCE = 2**24  # 64 MiB


@dataclass(frozen=True)
class Recent:
    """Recent keys at one moment; `after` gives those of a later one and leaves this as it is.

    What is appended shares its memory with what was there: buffers only grow behind what earlier moments have.

    Attributes:
        width: D.
        num_records: R, those that came, also those that went again.
        num_alive: Those that are there.
        pools: Names of the pools that the keys are in, or were when they went.
        unsound: What is wrong with records that are damaged, by change number. Such a key is in the answers that it
            would be in, which fail.
    """

    width: int
    num_records: int = 0
    num_alive: int = 0
    pools: frozenset[str] = frozenset()
    unsound: Mapping[int, Unsound] = field(default_factory=dict)
    _seqs: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _is_alive_R: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    _vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _postings: GrowingPostings = field(default_factory=GrowingPostings)

    @property
    def seqs(self) -> NDArray[np.int64]:
        """Their change numbers `[R]`, ascending."""
        return self._seqs[: self.num_records]

    @property
    def num_bytes(self) -> int:
        """About what they take in memory: vectors and numbers, and what filters look at."""
        arrays = self._seqs.nbytes + self._is_alive_R.nbytes + self._vectors.nbytes
        return arrays + self._postings.num_bytes

    def after(self, changes: Changes) -> "Recent":
        """The recent keys after some changes; only the last moment may be asked."""
        is_alive_R = np.concatenate([self._is_alive_R, np.ones(len(changes.seqs_R), np.bool_)])
        new_pools = {pool for key in changes.keys for pool in key.pools} - self.pools
        later = replace(
            self,
            num_records=self.num_records + len(changes.seqs_R),
            pools=self.pools | new_pools if new_pools else self.pools,
            unsound=_without({**self.unsound, **changes.unsound}, changes.removed),
            _seqs=_appended(self._seqs, self.num_records, changes.seqs_R),
            _vectors=_appended(self._vectors.reshape(-1, self.width), self.num_records, changes.vectors_RD),
            _is_alive_R=is_alive_R,
        )
        self._postings.put(self.num_records, [(key.modality, key.pools, key.payload.metadata) for key in changes.keys])
        is_alive_R[later._positions(changes.removed)] = False
        later = replace(later, num_alive=int(is_alive_R.sum()))
        return later._without_the_dead() if later.num_alive < later.num_records // 2 else later

    def positions(
        self,
        scope: Scope,
        within: NDArray[np.int64] | None,
        exclude: NDArray[np.int64],
        deadline: Deadline = NEVER,
    ) -> NDArray[np.int64]:
        """Positions of the keys in a scope, ascending; its key sets are given by their change numbers.

        A key of which it cannot be told what filters ask for is in every scope; see `unsound`.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        if not self.num_alive:
            return np.empty(0, np.int64)
        is_in_R = self._is_alive_R.copy()
        if within is not None:
            is_in_R &= np.isin(self.seqs, within)
        if len(exclude):
            is_in_R &= ~np.isin(self.seqs, exclude)
        for chosen in self._filtered(scope, deadline):
            is_chosen_R = np.zeros(self.num_records, np.bool_)
            is_chosen_R[chosen] = True
            is_chosen_R[self._positions(self._unknown)] = True
            is_in_R &= is_chosen_R
        return np.flatnonzero(is_in_R)

    def terms(self, deadline: Deadline = NEVER) -> FirstPositions:
        """Their postings, of those that went again too."""
        return self._postings.first(self.num_records, deadline)

    def search(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        positions: NDArray[np.int64],
        deadline: Deadline = NEVER,
    ) -> Found:
        """The best of some positions for each query: scores and change numbers `[Q, min(k, positions)]`, best first.

        A key whose vector is lost is in no answer.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        if self.unsound:
            lost = [seq for seq, damage in self.unsound.items() if not damage.has_vector]
            positions = positions[~np.isin(self.seqs[positions], lost)]
        found = [
            self._best(queries_QD[start : start + step], k, positions, deadline)
            for step in [max(1, SCORES_AT_ONCE // max(1, self.num_records))]
            for start in range(0, len(queries_QD), step)
        ]
        return np.concatenate([scores for scores, _ in found]), np.concatenate([seqs for _, seqs in found])

    def vectors(self, seqs_K: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors `[K, D]` of keys that are here, by their change numbers."""
        return self._vectors.reshape(-1, self.width)[np.searchsorted(self.seqs, seqs_K)]

    def known(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some positions of which it can be told what filters ask for."""
        return positions[~np.isin(self.seqs[positions], self._unknown)] if self.unsound else positions

    def require_known(self, positions: NDArray[np.int64]) -> None:
        """Makes sure of positions that filters chose.

        Raises:
            KeyCorruptError: of one of them it cannot be told what filters ask for.
        """
        if len(self.known(positions)) < len(positions):
            self.require_sound(np.intersect1d(self.seqs[positions], self._unknown))

    def require_sound(self, seqs: NDArray[np.int64]) -> None:
        """Makes sure of keys, by their change numbers, that are about to be an answer.

        Raises:
            KeyCorruptError: the record of one of them is damaged.
        """
        for seq, damage in self.unsound.items():
            if seq in seqs:
                raise damage.error.with_traceback(None)

    def _best(self, queries_QD: NDArray[np.float32], k: int, positions: NDArray[np.int64], deadline: Deadline) -> Found:
        deadline.check()
        vectors = self._vectors[: self.num_records]
        if len(positions) < self.num_records // 2:
            scores = queries_QD @ vectors[positions].T
        else:  # to leave some scores out is less work than to copy most vectors
            scores = queries_QD @ vectors.T
            scores = scores[:, positions] if len(positions) < self.num_records else scores
        seqs = np.broadcast_to(self.seqs[positions], scores.shape)
        return best(scores, seqs, k)

    @property
    def _unknown(self) -> NDArray[np.int64]:
        """Change numbers of keys of which it cannot be told what filters ask for."""
        return np.array([seq for seq, damage in self.unsound.items() if not damage.has_payload], np.int64)

    def _filtered(self, scope: Scope, deadline: Deadline) -> Iterator[NDArray[np.int64]]:
        """Positions that each filter of a scope allows."""
        if scope.modalities is not None:
            yield self._postings.positions_of_modalities(scope.modalities, self.num_records, deadline)
        if scope.pool is not None:
            yield self._postings.positions_of_pool(scope.pool, self.num_records, deadline)
        if scope.condition is not None:
            yield self._postings.positions(scope.condition, self.num_records, deadline)

    def _positions(self, seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of those of some keys that are here, by their change numbers."""
        return np.flatnonzero(np.isin(self.seqs, seqs)) if len(seqs) else np.empty(0, np.int64)

    def _without_the_dead(self) -> "Recent":
        alive = np.flatnonzero(self._is_alive_R)
        postings = self._postings.only(alive)
        return replace(
            self,
            num_records=len(alive),
            num_alive=len(alive),
            pools=postings.pools(),
            _seqs=self.seqs[alive],
            _is_alive_R=np.ones(len(alive), np.bool_),
            _vectors=self._vectors[alive],
            _postings=postings,
        )


def _without(unsound: Mapping[int, Unsound], removed: NDArray[np.int64]) -> Mapping[int, Unsound]:
    return {seq: damage for seq, damage in unsound.items() if seq not in removed} if unsound else unsound


def _appended(buffer: NDArray, length: int, new: NDArray) -> NDArray:  # type: ignore[type-arg]
    """A buffer with `new` behind its first `length` ones: the same one while it has room, else a larger copy."""
    needed = length + len(new)
    if needed > len(buffer):
        grown = np.empty((max(MIN_CAPACITY, 2 * len(buffer), needed), *buffer.shape[1:]), buffer.dtype)
        grown[:length] = buffer[:length]
        buffer = grown
    buffer[length:needed] = new
    return buffer
