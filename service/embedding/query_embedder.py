"""A query to its vector: each item from the cache, else decoded and encoded in a batch that many share; then the sum.

Shape legend: D = width, P = parts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import ItemEncoder, Prepared, Role, check_item
from anykey.index.hits import StoredKey
from anykey.service.concurrency.gathering import all_of
from anykey.service.concurrency.shared_work import SharedWork
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher, Lane
from anykey.service.embedding.cache import QueryVector, VectorCache
from anykey.service.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ItemTooLargeError,
    NotFoundError,
    UndecodableImageError,
    UnsupportedModalityError,
    from_item_error,
)
from anykey.service.queries.parts import EmbeddedParts
from anykey.service.queries.query import ItemPart, KeyPart, Query, VectorPart
from anykey.service.queries.terms import PartRows, Terms, weighted_sum
from anykey.service.requests.deadline import seconds_left

T = TypeVar("T")
Vector = NDArray[np.float32]
OF_A_PART = (InvalidRequestError, ItemTooLargeError, UndecodableImageError, UnsupportedModalityError, NotFoundError)


class Source(StrEnum):
    """Where the vector of a part came from."""

    MEMORY = "memory"
    REDIS = "redis"
    ENCODER = "encoder"
    INDEX = "index"
    REQUEST = "request"


FROM_CACHE = (Source.MEMORY, Source.REDIS)
OF_AN_ITEM = (*FROM_CACHE, Source.ENCODER)


@dataclass(frozen=True)
class EmbeddedPart:
    """The vector of one part.

    Attributes:
        vector_D: Its unit vector.
        modality: What it is the vector of; `None` for a vector of which the client does not say it.
        source: Where it came from.
        weight: How much it counts in the query.
        is_text_cut: Whether its text was longer than the model's context.
        num_tokens: What it takes through the model, whether it did or came from the cache; zero for no item.
        decode_s: How long decoding took; zero where nothing was encoded, like the other two.
        queue_s: How long it waited for its batch.
        encode_s: How long the batch took.
    """

    vector_D: Vector
    modality: Modality | None
    source: Source
    weight: float = 1.0
    is_text_cut: bool = False
    num_tokens: int = 0
    decode_s: float = 0.0
    queue_s: float = 0.0
    encode_s: float = 0.0

    @property
    def is_cached(self) -> bool:
        """Whether it came from the cache."""
        return self.source in FROM_CACHE

    def waited_for(self, seconds: float) -> "EmbeddedPart":
        """The same for one who came when the work was under way: the stages take no longer than the wait."""
        encode_s = min(self.encode_s, seconds)
        queue_s = min(self.queue_s, seconds - encode_s)
        return replace(
            self, encode_s=encode_s, queue_s=queue_s, decode_s=min(self.decode_s, seconds - encode_s - queue_s)
        )


@dataclass(frozen=True)
class Embedded:
    """A query's vector.

    Attributes:
        vector_D: The normalised weighted sum of the parts' vectors; `None` for a query of words alone.
        parts: What it is the sum of, in the order of the query.
        halves: The text alone and the images alone of fused items, by the part's number and modality, where hits are to
            be scored with them.
    """

    vector_D: Vector | None
    parts: tuple[EmbeddedPart, ...]
    halves: Mapping[tuple[int, Modality], EmbeddedPart] = field(default_factory=dict)

    @property
    def modality(self) -> Modality | None:
        """What is in the parts together; `None` if they are vectors of which nobody says what they are."""
        found = {part.modality for part in self.parts} - {None}
        return Modality.FUSED if len(found) > 1 else next(iter(found), None)

    @property
    def is_cached(self) -> bool:
        """Whether nothing had to be encoded, and something would have had to be without the cache."""
        encoded = [part for part in self.parts if part.source in OF_AN_ITEM]
        return bool(encoded) and all(part.is_cached for part in encoded)

    @property
    def is_text_cut(self) -> bool:
        """Whether a part's text was longer than the model's context."""
        return any(part.is_text_cut for part in self.parts)

    @property
    def decode_s(self) -> float:
        """How long decoding took, of the part that took longest; they are embedded at the same time."""
        return max((part.decode_s for part in self.parts), default=0.0)

    @property
    def queue_s(self) -> float:
        """How long the part waited that waited longest for its batch."""
        return max((part.queue_s for part in self.parts), default=0.0)

    @property
    def encode_s(self) -> float:
        """How long the slowest batch took."""
        return max((part.encode_s for part in self.parts), default=0.0)


class ItemEmbedder:
    """Gives items their vectors; one that many send at the same time is looked up, decoded and encoded once.

    Belongs to one event loop, which it never blocks: images and long texts are prepared in `threads`, and all items are
    encoded in the batcher's. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        batcher: Batcher[Prepared],
        cache: VectorCache,
        *,
        threads: BoundedThreads,
        deadline_s: float,
        key_threads: BoundedThreads | None = None,
        hash_threads: BoundedThreads | None = None,
        max_later_decodes: int = 1,
    ) -> None:
        """Joins the parts.

        Args:
            encoder: Prepares items; must be the batcher's.
            batcher: Encodes what is prepared.
            cache: Of vectors of this encoder's width.
            threads: For `encoder.prepare`.
            key_threads: Where the same is called for keys that are stored; absent: nowhere.
            hash_threads: For hashing large images, which those that are decoded should not hold up; absent: `threads`.
            deadline_s: Longest time for one item.
            max_later_decodes: Most items of `Lane.LATER` in `threads` at a time, so that those of searches find room.
        """
        self._encoder = encoder
        self._batcher = batcher
        self._cache = cache
        self._threads = threads
        self._preparing = (threads,) if key_threads is None else (threads, key_threads)
        self._hash_threads = hash_threads or threads
        self._deadline_s = deadline_s
        self._later_decodes = asyncio.Semaphore(max_later_decodes)
        self._under_way: SharedWork[EmbeddedPart] = SharedWork()

    @property
    def width(self) -> int:
        """D."""
        return self._encoder.width

    async def embed(
        self,
        part: ItemPart,
        role: Role = Role.QUERY,
        lane: Lane = Lane.NOW,
        deadline_s: float | None = None,
        *,
        is_alone: bool = False,
    ) -> EmbeddedPart:
        """The vector of an item; those of queries are kept in the cache.

        Args:
            part: The item.
            role: What it is embedded for.
            lane: Whether a search waits for it, or it stands back behind searches.
            deadline_s: Longest time, if it is not that for one item or what is left to the request.
            is_alone: Whether its request has nothing else to embed, which would share a batch with it.

        Raises:
            UnsupportedModalityError: the model does not take this kind of item.
            InvalidRequestError: the model cannot embed all of it.
            ItemTooLargeError: an image is over a limit.
            UndecodableImageError: an image cannot be read.
            OverloadedError: no place in the queue, or none from which it would be encoded within the deadline.
            DeadlineExceededError: not encoded within the deadline; the item is dropped.
            NotReadyError: shutting down, or the encoder's worker died.
            InternalError: the encoder failed on the item's batch.
        """
        try:
            check_item(self._encoder, part.item, part.text_weight, part.instruction)
        except InvalidItemError as error:
            raise from_item_error(error) from error
        allowed_s = min(self._deadline_s, seconds_left()) if deadline_s is None else deadline_s
        if role is not Role.QUERY:
            return await self._encode(part, role, lane, allowed_s, is_alone)
        key = await self._cache_key(part, lane)
        found = self._cache.at_hand(key)
        if found is not None:
            return _cached(part, found, Source.MEMORY)
        began_s = time.monotonic()
        while True:
            try:
                embedded = await self._under_way.result(
                    f"{lane.value} {key}", lambda: self._look_up_or_encode(key, part, lane, allowed_s, is_alone)
                )
            except DeadlineExceededError:  # the deadline of who asked first
                if time.monotonic() >= began_s + allowed_s:
                    raise
            else:
                return replace(embedded.waited_for(time.monotonic() - began_s), weight=part.weight)

    async def _look_up_or_encode(
        self, key: str, part: ItemPart, lane: Lane, allowed_s: float, is_alone: bool
    ) -> EmbeddedPart:
        found = self._cache.at_hand(key)
        if found is not None:  # another request has brought it meanwhile
            return _cached(part, found, Source.MEMORY)
        found = await self._cache.get(key)
        if found is not None:
            return _cached(part, found, Source.REDIS)
        embedded = await self._encode(part, Role.QUERY, lane, allowed_s, is_alone)
        self._cache.put(key, QueryVector(embedded.vector_D, embedded.is_text_cut, embedded.num_tokens))
        return embedded

    async def _cache_key(self, part: ItemPart, lane: Lane) -> str:
        """The item's content hash; large images are hashed in a thread."""
        model = f"{self._encoder.fingerprint} {self._encoder.backend} {self._encoder.precision}"
        if part.is_quickly_hashed:
            return part.content_hash(model)
        return await self._in_thread(self._hash_threads, lane, part.content_hash, model)

    async def _encode(self, part: ItemPart, role: Role, lane: Lane, allowed_s: float, is_alone: bool) -> EmbeddedPart:
        """The item's vector from a shared batch; the place is taken before the decoding."""
        deadline_s = time.monotonic() + allowed_s
        with self._batcher.reserve(lane, deadline_s) as place:
            started_s = time.monotonic()
            try:
                prepared = await self._prepared(part, role, lane, is_alone)
            except InvalidItemError as error:
                raise from_item_error(error) from error
            decode_s = time.monotonic() - started_s
            encoded = await asyncio.wrap_future(place.submit(prepared, deadline_s))
        return EmbeddedPart(
            encoded.vector_D,
            part.item.modality,
            Source.ENCODER,
            is_text_cut=prepared.is_text_cut,
            num_tokens=self._encoder.cost(prepared),
            decode_s=decode_s,
            queue_s=encoded.queue_s,
            encode_s=encoded.encode_s,
        )

    async def _prepared(self, part: ItemPart, role: Role, lane: Lane, is_alone: bool) -> Prepared:
        """What the encoder takes of an item: a lone short text's tokens at once, if nobody keeps the tokenizer busy.

        Items of one request are prepared beside each other, so that none leaves in a batch before the others.
        """
        asked = (part.item, role, part.text_weight, part.instruction)
        if is_alone and part.is_quickly_prepared and not any(threads.num_pending for threads in self._preparing):
            return self._encoder.prepare(*asked)
        return await self._in_thread(self._threads, lane, self._encoder.prepare, *asked)

    async def _in_thread(self, threads: BoundedThreads, lane: Lane, function: Callable[..., T], *args: Any) -> T:
        """What a thread gives; few of them work for what is not urgent."""
        if lane is Lane.NOW:
            return await threads.run(function, *args)
        async with self._later_decodes:
            return await threads.run(function, *args)


