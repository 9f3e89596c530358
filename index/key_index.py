"""What every engine of an index can do: protocols, so that an application does not see which engine answers.

Shape legend: Q = queries, K = results of a query, D = width.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import InvalidKeyError, InvalidSearchError
from anykey.index.filtering.conditions import Condition, Path
from anykey.index.hits import FoundImage, Hit, SearchFacts, StoredImage, StoredKey
from anykey.index.queries import require_names
from anykey.index.store.manifest import EncoderFacts

if TYPE_CHECKING:  # changes are made of keys, and most searches need neither facets nor words
    from anykey.index.changes import Applied, Capabilities, Change, RequestKey
    from anykey.index.filtering.facets import Facet, FacetCounts, FieldsPage
    from anykey.index.words.joining import Words


@dataclass(frozen=True)
class NewKey:
    """One key to be stored in place of whatever has its name.

    Attributes:
        key: Its name.
        vector_D: Its unit vector, from the index's encoder.
        text: Its text, or `None`.
        images: Its images, as they came.
        metadata: A JSON object; what filters look at.
        pools: Names of the pools it is in.
        bare: What the vector is of, for a key with neither text nor image; `None`: it must have one of them.
    """

    key: str
    vector_D: NDArray[np.float32]
    text: str | None = None
    images: tuple[StoredImage, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    bare: Modality | None = None

    def __post_init__(self) -> None:
        try:
            require_names(self.pools, "its pools")
            _require_images(self.images)
            if self.bare is not None and (self.text is not None or self.images):
                raise TypeError("what it is, is known by its text and images; expected no bare modality")
        except TypeError as error:
            raise InvalidKeyError(f"key {self.key!r} cannot be stored: {error}") from error

    @property
    def modality(self) -> Modality:
        """Which of the three kinds the key is."""
        if self.bare is not None:
            return self.bare
        if not self.images:
            return Modality.TEXT
        return Modality.IMAGE if self.text is None else Modality.FUSED


def _require_images(images: Any) -> None:
    if not isinstance(images, tuple | list) or not all(isinstance(image, StoredImage) for image in images):
        raise TypeError("expected its images to be a tuple of StoredImage")
    if not all(isinstance(image.data, bytes) for image in images):
        raise TypeError("expected the data of its images to be bytes")


@dataclass(frozen=True)
class Scope:
    """Which keys a search or a count looks at; each part narrows it, none of them: all keys.

    Attributes:
        modalities: Modalities a key may have.
        pool: Named subset of the corpus.
        condition: What must hold of a key's metadata.
        within: The keys looked at; unknown ones are ignored.
        exclude: Keys left out; unknown ones are ignored.
    """

    modalities: Collection[Modality] | None = None
    pool: str | None = None
    condition: Condition | None = None
    within: Collection[str] | None = None
    exclude: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        try:
            for what in ("modalities", "within", "exclude"):
                if (names := getattr(self, what)) is not None:
                    require_names(names, what)
        except TypeError as error:
            raise InvalidSearchError(str(error)) from error
        if not isinstance(self.pool, str | None):
            raise InvalidSearchError(f"expected the name of a pool, got {self.pool!a}")
        if self.condition is not None and not isinstance(self.condition, Condition):
            raise InvalidSearchError(
                f"expected a condition, such as parse_condition makes of JSON, got {type(self.condition).__name__}"
            )


EVERYTHING = Scope()


@dataclass(frozen=True)
class IndexInfo:
    """What an index is at this moment.

    Attributes:
        engine: `faiss` or `milvus`.
        encoder: The encoder that made the vectors.
        num_keys: Number of keys.
        modalities: Number of keys per modality; all three are listed.
        pools: Number of keys per named pool.
        details: What is particular to the engine; JSON.
    """

    engine: str
    encoder: EncoderFacts
    num_keys: int
    modalities: dict[Modality, int]
    pools: dict[str, int]
    details: dict[str, Any]


class Place(StrEnum):
    """Where something is."""

    MAPPED = "mapped"  # in a file, of which the system keeps in memory what is used, as far as there is room
    MEMORY = "memory"  # in this process's memory
    GPU = "gpu"  # in the memory of GPUs
    DISK = "disk"  # in a file that is read piece by piece


@dataclass(frozen=True)
class Held:
    """One thing that an open index holds.

    Attributes:
        name: `vectors`, `structure` (of the search), `gpu_structure`, `positions` (which key is where in the files),
            `fields` (what filters look at), `store` (keys, payload and what words are found by, with its log), or
            `recent` (keys that no version covers yet).
        num_bytes: How much it is; about, for `gpu_structure` and `recent`.
        place: Where it is.
    """

    name: str
    num_bytes: int
    place: Place


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


class KeyIndex(Protocol):
    """Keys that can be searched by vector, changed and looked up; safe to call from several threads.

    A change that was acknowledged (its call returned) is in every later answer of the same object, and survives
    the end of the process, however it ends.
    """

    @property
    def encoder(self) -> EncoderFacts:
        """The encoder that made the vectors."""
        ...

    @property
    def version(self) -> str | None:
        """Name of the published version that answers; `None` where the engine has no versions."""
        ...

    def check(self) -> None:
        """Makes sure, at little cost, that the index can answer at this moment.

        Raises:
            IndexUnavailableError: the server that holds the index does not answer, or not for this index.
            IndexCorruptError: a file of the index is missing or damaged.
            OSError: a file of the index cannot be read.
        """
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
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """Finds the `k` best keys of the scope for each query.

        Args:
            vectors_QD: Unit vectors of the queries.
            k: Most hits per query. `k` hits come back whenever the scope has `k` keys.
            scope: Which keys may be hits.
            exact: Compares the queries with every key of the scope.
            query_modalities: What each query is, `None` where nobody knows; an index that is calibrated by modality
                needs it.
            with_vectors: Whether each hit comes with its key's vector, of the same moment.
            deadline: Until when the answer is wanted; then the search is stopped.

        Returns:
            Per query, hits best first.

        Raises:
            InvalidSearchError: `k` is below 1, the vectors have another width or are no unit vectors, or there is
                no such modality.
            UnknownPoolError: there is no such pool.
            DeadlineExceededError: the answer is no longer wanted.
        """
        ...

    def moment(self, snapshot: str | None = None, *, deadline: Deadline = NEVER) -> AbstractContextManager[Moment]:
        """The index at one moment, for the length of a block, in the thread that asks.

        Args:
            snapshot: Names an earlier moment: that of `Moment.snapshot`; now when absent.
            deadline: Until when the answers are wanted.

        Raises:
            SnapshotExpiredError: that moment is not kept, or no longer.
            SnapshotRefusedError: it can be no snapshot, or the engine has none.
        """
        ...

    def moment_at_hand(self) -> MomentFacts | None:
        """What names the moment of now, where that is told without waiting or work; for one thread at a time.

        It is kept for as long as a search of it would keep it. `None` where `moment` has to be asked.
        """
        ...

    def upsert(self, keys: Sequence[NewKey]) -> None:
        """Stores keys in place of those of the same names, all or nothing.

        Raises:
            InvalidKeyError: a key cannot be stored; says which and why. Nothing was changed.
        """
        ...

    def delete(self, keys: Collection[str]) -> int:
        """Deletes keys, all or nothing; gives the number that were there.

        Raises:
            TypeError: `keys` is no collection, or one string.
        """
        ...

    @property
    def capabilities(self) -> "Capabilities":
        """What the engine promises of changes."""
        ...

    def make_writable(self, wanted: bool) -> bool:
        """Becomes the index's writer, where an engine has one at a time, or gives that up.

        Returns:
            Whether keys may be changed from now on: a writer that is in the middle of something stays one.

        Raises:
            IndexLockedError: another writer is at work; says who.
            EncoderMismatchError: the index is now another encoder's.
        """
        ...

    def apply(
        self, changes: "Sequence[Change]", *, atomic: bool = False, request: "RequestKey | None" = None
    ) -> "Applied":
        """Makes changes of single keys in their order; a later one sees what an earlier one did.

        A change that cannot be made is told in its outcome, and keeps no other from being made.

        Args:
            changes: The changes.
            atomic: Whether none is made if one of them cannot be. To delete a key that is not there is no such case.
            request: By what the request for them is known. Repeated within a day, it is answered again and not done
                twice, unless more than 100,000 other requests came between.

        Raises:
            RequestMismatchError: another request was made under that name. Nothing was changed.
            UnsupportedError: the engine cannot promise what is asked for. Nothing was changed.
        """
        ...

    def delete_scope(
        self,
        scope: Scope,
        *,
        dry_run: bool = False,
        request: "RequestKey | None" = None,
        deadline: Deadline = NEVER,
        pause: "Callable[[Applied], None] | None" = None,
    ) -> "Applied":
        """Deletes the keys that are in a scope; none that comes into it later.

        Args:
            scope: Which keys.
            dry_run: Only tells how many there are.
            request: As for `apply`.
            deadline: Until when the keys may be looked for; once all are found, they are deleted.
            pause: Where it is given, many keys are deleted in pieces, each durable when it is done, and it is called
                between two of them, while others may change keys, with what was done. It may raise, which ends the
                deletion. A kill leaves what was done; the same request deletes the rest then, and counts that.

        Raises:
            InvalidSearchError: there is no such pool (`UnknownPoolError`) or modality. Nothing was changed.
            DeadlineExceededError: the answer is no longer wanted. Nothing was changed.
            RequestMismatchError, UnsupportedError: as for `apply`.
        """
        ...

    def remembered(self, request: "RequestKey") -> "Applied | None":
        """The answer to an earlier request, to be asked before the work of making its changes.

        Raises:
            RequestMismatchError: another request was made under that name.
            UnsupportedError: the engine cannot remember requests.
        """
        ...

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """Looks a key up.

        Args:
            key: Its name.
            with_vector: Whether its vector is wanted, too.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        ...

    def vector(self, key: str) -> NDArray[np.float32]:
        """The stored unit vector `[D]` of a key.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        ...

    def image(self, key: str, position: int = 0) -> StoredImage:
        """Gives one image of a key, as it came.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
            ImageUnavailableError: the index only refers to the image, which cannot be read.
        """
        ...

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """Looks one image of a key up, without reading what the index only refers to; `read` of it does.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
        """
        ...

    def scan(self, after: str | None = None) -> Iterator[StoredKey]:
        """All keys in the order of their names (by code point), those after `after` only.

        Keys that are changed meanwhile may or may not appear.

        Raises:
            InvalidSearchError: `after` can be no key's name.
        """
        ...

    def page(
        self, after: str | None = None, limit: int = 100, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER
    ) -> list[StoredKey]:
        """The first keys of a scope in the order of their names (by code point), those after `after` only.

        To go on after the last name of a page gives each key once that stays as it is, whatever else changes.

        Args:
            after: The name to go on after; at the beginning when absent.
            limit: Most keys; no key follows a page without any.
            scope: Which keys.
            deadline: Until when the answer is wanted.

        Raises:
            InvalidSearchError: `after` can be no key's name, `limit` is below 1, or there is no such pool
                (`UnknownPoolError`; told of the first page only) or modality.
            DeadlineExceededError: the answer is no longer wanted.
        """
        ...

    def count(self, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER) -> int:
        """Number of keys in the scope; stops at the deadline, as `search` does."""
        ...

    def info(self) -> IndexInfo:
        """What the index is at this moment."""
        ...

    def held(self) -> list[Held]:
        """What is held of the index here, and where; nobody is asked elsewhere for it."""
        ...

    def close(self) -> None:
        """Releases files and connections; no thread may be in a call. Repeating it is fine."""
        ...
