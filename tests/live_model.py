"""What an index that is changed live should hold: a dictionary, searched by comparing everything with everything.

Shape legend: Q = queries, D = width.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Item
from anykey.index import FaissIndex, Hit, Payload, StoredKey
from anykey.index.changes import Change, Put, Status
from anykey.index.errors import InvalidSearchError
from anykey.index.key_index import EVERYTHING, NewKey, Scope
from anykey.index.store.manifest import EncoderFacts
from anykey.index.words.joining import Words
from tests.changed_keys import ChangedKeys
from tests.fakes import FakeEncoder
from tests.rankings import assert_same_ranking
from tests.serving import is_in_scope
from tests.word_model import WordModel

TOLERANCE = 1e-5
FAKE = FakeEncoder()
FAKE_FACTS = EncoderFacts(name=FAKE.name, fingerprint=FAKE.fingerprint, width=FAKE.width, fusion=FAKE.fusion)


@dataclass(frozen=True)
class Entry:
    """One key as it should be stored, and whether a build stored it."""

    new: NewKey
    is_built: bool = False

    @property
    def stored(self) -> StoredKey:
        """As a look-up should give it."""
        payload = Payload(self.new.text, self.new.metadata, len(self.new.images))
        return StoredKey(self.new.key, self.new.modality, payload, tuple(sorted(set(self.new.pools))))


class Model:
    """The slow, obvious twin of an index.

    Attributes:
        entries: What is stored, by key.
        deleted: Keys that were deleted live and have not been stored since, nor left out by a corpus.
    """

    def __init__(self, vector_type: str = "float32") -> None:
        self.entries: dict[str, Entry] = {}
        self.deleted: set[str] = set()
        self._dtype = np.dtype(vector_type)

    def upsert(self, keys: Iterable[NewKey]) -> None:
        """Stores keys live."""
        for new in keys:
            self.entries[new.key] = Entry(new)
            self.deleted.discard(new.key)

    def delete(self, keys: Collection[str]) -> int:
        """Deletes keys; gives the number that were there."""
        found = [key for key in dict.fromkeys(keys) if self.entries.pop(key, None) is not None]
        self.deleted.update(found)
        return len(found)

    def apply(self, changes: Sequence[Change], seqs: Mapping[str, int], last_seq: int, *, atomic: bool) -> ChangedKeys:
        """Makes changes of single keys; gives what is known afterwards.

        Args:
            changes: The changes.
            seqs: Which change stored each key.
            last_seq: The number of the last change.
            atomic: Whether all are made or none.
        """
        after = ChangedKeys({key: entry.new for key, entry in self.entries.items()}, seqs, last_seq)
        after.apply(changes, atomic=atomic)
        built = {key for key, entry in self.entries.items() if entry.is_built}
        for change, status in zip(changes, after.statuses, strict=True):
            if status is Status.DELETED:
                self.deleted.add(change.key)
            if status is Status.DELETED or (status is Status.STORED and isinstance(change, Put)):
                built.discard(change.key)
            if status is Status.STORED:
                self.deleted.discard(change.key)
        self.entries = {key: Entry(new, key in built) for key, new in after.keys.items()}
        return after

    def in_scope(self, scope: Scope) -> list[str]:
        """Names of the keys in a scope, sorted."""
        return sorted(key for key, entry in self.entries.items() if is_in_scope(entry.stored, scope))

    def build(self, texts: dict[str, str]) -> None:
        """Does what a build from a corpus of texts does."""
        for key in [key for key, entry in self.entries.items() if entry.is_built and key not in texts]:
            del self.entries[key]
        self.deleted &= texts.keys()
        for key, text in texts.items():
            if key in self.deleted:
                continue
            if key in self.entries and self.entries[key].is_built and self.entries[key].new.text == text:
                continue  # and what was patched of it stays
            self.entries[key] = Entry(NewKey(key, FAKE.encode([Item(text)])[0], text), is_built=True)

    def search(self, query_D: NDArray[np.float32], k: int, scope: Scope = EVERYTHING) -> list[tuple[str, float]]:
        """The `k` best keys of the scope with their scores."""
        found = [key for key, entry in self.entries.items() if is_in_scope(entry.stored, scope)]
        scores = self.scores(query_D)
        return [(key, scores[key]) for key in sorted(found, key=lambda key: -scores[key])[:k]]

    def scores(self, query_D: NDArray[np.float32]) -> dict[str, float]:
        """The score of each key, in double precision."""
        wide_D = query_D.astype(np.float64)
        return {key: float(self.vector(key).astype(np.float64) @ wide_D) for key in self.entries}

    def vector(self, key: str) -> NDArray[np.float32]:
        """A key's vector as it should be stored."""
        return self.entries[key].new.vector_D.astype(self._dtype).astype(np.float32)

    def check_search(
        self, index: FaissIndex, queries_QD: NDArray[np.float32], k: int, scope: Scope, exact: bool = True
    ) -> None:
        """Compares what a search gives with what it should give."""
        pools = {pool for entry in self.entries.values() for pool in entry.new.pools}
        try:
            results = index.search(queries_QD, k, scope, exact=exact)
        except InvalidSearchError:
            assert scope.pool is not None
            assert scope.pool not in pools
            return
        assert len(results) == len(queries_QD)
        for hits, query_D in zip(results, queries_QD, strict=True):
            self.check_hits(hits, query_D, k, scope)
        assert index.count(scope) == len(self.search(queries_QD[0], len(self.entries), scope))

    def check_hits(self, hits: Sequence[Hit], query_D: NDArray[np.float32], k: int, scope: Scope = EVERYTHING) -> None:
        """Compares the hits of one query with what they should be."""
        assert_same_ranking(hits, self.search(query_D, k, scope), self.scores(query_D), TOLERANCE)
        for hit in hits:
            stored = self.entries[hit.key].stored
            assert (hit.modality, hit.payload) == (stored.modality, stored.payload)
            assert is_in_scope(stored, scope)

    def check_words(self, index: FaissIndex, asked: str, scope: Scope = EVERYTHING) -> None:
        """Compares what words find with what they should find."""
        scores = WordModel(entry.stored for entry in self.entries.values()).scores(asked)
        expected = {key: score for key, score in scores.items() if is_in_scope(self.entries[key].stored, scope)}
        with index.moment() as moment:
            hits = moment.hits(moment.rank_words(Words(((asked, 1.0),)), len(self.entries) + 1, scope))
        assert {hit.key: hit.words_score for hit in hits} == pytest.approx(expected, rel=1e-9)

    def check_all(self, index: FaissIndex) -> None:
        """Compares all that an index holds with what it should hold, and how many it says there are."""
        for asked in ("two three", '"three two" a*', "b"):
            self.check_words(index, asked)
        names = sorted(self.entries)
        assert [stored.key for stored in index.scan()] == names
        for key, entry in self.entries.items():
            assert index.get(key) == entry.stored
            assert index.vector(key).tolist() == self.vector(key).tolist()
            assert tuple(index.image(key, at) for at in range(len(entry.new.images))) == entry.new.images
        info = index.info()
        assert (info.num_keys, index.count()) == (len(names), len(names))
        modalities = [entry.new.modality for entry in self.entries.values()]
        assert info.modalities == {modality: modalities.count(modality) for modality in info.modalities}
        assert sum(info.pools.values()) == sum(len(set(entry.new.pools)) for entry in self.entries.values())
        query_1D = np.full((1, FAKE.width), FAKE.width**-0.5, np.float32)
        (hits,) = index.search(query_1D, len(names) + 1, exact=True)
        self.check_hits(hits, query_1D[0], len(names) + 1)