class QueryEmbedder:
    """Gives queries their vectors: items by an encoder, stored keys by an index; belongs to one event loop."""

    def __init__(self, items: ItemEmbedder, stored: Callable[[str, str | None], Awaitable[StoredKey]]) -> None:
        """Joins the two.

        Args:
            items: Embeds the items of queries.
            stored: Looks up a key with its vector, at the moment that a snapshot names if there is one, and raises
                `NotFoundError` if there is no such key.
        """
        self._items = items
        self._stored = stored

    async def embed_item(
        self,
        part: ItemPart,
        role: Role = Role.QUERY,
        lane: Lane = Lane.NOW,
        deadline_s: float | None = None,
        *,
        is_alone: bool = False,
    ) -> EmbeddedPart:
        """The vector of one item; as `ItemEmbedder.embed`, but that errors tell which item it is."""
        with _naming(part):
            return await self._items.embed(part, role, lane, deadline_s, is_alone=is_alone)

    async def embed(self, query: Query, *, is_alone: bool = False) -> Embedded:
        """The query's vector; the vectors of its parts are found at the same time.

        Args:
            query: The query.
            is_alone: Whether its request has no others.

        Raises:
            InvalidRequestError: a vector is of another width, or the sum cancels out; says which part.
            NotFoundError: there is no such key; says which part.
            ServiceError: as `ItemEmbedder.embed`, for a part's item, and as the index, for its key.
        """
        given = [part for part in query.embedded_parts if isinstance(part, VectorPart)]
        for part in given:  # before anything is encoded
            self._check_width(part)
        wanted = query.embedded_parts
        halves = _halves_of(query) if query.include.part_scores else {}
        is_only = is_alone and len(wanted) == 1 and not halves
        coming: list[Awaitable[EmbeddedPart | None]] = [
            self._embed_part(part, query.snapshot, is_only) for part in wanted
        ]
        coming += [self._embed_half(half) for half in halves.values()]
        embedded = await all_of(coming)
        parts = tuple(part for part in embedded[: len(wanted)] if part is not None)
        made = zip(halves, embedded[len(wanted) :], strict=True)
        vector_D = None
        if parts:
            vector_D = weighted_sum(np.array([part.vector_D for part in parts]), [part.weight for part in parts])
        return Embedded(vector_D, parts, {name: half for name, half in made if half is not None})

    async def _embed_half(self, half: ItemPart) -> EmbeddedPart | None:
        """An item that is half of another; `None` if the model embeds only both together."""
        try:
            return await self.embed_item(half)
        except UnsupportedModalityError:
            return None

    async def _embed_part(self, part: EmbeddedParts, snapshot: str | None, is_alone: bool) -> EmbeddedPart:
        if isinstance(part, ItemPart):
            return await self.embed_item(part, is_alone=is_alone)
        with _naming(part):
            if isinstance(part, KeyPart):
                stored = await self._stored(part.key, snapshot)
                assert stored.vector_D is not None
                return EmbeddedPart(stored.vector_D, stored.modality, Source.INDEX, part.weight)
            return EmbeddedPart(_unit(part.vector), part.modality, Source.REQUEST, part.weight)

    def _check_width(self, part: VectorPart) -> None:
        if len(part.vector) != self._items.width:
            raise InvalidRequestError(
                f"{part.where}: expected {self._items.width} numbers, the width of the model, got {len(part.vector)}"
            )


