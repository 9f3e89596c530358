"""An index as it was after one change, and what it finds there.

Shape legend: Q = queries, K = results of a query, D = width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.filtering.conditions import Path
from anykey.index.hits import Hit, SearchFacts, StoredKey
from anykey.index.key_index import EVERYTHING, Scope

if TYPE_CHECKING:  # which most searches do not need
    from anykey.index.filtering.facets import Facet, FacetCounts, FieldsPage
    from anykey.index.words.joining import Words


@dataclass(frozen=True)
class Ranking:
    """What a search found for one query, best first.

    Attributes:
        scores_K: Cosine similarities, higher is better.
        found_K: By what the moment that found them knows the keys; nobody else makes anything of it.
        words_K: How well they fit the words that were looked for, if any were; not a number for keys with none of them.
            They decide the order together with the scores, which are not numbers where there is no vector.
    """

    scores_K: NDArray[np.float32]
    found_K: NDArray[Any]
    words_K: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.scores_K)

    def words_scores(self) -> list[float | None]:
        """`words_K`, `None` for keys without any of the words."""
        if self.words_K is None:
            return [None] * len(self)
        return [None if np.isnan(score) else score for score in self.words_K.tolist()]

    def chosen(self, places: slice | NDArray[np.int64] | Sequence[int]) -> "Ranking":
        """Those at some places, from 0, in their order."""
        if not isinstance(places, slice):
            places = np.asarray(places, np.int64)
        words_K = None if self.words_K is None else self.words_K[places]
        return Ranking(self.scores_K[places], self.found_K[places], words_K)


@dataclass(frozen=True)
class MomentFacts:
    """What names a moment of an index; the fields are those of `Moment`."""

    version: str | None
    seq: int | None
    snapshot: str | None
    identity: str | None


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
    def identity(self) -> str | None:
        """What no other moment of any index has, in any process; `None` where moments cannot be told apart for sure."""
        ...

    @property
    def snapshot(self) -> str | None:
        """What names the moment to `KeyIndex.moment`; `None` where moments cannot be asked for again."""
        ...

    def explain(self) -> SearchFacts:
        """Notes from now on how searches are made, and gives the notes, which later searches add to."""
        ...

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
        """The `k` best keys of the scope for each query, as `KeyIndex.search`.

        Queries that `centred` has given need no modalities: `are_centred` says so.
        """
        ...

    def centred(self, vectors_QD: NDArray[np.float32], modalities: Sequence[Modality | None]) -> NDArray[np.float32]:
        """Unit vectors as keys are compared with them: centred by modality if the index is, else as they are.

        Raises:
            ModalityNeededError: the index is calibrated by modality, and nobody knows that of one of them.
        """
        ...

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """Looks a key up, as `KeyIndex.get`."""
        ...

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
        ...

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
        """The `k` best keys of the scope by their words, or by those and a vector together.

        Args:
            words: The words, and how their ranking is joined with the vector's.
            k: Most keys; with a vector, at most 1,000.
            scope: Which keys may be found; it is applied before anything is ranked.
            vector_D: The query's unit vector, if it has one.
            query_modality: What the query is, where it has a vector; see `KeyIndex.search`.
            is_centred: Whether `centred` has given the vector, so that nobody need know its modality.
            exact: Compares the vector with every key of the scope.

        Raises:
            WordsUnavailableError: the keys of this index cannot be found by their words.
            InvalidSearchError: as `KeyIndex.search` does.
        """
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

    def background(
        self,
        vectors_QD: NDArray[np.float32],
        most: int,
        scope: Scope = EVERYTHING,
        *,
        query_modalities: Sequence[Modality | None] | None = None,
        are_centred: bool = False,
    ) -> NDArray[np.float32]:
        """Scores `[Q, B]` of up to `most` keys of the scope, chosen whatever the queries are."""
        ...

    def has_field(self, path: Path) -> bool:
        """Whether any key has a value at a path of its metadata, or below it, as far as is known at little cost."""
        ...

    def count(self, scope: Scope = EVERYTHING) -> int:
        """Number of keys in the scope."""
        ...

    def facets(self, facets: "Sequence[Facet]", scope: Scope = EVERYTHING) -> "list[FacetCounts]":
        """How many keys of the scope have each value of some fields, or one within bounds, in the order asked.

        Raises:
            FacetsUnavailableError: the values of this index cannot be counted.
        """
        ...

    def fields(self, after: Path | None = None, limit: int = 100, scope: Scope = EVERYTHING) -> "FieldsPage":
        """What fields the keys of the scope have, and what values these have.

        Args:
            after: The field to go on after; at the beginning when absent.
            limit: Most fields.
            scope: Which keys.

        Raises:
            FacetsUnavailableError: the values of this index cannot be counted.
            InvalidSearchError: `limit` is below 1, or there is no such pool or modality.
        """
        ...

    def keep(self, *, is_asked_for: bool = False) -> None:
        """Keeps the moment for a while, so that `snapshot` can be asked for again; does what it can.

        Args:
            is_asked_for: Whether somebody said that they would ask: such moments are kept before others.
        """
        ...
