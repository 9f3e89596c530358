"""A vector and a scope to hits, in threads; belongs to no query's encoder.

Shape legend: Q = queries, D = width.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import errors as index_errors
from anykey.index.deadline import NEVER, Deadline
from anykey.index.filtering.conditions import Path, paths_in
from anykey.index.filtering.facets import Facet, FacetCounts
from anykey.index.filtering.filters import field_of_path
from anykey.index.hits import FoundImage, Hit, SearchFacts, StoredKey
from anykey.index.key_index import EVERYTHING, Held, IndexInfo, Moment, MomentFacts, Scope
from anykey.index.store.manifest import EncoderFacts
from anykey.index.words.joining import Words
from anykey.service.concurrency.shared_call import NextCall
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import (
    IndexUnavailableError,
    InvalidRequestError,
    NotFoundError,
    SnapshotExpiredError,
)
from anykey.service.indexes.watch import IndexWatch
from anykey.service.keys.writer import ChangeableIndex
from anykey.service.queries.terms import Terms, weighted_sum
from anykey.service.queries.wanted import Wanted
from anykey.service.requests.deadline import late, seconds_left
from anykey.service.searching.batcher import PlaceTogether, SearchBatcher, Together
from anykey.service.searching.ranking import RankedKeys, Selected, plainly_selected, select

T = TypeVar("T")
Vector = NDArray[np.float32]

REFUSALS = (
    index_errors.UnknownPoolError,
    index_errors.SnapshotRefusedError,
    index_errors.WordsUnavailableError,
    index_errors.FacetsUnavailableError,
)
MOST_SHOWN_CHARS = 80  # of a field
MOST_FIELDS_LOOKED_UP = 16  # of a filter
MAX_HITS_TOGETHER = 20_000  # of one call: their payload is read at once, and the first answer waits for all of it


class SearchableIndex(ChangeableIndex, Protocol):
    """What the service needs of an index, a part of `KeyIndex`; safe to call from several threads."""

    @property
    def encoder(self) -> EncoderFacts:
        """The encoder that made the vectors."""
        ...

    @property
    def version(self) -> str | None:
        """Name of the published version that answers; `None` where there are no versions."""
        ...

    def check(self) -> None:
        """Raises when the index cannot answer at this moment."""
        ...

    def info(self) -> IndexInfo:
        """What the index is at this moment."""
        ...

    def search(
        self,
        vectors_QD: Vector,
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        with_vectors: bool = False,
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """The best `k` keys of the scope for each query; stops at the deadline."""
        ...

    def moment(self, snapshot: str | None = None, *, deadline: Deadline = NEVER) -> AbstractContextManager[Moment]:
        """The index at one moment, for the length of a block."""
        ...

    def moment_at_hand(self) -> MomentFacts | None:
        """What names the moment of now, where that takes no waiting; `None` where it has to be looked at."""
        ...

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """One key, with its vector if asked for."""
        ...

    def page(
        self, after: str | None = None, limit: int = 100, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER
    ) -> list[StoredKey]:
        """The first keys of a scope in the order of their names."""
        ...

    def count(self, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER) -> int:
        """Number of keys in a scope."""
        ...

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """One image of a key, looked up but not fetched."""
        ...

    def held(self) -> list[Held]:
        """What is held of it here, and where."""
        ...

    def close(self) -> None:
        """Releases files and memory."""
        ...


@dataclass(frozen=True)
class SearchKind:
    """All of a search but what it looks for; those that agree in it may share a call of the index.

    Attributes:
        wanted: Which of the ranked keys.
        scope: Which keys to look at.
        exact: Whether every key of the scope is compared.
        snapshot: Names the moment that is searched; now when absent.
        with_vectors: Whether hits come with their keys' vectors.
        with_part_scores: Whether hits come with their scores with each of the terms.
        words: Words that keys are found by, alone or beside a vector.
        explain: Whether it is told how many vectors were compared, besides how they were found.
        facets: Counts of values over the scope.
    """

    wanted: Wanted
    scope: Scope
    exact: bool
    snapshot: str | None = None
    with_vectors: bool = False
    with_part_scores: bool = False
    words: Words | None = None
    explain: bool = False
    facets: tuple[Facet, ...] = ()


class _Sought(NamedTuple):
    """What a search looks for: a unit vector's float32 bytes, if any, what it is of, and what it is the sum of."""

    vector: bytes | None
    modality: Modality | None
    terms: Terms | None = None