def notes_of(query: Query, embedded: Embedded) -> list[str]:
    """What whoever asked should know of how a query was embedded."""
    return [
        f"{part.where or 'the query'}: the text is longer than the model's context, so that its end was not used"
        for part, made in zip(query.embedded_parts, embedded.parts, strict=True)
        if made.is_text_cut
    ]


def terms_of(query: Query, embedded: Embedded) -> Terms | None:
    """What the query's vector is the sum of; `None` where it is the vector of one part, and nothing else is wanted."""
    parts = embedded.parts
    if not parts or (len(parts) == 1 and parts[0].weight > 0 and not query.include.part_scores):
        return None
    vectors, rows = list(parts), []
    for number, part in enumerate(parts):
        of = {part.modality: number} if part.source in OF_AN_ITEM else {}
        for modality in (Modality.TEXT, Modality.IMAGE):
            if (half := embedded.halves.get((number, modality))) is not None:
                of[modality] = len(vectors)
                vectors.append(replace(half, weight=0.0))
        rows.append(PartRows(number, of.get(Modality.TEXT), of.get(Modality.IMAGE)))
    names = [part.where or "the query" for part in query.embedded_parts]
    return Terms(
        np.array([vector.vector_D for vector in vectors]),
        np.array([vector.weight for vector in vectors]),
        tuple(vector.modality for vector in vectors),
        (*names, *["half of a part"] * (len(vectors) - len(names))),
        tuple(rows),
    )


