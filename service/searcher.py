"""One query to its hits, with the time each stage took.

Shape legend: Q = queries, D = width.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoder.errors import InvalidItemError
from encoder.item import Item, Modality
from index import errors as index_errors
from index.deadline import NEVER, Deadline
from index.embedded.manifest import EncoderFacts
from index.hits import FoundImage, Hit, StoredKey
from index.key_index import EVERYTHING, IndexInfo, Scope
from service.batcher import Batcher, EncodesPrepared
from service.cache import QueryVector, VectorCache
from service.errors import DeadlineExceededError, InvalidRequestError, from_item_error
from service.query import Query
from service.shared_work import SharedWork
from service.threads import BoundedThreads
from service.watch import IndexWatch

T = TypeVar("T")
Vector = NDArray[np.float32]


class QueryEncoder(EncodesPrepared[Any], Protocol):
    """What the service needs of an encoder; `encoder.Encoder` has it."""

    name: str
    fingerprint: str
    fusion: Any
    precision: str
    context_length: int

    def prepare(self, item: Item, position: int | None = None) -> Any:
        """Decodes, resizes and splits into tokens; in any thread."""
        ...


class SearchableIndex(Protocol):
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
        query_modalities: Sequence[Modality] | None = None,
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """The best `k` keys of the scope for each query; stops at the deadline."""
        ...

    def get(self, key: str) -> StoredKey:
        """One key."""
        ...

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """One image of a key, looked up but not fetched."""
        ...

    def close(self) -> None:
        """Releases files and memory."""
        ...


@dataclass(frozen=True)
class Embedded:
    """A query's vector.

    Attributes:
        found: The vector, and what is known of the query with it.
        is_cached: Whether it came from the cache.
        decode_s: How long decoding took; zero from the cache, like the other two.
        queue_s: How long it waited for its batch.
        encode_s: How long the batch took.
    """

    found: QueryVector
    is_cached: bool
    decode_s: float = 0.0
    queue_s: float = 0.0
    encode_s: float = 0.0


@dataclass
class StageSeconds:
    """How long each stage took; zero for a stage that was skipped."""

    decode: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    search: float = 0.0


@dataclass(frozen=True)
class SearchResult(Generic[T]):
    """Hits of one query.

    Attributes:
        hits: What was made of them, best first.
        num_hits: How many there are.
        modality: What the query was.
        is_cached: Whether its vector came from the cache.
        is_text_cut: Whether its text was longer than the model's context, so that the end of it was not used.
        stages: How long each stage took.
    """

    hits: T
    num_hits: int
    modality: Modality
    is_cached: bool
    is_text_cut: bool
    stages: StageSeconds


class Searcher:
    """Answers queries: cache, else decode and encode in a shared batch; then the index.

    A query that many send at the same time is looked up, decoded and encoded once for all of them.

    Belongs to one event loop, which it never blocks: images are decoded in `decode_threads`, encoded in the
    batcher's thread, searched for in `search_threads`. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        index: SearchableIndex,
        watch: IndexWatch,
        batcher: Batcher[Any],
        cache: VectorCache,
        *,
        decode_threads: BoundedThreads,
        search_threads: BoundedThreads,
        deadline_s: float,
    ) -> None:
        """Joins the parts.

        Args:
            encoder: Prepares items; must be the batcher's.
            index: Built by the same encoder.
            watch: The index's.
            batcher: Encodes what is prepared.
            cache: Of vectors of this encoder's width.
            decode_threads: For `encoder.prepare` and for hashing images.
            search_threads: For `index.search` and for writing its hits.
            deadline_s: Longest time for one query.
        """
        self._encoder = encoder
        self._index = index
        self._watch = watch
        self._batcher = batcher
        self._cache = cache
        self._decode_threads = decode_threads
        self._search_threads = search_threads
        self._deadline_s = deadline_s
        self._embeddings: SharedWork[Embedded] = SharedWork()

    async def search(self, query: Query, write: Callable[[list[Hit]], T]) -> SearchResult[T]:
        """The hits of one query.

        Args:
            query: What to search for, and where.
            write: Makes of the hits what is wanted of them; called in the thread that searched.

        Raises:
            InvalidRequestError: the index has no such pool.
            ItemTooLargeError: an image is over a limit.
            UndecodableImageError: an image cannot be read.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not answered within the deadline; the query is dropped.
            NotReadyError: shutting down, or the encoder's worker died.
            IndexUnavailableError: the index cannot be reached, or is damaged.
            InternalError: the encoder failed on the query's batch.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._search(query, write)
        except TimeoutError as error:
            raise DeadlineExceededError(f"no answer within {self._deadline_s * 1000:g} ms") from error

    async def _search(self, query: Query, write: Callable[[list[Hit]], T]) -> SearchResult[T]:
        stages = StageSeconds()
        deadline = Deadline(self._deadline_s)
        key = await self._cache_key(query)
        asked_s = time.monotonic()
        embedded = await self._embedded(key, query)
        waited_s = time.monotonic() - asked_s  # less than the work took, for who came when it was under way
        stages.encode = min(embedded.encode_s, waited_s)
        stages.queue = min(embedded.queue_s, waited_s - stages.encode)
        stages.decode = min(embedded.decode_s, waited_s - stages.encode - stages.queue)
        started_s = time.monotonic()
        try:
            hits, num_hits = await self._search_threads.run(
                lambda: self._write_hits(embedded.found.vector_D, query, write, deadline)
            )
        finally:
            deadline.cancel()  # the client may have gone, and its search be under way
        stages.search = time.monotonic() - started_s
        return SearchResult(hits, num_hits, query.item.modality, embedded.is_cached, embedded.found.is_text_cut, stages)

    async def _embedded(self, key: str, query: Query) -> Embedded:
        """The query's vector, made once for all who ask at the same time."""
        deadline_s = time.monotonic() + self._deadline_s
        while True:
            try:
                return await self._embeddings.result(key, lambda: self._look_up_or_encode(key, query))
            except DeadlineExceededError:  # the deadline of who asked first
                if time.monotonic() >= deadline_s:
                    raise

    async def _look_up_or_encode(self, key: str, query: Query) -> Embedded:
        found = await self._cache.get(key)
        if found is not None:
            return Embedded(found, is_cached=True)
        embedded = await self._encode(query)
        self._cache.put(key, embedded.found)
        return embedded

    async def _cache_key(self, query: Query) -> str:
        """The query's content hash; megabytes of images are hashed in a thread."""
        model = f"{self._encoder.fingerprint} {self._encoder.precision}"
        if query.item.images:
            return await self._decode_threads.run(query.content_hash, model)
        return query.content_hash(model)

    async def _encode(self, query: Query) -> Embedded:
        """The query's vector from a shared batch; the place is taken before the decoding."""
        deadline_s = time.monotonic() + self._deadline_s
        with self._batcher.reserve() as place:
            started_s = time.monotonic()
            try:
                prepared = await self._decode_threads.run(self._encoder.prepare, query.item)
            except InvalidItemError as error:
                raise from_item_error(error) from error
            decode_s = time.monotonic() - started_s
            encoded = await asyncio.wrap_future(place.submit(prepared, query.text_weight, deadline_s))
        found = QueryVector(encoded.vector_D, prepared.is_text_cut)
        return Embedded(found, False, decode_s, encoded.queue_s, encoded.encode_s)

    def _write_hits(
        self, vector_D: Vector, query: Query, write: Callable[[list[Hit]], T], deadline: Deadline
    ) -> tuple[T, int]:
        hits = self._search_index(vector_D, query, deadline)
        return write(hits), len(hits)

    def _search_index(self, vector_D: Vector, query: Query, deadline: Deadline) -> list[Hit]:
        scope = Scope(query.modalities, query.pool, query.condition, query.within, query.exclude)
        vectors_QD, modalities = vector_D[None, :], [query.item.modality]
        try:
            return self._watch.call(
                lambda: self._index.search(vectors_QD, query.k, scope, query_modalities=modalities, deadline=deadline)[
                    0
                ]
            )
        except index_errors.DeadlineExceededError as error:
            raise DeadlineExceededError(f"no answer within {self._deadline_s * 1000:g} ms") from error
        except index_errors.UnknownPoolError as error:
            raise InvalidRequestError(str(error)) from error