@dataclass(frozen=True)
class HowFound:
    """How something was found, together with what shared the call of the index.

    Attributes:
        facts: What the index noted.
        began_s: When the call began, by the monotonic clock.
        took_s: How long it took.
    """

    facts: SearchFacts
    began_s: float
    took_s: float


@dataclass(frozen=True)
class Found:
    """What a search found, and of which moment of the index that is.

    Attributes:
        selected: The hits, and what was done with others.
        unknown_fields: Fields of its filter that no key has a value at.
        version: The index version; `None` where there are none.
        seq: Number of the last change in it; `None` where changes are not counted.
        snapshot: What names the moment; `None` where it cannot be asked for again.
        num_together: How many searches shared the call of the index.
        identity: What no other moment of any index has; `None` where that is not known.
        how: How it was found; `None` of an answer that was kept.
        facets: What each facet came to, in the order asked for.
    """

    selected: Selected
    unknown_fields: tuple[Path, ...]
    version: str | None
    seq: int | None
    snapshot: str | None
    num_together: int
    identity: str | None
    how: HowFound | None = None
    facets: Sequence[FacetCounts] = ()

    @property
    def hits(self) -> list[Hit]:
        """In their order."""
        return self.selected.hits


class IndexSearcher:
    """Searches the index in `threads`, no search longer than `deadline_s`; many at once share calls of the index.

    Belongs to one event loop, which it never blocks. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self,
        index: SearchableIndex,
        watch: IndexWatch,
        *,
        threads: BoundedThreads,
        num_threads: int,
        max_waiting: int,
        most_together: Callable[[bool], int],
        deadline_s: float,
    ) -> None:
        """Joins the parts.

        Args:
            index: What is searched.
            watch: The index's.
            threads: For `index.search` and for writing its hits.
            num_threads: How many of them may search at a time.
            max_waiting: How many searches may wait for them.
            most_together: How many searches may share a call, given whether they compare every key.
            deadline_s: Longest time for one search.
        """
        self._index = index
        self._watch = watch
        self._threads = threads
        self._most_together = most_together
        self._deadline_s = deadline_s
        self._now = NextCall(lambda: self._look(None, False, Deadline(deadline_s)), threads)
        self._batcher: SearchBatcher[SearchKind, _Sought, Found] = SearchBatcher(
            self._call,
            self._most_of,
            self._most_at_all,
            threads=threads,
            num_threads=num_threads,
            max_waiting=max_waiting,
        )

    def counters(self) -> dict[str, int]:
        """What became of the searches, see `SearchCounters`."""
        return self._batcher.counters()

    def together(self, num_searches: int) -> Together:
        """Places for searches of one request, which begin together and share calls of the index."""
        return self._batcher.together(num_searches)

    async def search(
        self,
        vector_D: Vector | None,
        modality: Modality | None,
        wanted: Wanted,
        scope: Scope,
        write: Callable[[Found], T],
        exact: bool = False,
        snapshot: str | None = None,
        place: PlaceTogether | None = None,
        with_vectors: bool = False,
        terms: Terms | None = None,
        with_part_scores: bool = False,
        words: Words | None = None,
        explain: bool = False,
        facets: tuple[Facet, ...] = (),
    ) -> T:
        """The best keys of the scope.

        Args:
            vector_D: The query's unit vector; `None` for words alone.
            modality: What the query was; `None` where nobody says it.
            wanted: Which of the ranked keys.
            scope: Which keys to look at.
            write: Makes of what was found what is wanted of it; called in the thread that searched. Another search may
                be given the same.
            exact: Whether every key of the scope is compared.
            snapshot: Names the moment that is searched; now when absent.
            place: Its place among others that it begins with.
            with_vectors: Whether hits come with their keys' vectors.
            terms: What the vector is the sum of, where it is no item's, key's or vector's own.
            with_part_scores: Whether hits come with their scores with each of the terms.
            words: Words that keys are found by, alone or beside the vector.
            explain: Whether it is told how many vectors were compared, besides how they were found.
            facets: Counts of values over the scope.

        Raises:
            InvalidRequestError: the index has no such pool, no snapshots, no words or no counts, or needs to know what
                a vector is of.
            SnapshotExpiredError: the moment is no longer kept.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not found within the deadline.
            NotReadyError: shutting down.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        deadline = Deadline(min(self._deadline_s, max(0.0, seconds_left())))
        sought = _Sought(None if vector_D is None else vector_D.astype(np.float32).tobytes(), modality, terms)
        kind = SearchKind(wanted, scope, exact, snapshot, with_vectors, with_part_scores, words, explain, facets)
        with _wire_errors(self._deadline_s, deadline):
            return await asyncio.wrap_future(self._batcher.submit(kind, sought, deadline, write, place))

    async def moment(self, snapshot: str | None = None, *, is_asked_for: bool = False) -> MomentFacts:
        """The moment that a search which begins now would be of, kept as that search would keep it.

        Args:
            snapshot: Names the moment; now when absent.
            is_asked_for: Whether somebody said that they would ask for it again.

        Raises:
            ServiceError: those that `search` raises.
        """
        is_usual = snapshot is None and not is_asked_for
        if is_usual and (at_hand := self._at_hand()) is not None:
            return at_hand
        deadline = Deadline(self._deadline_s)
        with _wire_errors(self._deadline_s, deadline):
            if is_usual:
                return await self._now.answer()
            return await self._threads.run(self._look, snapshot, is_asked_for, deadline)

    async def stored(self, key: str, snapshot: str | None = None) -> StoredKey:
        """A key with its vector.

        Args:
            key: Its name.
            snapshot: Names the moment that is asked; now when absent.

        Raises:
            NotFoundError: there is no such key.
            InvalidRequestError: the index has no snapshots.
            SnapshotExpiredError: the moment is no longer kept.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not found within the deadline.
            NotReadyError: shutting down.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        deadline = Deadline(self._deadline_s)

        def look_up() -> StoredKey:
            with self._index.moment(snapshot, deadline=deadline) as moment:
                return moment.get(key, with_vector=True)

        with _wire_errors(self._deadline_s, deadline):
            return await self._threads.run(self._watch.call, look_up)

    def _at_hand(self) -> MomentFacts | None:
        """The moment of now, if that is known at once; whatever keeps it from being known is for a thread to find."""
        try:
            return self._watch.call(self._index.moment_at_hand)
        except IndexUnavailableError:
            return None

    def _look(self, snapshot: str | None, is_asked_for: bool, deadline: Deadline) -> MomentFacts:
        """Looks at a moment; called in a thread."""

        def look() -> MomentFacts:
            with self._index.moment(snapshot, deadline=deadline) as moment:
                moment.keep(is_asked_for=is_asked_for)
                return MomentFacts(moment.version, moment.seq, moment.snapshot, moment.identity)

        return self._watch.call(look)

    def _call(self, kind: SearchKind, sought: Sequence[_Sought], deadline: Deadline) -> list[Found]:
        """What is found for each; called in a thread."""

        def search_index() -> list[Found]:
            with self._index.moment(kind.snapshot, deadline=deadline) as moment:
                began_s, facts = time.monotonic(), moment.explain()
                facts.counts_vectors = kind.explain
                facets = moment.facets(kind.facets, kind.scope) if kind.facets else ()
                selected = _select_all(moment, kind, sought)
                moment.keep(is_asked_for=kind.snapshot is not None or kind.wanted.offset is not None)
                unknown = unknown_fields(moment, kind.scope)
                how = HowFound(facts, began_s, time.monotonic() - began_s)
                of_moment = (unknown, moment.version, moment.seq, moment.snapshot, len(sought), moment.identity, how)
                return [Found(each, *of_moment, facets) for each in selected]

        return self._watch.call(search_index)

    def _most_of(self, kind: SearchKind) -> int:
        return min(self._most_together(kind.exact), self._most_at_all(kind))

    def _most_at_all(self, kind: SearchKind) -> int:
        if kind.words is not None or not kind.wanted.is_plain:  # each is ranked on its own: none waits for the others
            return 1
        return max(1, MAX_HITS_TOGETHER // kind.wanted.end)


@contextmanager
def _wire_errors(deadline_s: float, deadline: Deadline) -> Iterator[None]:
    """Tells a client what of a search is its affair; at the end, nobody waits for the index any more.

    Raises:
        ServiceError: in place of an error of the index.
    """
    try:
        yield
    except index_errors.DeadlineExceededError as error:
        raise late(deadline_s) from error
    except index_errors.KeyNotFoundError as error:
        raise NotFoundError("no such key") from error
    except index_errors.SnapshotExpiredError as error:
        raise SnapshotExpiredError(str(error)) from error
    except REFUSALS as error:
        raise InvalidRequestError(str(error)) from error
    finally:
        deadline.cancel()  # the client may have gone, and its search be under way


def _select_all(moment: Moment, kind: SearchKind, sought: Sequence[_Sought]) -> list[Selected]:
    """The hits of each; plain ones by vectors alone are searched for together."""
    wanted, terms_of = kind.wanted, [_centred_terms(moment, one) for one in sought]
    queries = [None if vectors is None else weighted_sum(vectors, weights_P) for vectors, weights_P in terms_of]
    if wanted.is_plain and not kind.with_part_scores and kind.words is None:
        queries_QD = np.stack([query_D for query_D in queries if query_D is not None])
        found = moment.search(
            queries_QD, wanted.k, kind.scope, exact=kind.exact, are_centred=True, with_vectors=kind.with_vectors
        )
        return [plainly_selected(hits, wanted.min_score) for hits in found]
    pages = wanted.offset is not None
    return [
        select(
            moment,
            RankedKeys(moment, query_D, kind.scope, exact=kind.exact, pages=pages, words=kind.words),
            wanted,
            with_vectors=kind.with_vectors,
            scored_with_PD=vectors_PD if kind.with_part_scores else None,
        )
        for query_D, (vectors_PD, _) in zip(queries, terms_of, strict=True)
    ]


def unknown_fields(moment: Moment, scope: Scope) -> tuple[Path, ...]:
    """Fields of a scope's filter that no key has a value at, of the first few: a name may be misspelled."""
    paths = [] if scope.condition is None else paths_in(scope.condition)[:MOST_FIELDS_LOOKED_UP]
    return tuple(path for path in paths if not moment.has_field(path))