@contextmanager
def _naming(part: EmbeddedParts) -> Iterator[None]:
    """Tells in an error about a part which one it is."""
    try:
        yield
    except OF_A_PART as error:
        if not part.where:
            raise
        raise type(error)(f"{part.where}: {error.message}") from error


def _halves_of(query: Query) -> dict[tuple[int, Modality], ItemPart]:
    """The text alone and the images alone of each fused item, by the part's number and their modality."""
    halves = {}
    for number, part in enumerate(query.embedded_parts):
        if isinstance(part, ItemPart) and part.item.modality is Modality.FUSED:
            halves[number, Modality.TEXT] = replace(part, item=Item(text=part.item.text))
            halves[number, Modality.IMAGE] = replace(part, item=Item(images=part.item.images))
    return halves


def _cached(part: ItemPart, found: QueryVector, source: Source) -> EmbeddedPart:
    return EmbeddedPart(found.vector_D, part.item.modality, source, part.weight, found.is_text_cut, found.num_tokens)


def _unit(vector: Sequence[float]) -> Vector:
    """A vector of unit norm, however large or small its numbers are."""
    vector_D = np.array(vector, np.float64)
    vector_D /= np.abs(vector_D).max()
    return np.asarray(vector_D / np.linalg.norm(vector_D), np.float32)
