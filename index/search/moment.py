"""One moment of an index directory: a version, what came since, and the store.

Shape legend: Q = queries, K = results of a query, D = width.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import NEVER, Deadline
from anykey.index.filtering.conditions import Path
from anykey.index.hits import Hit, SearchFacts, StoredKey
from anykey.index.key_index import EVERYTHING, MomentFacts, Ranking, Scope
from anykey.index.queries import check_k, check_limit, check_queries
from anykey.index.search.generation import Generation
from anykey.index.search.kept_moments import KeptMoments
from anykey.index.search.view import View, hits_of
from anykey.index.store.store_reader import ReadTransaction

if TYPE_CHECKING:  # which most searches do not need
    from anykey.index.filtering.facets import Facet, FacetCounts, FieldsPage
    from anykey.index.words.joining import Words


def facts_of(generation: Generation, view: View, kept: KeptMoments) -> MomentFacts:
    """What names the moment of a view."""
    snapshot = kept.token(generation, view) if kept.is_on else None
    identity = None if generation.identity is None else f"{generation.identity} {view.seq}"
    return MomentFacts(view.files.manifest.version, view.seq, snapshot, identity)


class FaissMoment:
    """A `Moment` of a `FaissIndex`.

    Attributes:
        generation: The version and its store.
        view: What is searched.
        transaction: The store at the same moment.
        version: Name of the version.
        seq: Number of the last change.
        snapshot: What names the moment.
        identity: What no other moment of any index has.
    """

    def __init__(
        self,
        generation: Generation,
        view: View,
        transaction: ReadTransaction,
        kept: KeptMoments,
        deadline: Deadline = NEVER,
    ) -> None:
        self.view = view
        self.transaction = transaction
        self.version: str = view.files.manifest.version
        self.seq: int = view.seq
        facts = facts_of(generation, view, kept)
        self.snapshot, self.identity = facts.snapshot, facts.identity
        self.generation = generation
        self._kept = kept
        self._deadline = deadline
        self._facts: SearchFacts | None = None

    def explain(self) -> SearchFacts:
        """Notes from now on how searches are made, and gives the notes."""
        self._facts = self._facts or SearchFacts()
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
        """The `k` best keys of the scope for each query, as `FaissIndex.search`."""
        rankings = self.rank(
            vectors_QD, k, scope, exact=exact, query_modalities=query_modalities, are_centred=are_centred
        )
        return self._read(rankings, with_vectors)

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
        """What `search` finds, without what the keys carry."""
        queries_QD = self._compared(vectors_QD, query_modalities, are_centred)
        k = check_k(k)
        self.view.check(scope)
        if not len(queries_QD):
            return []
        found = self.view.search(queries_QD, k, scope, self.transaction, exact, self._deadline, self._facts)
        return [Ranking(scores_K[seqs_K >= 0], seqs_K[seqs_K >= 0]) for scores_K, seqs_K in zip(*found, strict=True)]

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
        """The `k` best keys of the scope by their words, or by those and a vector together."""
        from anykey.index.search.worded import WordSearch

        query_1D = None
        if vector_D is not None:
            query_1D = self._compared(vector_D[None], [query_modality], is_centred)
        self.view.check(scope)
        search = WordSearch(self.view, self.transaction, scope, exact, self._deadline, self._facts)
        return search.rank(words, query_1D, check_k(k))

    def centred(self, vectors_QD: NDArray[np.float32], modalities: Sequence[Modality | None]) -> NDArray[np.float32]:
        """Unit vectors as keys are compared with them: centred by modality if the index is, else as they are."""
        return self.view.calibrated(vectors_QD, modalities)

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """Looks a key up; raises `KeyNotFoundError`."""
        stored = self.transaction.get(key)
        return replace(stored, vector_D=self.transaction.vector(key)) if with_vector else stored

    def is_exact(self, exact: bool) -> bool:
        """Whether a search compares with every key."""
        return exact or self.view.files.is_exact

    def hits(self, ranking: Ranking, *, with_vectors: bool = False) -> list[Hit]:
        """What has been found, ranks from 1; with the keys' vectors, as their encoder made them, if asked for."""
        return self._read([ranking], with_vectors)[0]

    def vectors(self, ranking: Ranking) -> NDArray[np.float32]:
        """Unit vectors `[K, D]` of what has been found, as queries are compared with them."""
        return self.view.vectors(ranking.found_K)

    def background(
        self,
        vectors_QD: NDArray[np.float32],
        most: int,
        scope: Scope = EVERYTHING,
        *,
        query_modalities: Sequence[Modality | None] | None = None,
        are_centred: bool = False,
    ) -> NDArray[np.float32]:
        """Scores `[Q, B]` of up to `most` keys of the scope, spread evenly over the order in which they came."""
        queries_QD = self._compared(vectors_QD, query_modalities, are_centred)
        seqs_B, _ = self.view.spread(most, scope, self.transaction, self._deadline)
        return np.asarray(queries_QD @ self.view.vectors(seqs_B).T)

    def has_field(self, path: Path) -> bool:
        """Whether any key has a value at a path of its metadata, or below it."""
        return self.view.has_field(path, self._deadline)

    def count(self, scope: Scope = EVERYTHING) -> int:
        """Number of keys in the scope."""
        self.view.check(scope)
        return self.view.count(scope, self.transaction, self._deadline)

    def facets(self, facets: Sequence["Facet"], scope: Scope = EVERYTHING) -> "list[FacetCounts]":
        """How many keys of the scope have each value of some fields, or one within bounds, in the order asked."""
        from anykey.index.search.counting import Counting

        began_s = time.monotonic()
        self.view.check(scope)
        counts = Counting(self.view, self.transaction, scope, self._deadline).facets(facets)
        if self._facts is not None:
            self._facts.facets_s += time.monotonic() - began_s
        return counts

    def fields(self, after: Path | None = None, limit: int = 100, scope: Scope = EVERYTHING) -> "FieldsPage":
        """What fields the keys of the scope have, those after one, and what values these have."""
        from anykey.index.search.counting import Counting

        self.view.check(scope)
        return Counting(self.view, self.transaction, scope, self._deadline).fields(after, check_limit(limit))

    def keep(self, *, is_asked_for: bool = False) -> None:
        """Keeps the moment for a while, as `Keeping` says."""
        self._kept.keep(self.generation, self.view, self.transaction, is_asked_for=is_asked_for)

    def _read(self, rankings: Sequence[Ranking], with_vectors: bool) -> list[list[Hit]]:
        began_s = time.monotonic()
        hits = hits_of(rankings, self.transaction, with_vectors)
        if self._facts is not None:
            self._facts.payload_s += time.monotonic() - began_s
        return hits

    def _compared(
        self, vectors_QD: NDArray[np.float32], modalities: Sequence[Modality | None] | None, are_centred: bool
    ) -> NDArray[np.float32]:
        """Queries as keys are compared with them; of those that were centred, one may be zero: it equals the mean."""
        if are_centred:
            return np.ascontiguousarray(vectors_QD, dtype=np.float32)
        queries_QD = check_queries(vectors_QD, self.view.files.manifest.encoder.width)
        return self.view.calibrated(queries_QD, modalities) if len(queries_QD) else queries_QD


class MomentAtHand:
    """Tells the moment of now as long as nothing came since somebody looked at one; for one thread at a time.

    A moment that is told is kept for as long as a search of it would keep it.
    """

    def __init__(self, published: Callable[[], Generation | None], kept: KeptMoments) -> None:
        """Joins the parts.

        Args:
            published: The generation that is open, if no other version has been published since.
            kept: The moments that are kept.
        """
        self._published = published
        self._kept = kept

    def __call__(self) -> MomentFacts | None:
        """What names it; `None` where it has to be looked at, which takes in what came, or waits for somebody."""
        generation = self._published()
        if generation is None or not generation.acquire():
            return None
        try:
            view = generation.view_at_hand()
            if view is None:
                return None
            facts = facts_of(generation, view, self._kept)
            is_kept = facts.snapshot is None or self._kept.prolong(facts.snapshot, generation.reader.path)
            return facts if is_kept else None
        finally:
            generation.release()