def notes_of_fields(found: Found) -> list[str]:
    """What whoever asked should know of fields that no key has."""
    facets = dict.fromkeys(counts.facet.path for counts in found.facets if not counts.is_known)
    return notes_of_filter(found.unknown_fields) + [_note_of_field("facets", path) for path in facets]


def notes_of_filter(unknown: Sequence[Path]) -> list[str]:
    """What whoever gave a filter should know of its fields that no key has."""
    return [_note_of_field("filter", path) for path in unknown]


def _note_of_field(where: str, path: Path) -> str:
    return f"{where}: no key has a value at {field_of_path(path)[:MOST_SHOWN_CHARS]!a}"


def _centred_terms(moment: Moment, sought: _Sought) -> tuple[Vector | None, NDArray[np.float64]]:
    """The vectors that something is the sum of, as keys are compared with them, and their weights; none for words."""
    if sought.vector is None:
        return None, np.ones(0)
    vectors_PD, weights_P = np.frombuffer(sought.vector, np.float32)[None, :], np.ones(1)
    modalities: Sequence[Modality | None] = [sought.modality]
    if sought.terms is not None:
        vectors_PD, weights_P, modalities = sought.terms.vectors_PD, sought.terms.weights_P, sought.terms.modalities
    try:
        return moment.centred(vectors_PD, modalities), weights_P
    except index_errors.ModalityNeededError as error:
        name = "vector" if sought.terms is None else sought.terms.names[error.position]
        raise InvalidRequestError(
            f"{name}: the index is calibrated by modality, so that it has to be told what the vector is of, in "
            "vector_modality"
        ) from error
