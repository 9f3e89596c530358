"""The slow, obvious twin of every engine of an index: a dictionary, and all scores in float64.

Shape legend: Q = queries, D = width, N = keys in the scope.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.changes import Change, Status
from anykey.index.errors import InvalidKeyError, InvalidSearchError, KeyNotFoundError, UnknownPoolError
from anykey.index.filtering.conditions import matches
from anykey.index.hits import Hit, Payload, StoredImage, StoredKey
from anykey.index.key_index import EVERYTHING, IndexInfo, NewKey, Scope
from anykey.index.store.manifest import EncoderFacts
from tests.changed_keys import ChangedKeys

MAX_NORM_ERROR = 1e-3


class ExactModel:
    """A `KeyIndex` that answers by looking at everything; forgets all when the process ends.

    Attributes:
        encoder: The encoder that made the vectors.
        keys: What is stored, by name.
    """

    def __init__(self, encoder: EncoderFacts) -> None:
        self.encoder = encoder
        self.keys: dict[str, NewKey] = {}
        self.version = None

    def check(self) -> None:
        """Can always answer."""

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality] | None = None,
    ) -> list[list[Hit]]:
        """Scores every key of the scope and sorts; equal scores in the order of the names."""
        queries_QD = np.asarray(vectors_QD)
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.encoder.width or k < 1:
            raise InvalidSearchError("k or the width is wrong")
        if not (np.abs(np.linalg.norm(queries_QD, axis=1) - 1) <= MAX_NORM_ERROR).all():
            raise InvalidSearchError("a query is no unit vector")
        chosen = self._chosen(scope)
        return [self._ranked(query_D, chosen)[:k] for query_D in queries_QD.astype(np.float64)]

    def upsert(self, keys: Sequence[NewKey]) -> None:
        """Checks all, then stores all."""
        for new in keys:
            if not new.key.strip() or (new.text is None and not new.images):
                raise InvalidKeyError(f"key {new.key!r} cannot be stored")
            if new.vector_D.shape != (self.encoder.width,):
                raise InvalidKeyError(f"key {new.key!r} cannot be stored")
        self.keys.update({new.key: new for new in keys})

    def delete(self, keys: Collection[str]) -> int:
        """Drops what is there."""
        return sum(self.keys.pop(key, None) is not None for key in set(keys))

    def apply(self, changes: Sequence[Change]) -> list[Status]:
        """Makes changes of single keys; tells what became of each."""
        after = ChangedKeys(self.keys, dict.fromkeys(self.keys, 1), 1)
        after.apply(changes)
        self.keys = after.keys
        return after.statuses

    def delete_scope(self, scope: Scope, *, dry_run: bool = False) -> int:
        """Drops what the scope lets through; gives the number."""
        chosen = self._chosen(scope)
        return len(chosen) if dry_run else self.delete([new.key for new in chosen])

    def page(self, after: str | None, limit: int, scope: Scope) -> list[StoredKey]:
        """The first of the scope behind a name, sorted."""
        names = sorted(new.key for new in self._chosen(scope) if after is None or new.key > after)
        return [_stored(self.keys[name]) for name in names[:limit]]

    def get(self, key: str) -> StoredKey:
        """Looks a key up."""
        return _stored(self._find(key))

    def vector(self, key: str) -> NDArray[np.float32]:
        """The vector as it came."""
        return self._find(key).vector_D

    def image(self, key: str, position: int = 0) -> StoredImage:
        """The image as it came."""
        images = self._find(key).images
        if not 0 <= position < len(images):
            raise KeyNotFoundError(f"no image {position}")
        return images[position]

    def scan(self, after: str | None = None) -> Iterator[StoredKey]:
        """Everything behind a name, sorted."""
        yield from (_stored(self.keys[key]) for key in sorted(self.keys) if after is None or key > after)

    def count(self, scope: Scope = EVERYTHING) -> int:
        """How many keys the scope lets through."""
        return len(self._chosen(scope))

    def info(self) -> IndexInfo:
        """Counts everything."""
        modalities = Counter(new.modality for new in self.keys.values())
        pools = Counter(pool for new in self.keys.values() for pool in set(new.pools))
        counts = {modality: modalities[modality] for modality in Modality}
        return IndexInfo("model", self.encoder, len(self.keys), counts, dict(sorted(pools.items())), {})

    def close(self) -> None:
        """Nothing to release."""

    def _chosen(self, scope: Scope) -> list[NewKey]:
        known = {pool for new in self.keys.values() for pool in new.pools}
        if scope.pool is not None and scope.pool not in known:
            raise UnknownPoolError(scope.pool, known)
        return [new for new in self.keys.values() if _is_in(new, scope)]

    def _ranked(self, query_D: NDArray[np.float64], chosen: list[NewKey]) -> list[Hit]:
        scored = [(float(new.vector_D.astype(np.float64) @ query_D), new) for new in chosen]
        scored.sort(key=lambda each: (-each[0], each[1].key))
        return [Hit(new.key, score, rank, new.modality, _payload(new)) for rank, (score, new) in enumerate(scored, 1)]

    def _find(self, key: str) -> NewKey:
        if key not in self.keys:
            raise KeyNotFoundError(f"no key {key!r}")
        return self.keys[key]


def _is_in(new: NewKey, scope: Scope) -> bool:
    return (
        (scope.modalities is None or new.modality in scope.modalities)
        and (scope.pool is None or scope.pool in new.pools)
        and (scope.condition is None or matches(scope.condition, new.metadata))
        and (scope.within is None or new.key in scope.within)
        and new.key not in scope.exclude
    )


def _payload(new: NewKey) -> Payload:
    return Payload(new.text, new.metadata, len(new.images))


def _stored(new: NewKey) -> StoredKey:
    return StoredKey(new.key, new.modality, _payload(new), tuple(sorted(set(new.pools))))
