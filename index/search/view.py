"""An index at one moment of its change sequence: what a version covers, less what went since, and what came since.

Shape legend: N = keys in the version, Q = queries, D = width, K = results per query.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import InvalidSearchError, ModalityNeededError, UnknownPoolError
from anykey.index.filtering.conditions import Exists, Path
from anykey.index.hits import Hit, SearchFacts
from anykey.index.key_index import EVERYTHING, IndexInfo, Ranking, Scope
from anykey.index.search.recent import Recent
from anykey.index.search.version_files import VersionFiles
from anykey.index.store.backoff import FoldFailure
from anykey.index.store.store_reader import Changes, ReadTransaction
from anykey.index.vectors.calibration import codes_of
from anykey.index.vectors.exact import Found, as_positions, best, count_allowed

_NO_SEQS = np.empty(0, np.int64)


@dataclass(frozen=True)
class View:
    """An index after change number `seq`; never changes.

    Attributes:
        seq: Number of the last change in it.
        files: Those of the published version, with the keys that it covers.
        recent: The keys that came later.
        removed: Positions of the version's keys that went later, ascending.
    """

    seq: int
    files: VersionFiles
    recent: Recent
    removed: NDArray[np.int64]

    @classmethod
    def of(cls, files: VersionFiles) -> "View":
        """The moment that a version was derived from."""
        return cls(files.manifest.seq, files, Recent(files.manifest.encoder.width), _NO_SEQS)

    def after(self, changes: Changes) -> "View":
        """The view after some changes; only the latest view may be asked."""
        removed = self.files.positions_of_seqs(changes.removed)
        if self.files.calibration is not None:
            codes = codes_of([key.modality for key in changes.keys])
            changes = replace(changes, vectors_RD=self.files.calibration.apply(changes.vectors_RD, codes))
        return replace(
            self,
            seq=changes.seq,
            recent=self.recent.after(changes),
            removed=np.union1d(self.removed, removed) if len(removed) else self.removed,
        )

    @property
    def num_keys(self) -> int:
        """Number of keys."""
        return self.files.num_keys - len(self.removed) + self.recent.num_alive

    @property
    def num_unfolded(self) -> int:
        """What the next version will fold in: keys that came and keys that went."""
        return self.recent.num_records + len(self.removed)

    def calibrated(
        self, queries_QD: NDArray[np.float32], modalities: Sequence[Modality | None] | None
    ) -> NDArray[np.float32]:
        """Queries as this view's keys are compared with them.

        Raises:
            InvalidSearchError: the keys are centred by modality, and a query's modality is not told.
            ModalityNeededError: it is told of others, and not of all.
        """
        if self.files.calibration is None:
            return queries_QD
        if modalities is None or len(modalities) != len(queries_QD):
            raise InvalidSearchError(
                f"the index is calibrated by modality: expected the modality of each of {len(queries_QD)} queries, got "
                f"{'none' if modalities is None else len(modalities)}"
            )
        known = [modality for modality in modalities if modality is not None]
        if len(known) < len(modalities):
            raise ModalityNeededError(list(modalities).index(None))
        return self.files.calibration.apply(queries_QD, codes_of(known))

    def search(
        self,
        queries_QD: NDArray[np.float32],
        k: int,
        scope: Scope,
        transaction: ReadTransaction,
        exact: bool,
        deadline: Deadline = NEVER,
        facts: SearchFacts | None = None,
    ) -> Found:
        """The best keys of a scope, `facts` told of how they are found; `transaction` is of the same moment.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            KeyCorruptError: one of them is a recent key whose record is damaged.
        """
        began_s = time.monotonic()
        within, exclude = self._key_sets(scope, transaction)
        allowed, is_any = self._allowed(scope, within, exclude, deadline)
        positions = self.recent.positions(scope, within, exclude, deadline)
        looked_up_s = time.monotonic()
        found = self.files.search(queries_QD, k, allowed, exact, deadline, facts) if is_any else None
        if len(positions):
            newer = self.recent.search(queries_QD, k, positions, deadline)
            found = newer if found is None else _merged(found, newer, k)
        if facts is not None:
            facts.num_searches += 1
            facts.structure = facts.structure or "exact"
            facts.num_keys, facts.num_recent = self.num_keys, len(positions)
            facts.num_in_scope = (count_allowed(allowed, self.files.num_keys) if is_any else 0) + len(positions)
            facts.is_scope_looked_up = scope != EVERYTHING
            facts.scope_s += looked_up_s - began_s
            facts.compare_s += time.monotonic() - looked_up_s
        if found is None:
            return np.empty((len(queries_QD), 0), np.float32), np.empty((len(queries_QD), 0), np.int64)
        self.recent.require_sound(found[1])
        return found

    def seqs_in(self, scope: Scope, transaction: ReadTransaction, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Change numbers of the keys in a scope, ascending; `transaction` is of the same moment.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            KeyCorruptError: it cannot be told of a recent key, whose record is damaged, whether it is one of them.
        """
        within, exclude = self._key_sets(scope, transaction)
        recent = self.recent.positions(scope, within, exclude, deadline)
        if scope.modalities is not None or scope.pool is not None or scope.condition is not None:
            self.recent.require_known(recent)
        allowed, _ = self._allowed(scope, within, exclude, deadline)
        covered = self.files.seqs if allowed is None else self.files.seqs[allowed]
        return np.concatenate([covered, self.recent.seqs[recent]])

    def spread(
        self, most: int, scope: Scope, transaction: ReadTransaction, deadline: Deadline = NEVER
    ) -> tuple[NDArray[np.int64], int]:
        """Some keys of a scope, spread evenly over the order in which they came, and how many the scope has.

        Args:
            most: How many.
            scope: Which keys to choose from.
            transaction: Of the same moment.
            deadline: Until when they are wanted.

        Returns:
            Change numbers `[B]`, the same whenever it is asked, and the number of keys in the scope.
        """
        within, exclude = self._key_sets(scope, transaction)
        allowed, _ = self._allowed(scope, within, exclude, deadline)
        num_covered = count_allowed(allowed, self.files.num_keys)
        recent = self.recent.positions(scope, within, exclude, deadline)
        num_keys = num_covered + len(recent)
        places = np.arange(min(most, num_keys)) * num_keys // max(1, min(most, num_keys))
        covered, newer = places[places < num_covered], places[places >= num_covered] - num_covered
        positions = covered if allowed is None else as_positions(allowed)[covered]
        return np.concatenate([self.files.seqs[positions], self.recent.seqs[recent[newer]]]), num_keys

    def vectors(self, seqs_K: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors `[K, D]` of keys of this view by their change numbers, as queries are compared with them."""
        positions_K = np.searchsorted(self.files.seqs, seqs_K)
        is_covered_K = np.zeros(len(seqs_K), np.bool_)
        if self.files.num_keys:
            is_covered_K = self.files.seqs[np.minimum(positions_K, self.files.num_keys - 1)] == seqs_K
        vectors_KD = np.empty((len(seqs_K), self.files.manifest.encoder.width), np.float32)
        vectors_KD[is_covered_K] = self.files.vectors(positions_K[is_covered_K])
        vectors_KD[~is_covered_K] = self.recent.vectors(seqs_K[~is_covered_K])
        return vectors_KD

    def is_in(
        self, seqs_M: NDArray[np.int64], scope: Scope, transaction: ReadTransaction, deadline: Deadline = NEVER
    ) -> NDArray[np.bool_]:
        """Which of some keys, by their change numbers, are in a scope, `[M]`; `transaction` is of the same moment.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        within, exclude = self._key_sets(scope, transaction)
        allowed, is_any = self._allowed(scope, within, exclude, deadline)
        is_in_M = np.zeros(len(seqs_M), np.bool_)
        if is_any:
            places_M = np.minimum(np.searchsorted(self.files.seqs, seqs_M), self.files.num_keys - 1)
            is_in_M = self.files.seqs[places_M] == seqs_M
            if allowed is not None and allowed.dtype == np.bool_:
                is_in_M &= allowed[places_M]
            elif allowed is not None:
                is_in_M &= np.isin(places_M, allowed)
        recent = self.recent.positions(scope, within, exclude, deadline)
        return is_in_M | np.isin(seqs_M, self.recent.seqs[recent]) if len(recent) else is_in_M

    def count(self, scope: Scope, transaction: ReadTransaction, deadline: Deadline = NEVER) -> int:
        """Number of keys in a scope; `transaction` is of the same moment.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            KeyCorruptError: it cannot be told of a recent key, whose record is damaged, whether it is one of them.
        """
        within, exclude = self._key_sets(scope, transaction)
        recent = self.recent.positions(scope, within, exclude, deadline)
        if scope.modalities is not None or scope.pool is not None or scope.condition is not None:
            self.recent.require_known(recent)
        return self._count_covered(scope, within, exclude, deadline) + len(recent)

    def masks(
        self, scope: Scope, transaction: ReadTransaction, deadline: Deadline = NEVER
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of the version's keys, `[N]`, and of the recent records, `[R]`, are in a scope; to be read only.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            KeyCorruptError: of a recent key in it, metadata cannot be told, for its record is damaged.
        """
        within, exclude = self._key_sets(scope, transaction)
        recent = self.recent.positions(scope, within, exclude, deadline)
        self.recent.require_known(recent)
        is_in_R = np.zeros(self.recent.num_records, np.bool_)
        is_in_R[recent] = True
        allowed, _ = self._allowed(scope, within, exclude, deadline)
        if allowed is None:
            return np.ones(self.files.num_keys, np.bool_), is_in_R
        if allowed.dtype == np.bool_:
            return allowed.astype(np.bool_, copy=False), is_in_R
        is_in_N = np.zeros(self.files.num_keys, np.bool_)
        is_in_N[allowed] = True
        return is_in_N, is_in_R

    def has_field(self, path: Path, deadline: Deadline = NEVER) -> bool:
        """Whether any key has a value at a path of its metadata, or below it, or had when the version was made."""
        if self.files.has_field(path, deadline):
            return True
        return len(self.recent.positions(Scope(condition=Exists(path)), None, _NO_SEQS, deadline)) > 0

    def pool_sizes(self) -> dict[str, int]:
        """Number of keys of each pool that has some; those whose record is damaged are in none."""
        sizes = {}
        for pool in sorted(self.pools):
            scope = Scope(pool=pool)
            recent = self.recent.known(self.recent.positions(scope, None, _NO_SEQS))
            sizes[pool] = self._count_covered(scope, None, _NO_SEQS, NEVER) + len(recent)
        return {pool: size for pool, size in sizes.items() if size}

    def _count_covered(
        self, scope: Scope, within: NDArray[np.int64] | None, exclude: NDArray[np.int64], deadline: Deadline
    ) -> int:
        allowed, _ = self._allowed(scope, within, exclude, deadline)
        return count_allowed(allowed, self.files.num_keys)

    @cached_property
    def pools(self) -> frozenset[str]:
        """Names of all pools."""
        return self.recent.pools | self.files.manifest.pools.keys()

    def check(self, scope: Scope) -> None:
        """Makes sure that a scope names what exists.

        Raises:
            InvalidSearchError: there is no such modality.
            UnknownPoolError: there is no such pool.
        """
        for modality in scope.modalities or ():
            if modality not in list(Modality):
                raise InvalidSearchError(f"unknown modality {modality!r}; expected some of {', '.join(Modality)}")
        if scope.pool is not None and scope.pool not in self.pools:
            raise UnknownPoolError(scope.pool, self.pools)

    @cached_property
    def _is_there(self) -> NDArray[np.bool_]:
        is_there_N = np.ones(self.files.num_keys, np.bool_)
        is_there_N[self.removed] = False
        return is_there_N

    def _key_sets(
        self, scope: Scope, transaction: ReadTransaction
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
        """Change numbers of the keys that a scope names: those within, and those left out."""
        within = None if scope.within is None else transaction.seqs_of_keys(scope.within)
        return within, transaction.seqs_of_keys(scope.exclude) if scope.exclude else _NO_SEQS

    def _allowed(
        self, scope: Scope, within: NDArray[np.int64] | None, exclude: NDArray[np.int64], deadline: Deadline
    ) -> tuple[NDArray[np.int64] | NDArray[np.bool_] | None, bool]:
        """Which of the version's keys may be found, as positions or as a mask `[N]` (`None`: all), and if any may."""
        positions = self.files.positions(scope, deadline)
        if within is not None:
            named = self.files.positions_of_seqs(within)
            positions = named if positions is None else np.intersect1d(named, positions, assume_unique=True)
        left_out = self.files.positions_of_seqs(exclude)
        if positions is not None:
            positions = positions[self._is_there[positions]] if len(self.removed) else positions
            positions = np.setdiff1d(positions, left_out, assume_unique=True) if len(left_out) else positions
            return positions, len(positions) > 0
        if not len(self.removed) and not len(left_out):
            return None, self.files.num_keys > 0
        mask_N = self._is_there
        if len(left_out):
            mask_N = mask_N.copy()
            mask_N[left_out] = False
        return mask_N, bool(mask_N.any())


def hits_of(rankings: Sequence[Ranking], transaction: ReadTransaction, with_vectors: bool = False) -> list[list[Hit]]:
    """What was found, with what the store says about it; `transaction` is of the same moment."""
    seqs = {seq for ranking in rankings for seq in ranking.found_K.tolist()}
    keys = transaction.records(seqs)
    vectors = transaction.vectors_of(seqs) if with_vectors else {}
    return [
        [
            Hit(keys[seq].key, score, rank, keys[seq].modality, keys[seq].payload, vectors.get(seq), words)
            for rank, (score, seq, words) in enumerate(
                zip(
                    np.clip(ranking.scores_K, -1.0, 1.0).tolist(),
                    ranking.found_K.tolist(),
                    ranking.words_scores(),
                    strict=True,
                ),
                start=1,
            )
        ]
        for ranking in rankings
    ]


def _merged(first: Found, second: Found, k: int) -> Found:
    """The best of both."""
    scores = np.concatenate([first[0], second[0]], axis=1)
    seqs = np.concatenate([first[1], second[1]], axis=1)
    return best(scores, seqs, k)


def info_of(
    view: View,
    transaction: ReadTransaction,
    fold_failure: FoldFailure | None,
    image_roots: Sequence[str],
    *,
    is_writable: bool,
) -> IndexInfo:
    """The facts of a view; `transaction` is of the same moment.

    Args:
        view: What the version and the changes since come to.
        transaction: The store.
        fold_failure: What this object's own writer says of making a version; `None` if it has none, or all is well.
        image_roots: Below which images are read that the index refers to.
        is_writable: Whether this object has the index's writer.
    """
    manifest, meta = view.files.manifest, transaction.meta()
    failure = fold_failure or FoldFailure.noted(meta)
    return IndexInfo(
        engine="faiss",
        encoder=manifest.encoder,
        num_keys=view.num_keys,
        modalities=transaction.count_by_modality(),
        pools=view.pool_sizes(),
        details={
            "version": manifest.version,
            "created_at": manifest.created_at,
            "seq": view.seq,
            "structure": None if manifest.structure is None else manifest.structure.model_dump(mode="json"),
            "vectors": meta["vector_type"],
            "num_folded": manifest.num_keys,
            "num_unfolded": view.num_unfolded,
            "num_damaged": len(view.recent.unsound),
            "fold_failure": None if failure is None else failure.model_dump(),
            "is_writable": is_writable,
            "image_roots": list(image_roots),
        },
    )
