"""A collection of Milvus as it is while it is asked: Milvus keeps no earlier moments.

Shape legend: Q = queries, K = results of a query, D = width.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.errors import FacetsUnavailableError, WordsUnavailableError
from anykey.index.filtering.conditions import Exists, Path
from anykey.index.hits import Hit, SearchFacts, StoredKey
from anykey.index.key_index import EVERYTHING, Ranking, Scope
from anykey.index.milvus.collection import Collection
from anykey.index.milvus.expressions import listed
from anykey.index.milvus.records import STORED_FIELDS, stored_key_of
from anykey.index.milvus.scope import expression_of_scope
from anykey.index.milvus.search import Scored, count, hits_of, search
from anykey.index.queries import check_k, check_queries

if TYPE_CHECKING:  # which it refuses
    from anykey.index.filtering.facets import Facet, FacetCounts, FieldsPage
    from anykey.index.words.joining import Words

_NO_FACETS = "an index in Milvus does not count the values of its metadata (facets, fields); an index directory does"


class MilvusMoment:
    """A `Moment` of a `MilvusIndex`: what is asked of it one after another may differ by changes made in between.

    Attributes:
        version: `None`: a collection has no versions.
        seq: `None`: its changes are not counted.
        snapshot: `None`: it cannot be asked for again.
        identity: `None`: it cannot be told from others.
    """

    version: str | None = None
    seq: int | None = None
    snapshot: str | None = None
    identity: str | None = None

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._facts: SearchFacts | None = None

    def explain(self) -> SearchFacts:
        """Notes from now on how searches are made, as far as Milvus says it, and gives the notes."""
        self._facts = self._facts or SearchFacts(self._collection.facts.structure.kind)
        return self._facts

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        are_centred: bool = False,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """The `k` best keys of the scope for each query, as `MilvusIndex.search`."""
        return [hits_of(scored) for scored in self._found(vectors_QD, k, scope, exact, with_vectors)]

    def rank(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        are_centred: bool = False,
    ) -> list[Ranking]:
        """What `search` finds; Milvus gives what the keys carry with it."""
        return [_ranking(scored) for scored in self._found(vectors_QD, k, scope, exact)]

    def rank_words(
        self,
        words: "Words",
        k: int,
        scope: Scope = EVERYTHING,
        *,
        vector_D: NDArray[np.float32] | None = None,
        query_modality: Modality | None = None,
        is_centred: bool = False,
        exact: bool = False,
    ) -> Ranking:
        """Refuses: a collection has no words; raises `WordsUnavailableError`."""
        raise WordsUnavailableError("an index in Milvus has no words to find keys by; an index directory has")

    def centred(self, vectors_QD: NDArray[np.float32], modalities: Sequence[Modality | None]) -> NDArray[np.float32]:
        """The vectors: no collection is calibrated."""
        return vectors_QD

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """Looks a key up; raises `KeyNotFoundError`."""
        fields = (*STORED_FIELDS, "vector") if with_vector else STORED_FIELDS
        return stored_key_of(self._collection.record(key, fields))

    def is_exact(self, exact: bool) -> bool:
        """Whether a search compares with every key."""
        return exact or self._collection.facts.structure.kind == "FLAT"

    def hits(self, ranking: Ranking, *, with_vectors: bool = False) -> list[Hit]:
        """What has been found, ranks from 1; with the keys' vectors, as their encoder made them, if asked for."""
        records = list(ranking.found_K)
        if with_vectors:
            vectors = self._vectors(ranking)
            records = [
                {**record, "vector": vectors[record["key"]]} if record["key"] in vectors else record
                for record in records
            ]
        return hits_of(list(zip(ranking.scores_K.tolist(), records, strict=True)))

    def vectors(self, ranking: Ranking) -> NDArray[np.float32]:
        """Unit vectors `[K, D]` of what has been found; zeros for a key that has gone meanwhile."""
        vectors, gone_D = self._vectors(ranking), np.zeros(self._collection.facts.encoder.width, np.float32)
        vectors_KD = np.array([vectors.get(record["key"], gone_D) for record in ranking.found_K], np.float32)
        vectors_KD = vectors_KD.reshape(-1, len(gone_D))
        norms_K1 = np.linalg.norm(vectors_KD, axis=1, keepdims=True)
        return np.asarray(vectors_KD / np.maximum(norms_K1, np.finfo(np.float32).tiny))

    def background(
        self,
        vectors_QD: NDArray[np.float32],
        most: int,
        scope: Scope = EVERYTHING,
        *,
        query_modalities: Sequence[Modality | None] | None = None,
        are_centred: bool = False,
    ) -> NDArray[np.float32]:
        """Scores `[Q, B]` of up to `most` keys of the scope: those that Milvus names first."""
        queries_QD = check_queries(vectors_QD, self._collection.facts.encoder.width)
        where = expression_of_scope(scope, self._collection)
        records = [] if where is None else self._collection.records(where, ["key", "vector"], most)
        vectors_BD = np.array([record["vector"] for record in records], np.float32).reshape(-1, queries_QD.shape[1])
        return np.asarray(queries_QD @ vectors_BD.T)

    def has_field(self, path: Path) -> bool:
        """Whether any key has a value at a path of its metadata, or below it."""
        return self.count(Scope(condition=Exists(path))) > 0

    def count(self, scope: Scope = EVERYTHING) -> int:
        """Number of keys in the scope."""
        return count(self._collection, scope)

    def facets(self, facets: "Sequence[Facet]", scope: Scope = EVERYTHING) -> "list[FacetCounts]":
        """Refuses: Milvus would have to send all metadata; raises `FacetsUnavailableError`."""
        raise FacetsUnavailableError(_NO_FACETS)

    def fields(self, after: Path | None = None, limit: int = 100, scope: Scope = EVERYTHING) -> "FieldsPage":
        """Refuses, as `facets` does."""
        raise FacetsUnavailableError(_NO_FACETS)

    def keep(self, *, is_asked_for: bool = False) -> None:
        """Does nothing: Milvus keeps no moments."""

    def _vectors(self, ranking: Ranking) -> dict[str, Any]:
        """The stored vectors of those keys that are still there."""
        names = [record["key"] for record in ranking.found_K]
        step = self._collection.limits.page_records
        return {
            record["key"]: record["vector"]
            for start in range(0, len(names), step)
            for record in self._collection.records(listed("key", names[start : start + step]), ["key", "vector"])
        }

    def _found(
        self, vectors_QD: NDArray[np.float32], k: int, scope: Scope, exact: bool, with_vectors: bool = False
    ) -> list[Scored]:
        queries_QD = check_queries(vectors_QD, self._collection.facts.encoder.width)
        began_s = time.monotonic()
        found = search(self._collection, queries_QD, check_k(k), scope, exact, with_vectors)
        if (facts := self._facts) is not None:
            facts.compare_s += time.monotonic() - began_s
            facts.is_exact = self.is_exact(exact)
            facts.num_searches += 1
            facts.num_keys = self._collection.count("")
            facts.num_in_scope = count(self._collection, scope)
            facts.compared(len(queries_QD) * facts.num_in_scope if facts.is_exact else None)
            facts.is_scope_looked_up = scope != EVERYTHING
        return found


def _ranking(scored: Scored) -> Ranking:
    records_K = np.empty(len(scored), object)
    records_K[:] = [record for _, record in scored]
    return Ranking(np.array([score for score, _ in scored], np.float32), records_K)
