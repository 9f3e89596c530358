"""A query to its vector: from the cache, else decoded and encoded in a batch that many share.

Shape legend: D = width.
"""

import asyncio
import time
from dataclasses import dataclass, replace

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.protocol import ItemEncoder, Prepared, Role, check_item
from anykey.service.batcher import Batcher
from anykey.service.cache import QueryVector, VectorCache
from anykey.service.errors import DeadlineExceededError, from_item_error
from anykey.service.query import Query
from anykey.service.shared_work import SharedWork
from anykey.service.threads import BoundedThreads


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

    def waited_for(self, seconds: float) -> "Embedded":
        """The same for one who came when the work was under way: the stages take no longer than the wait."""
        encode_s = min(self.encode_s, seconds)
        queue_s = min(self.queue_s, seconds - encode_s)
        return replace(
            self, encode_s=encode_s, queue_s=queue_s, decode_s=min(self.decode_s, seconds - encode_s - queue_s)
        )


class QueryEmbedder:
    """Gives queries their vectors; one that many send at the same time is looked up, decoded and encoded once.

    Belongs to one event loop, which it never blocks: images are hashed and decoded in `threads`, encoded in the
    batcher's. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        batcher: Batcher[Prepared],
        cache: VectorCache,
        *,
        threads: BoundedThreads,
        deadline_s: float,
    ) -> None:
        """Joins the parts.

        Args:
            encoder: Prepares items; must be the batcher's.
            batcher: Encodes what is prepared.
            cache: Of vectors of this encoder's width.
            threads: For `encoder.prepare` and for hashing images.
            deadline_s: Longest time for one query.
        """
        self._encoder = encoder
        self._batcher = batcher
        self._cache = cache
        self._threads = threads
        self._deadline_s = deadline_s
        self._under_way: SharedWork[Embedded] = SharedWork()

    async def embed(self, query: Query) -> Embedded:
        """The query's vector.

        Raises:
            UnsupportedModalityError: the model does not take this kind of query.
            InvalidRequestError: the model cannot embed all of it.
            ItemTooLargeError: an image is over a limit.
            UndecodableImageError: an image cannot be read.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not encoded within the deadline; the query is dropped.
            NotReadyError: shutting down, or the encoder's worker died.
            InternalError: the encoder failed on the query's batch.
        """
        try:
            check_item(self._encoder, query.item, query.text_weight, query.instruction)
        except InvalidItemError as error:
            raise from_item_error(error) from error
        key = await self._cache_key(query)
        found = self._cache.at_hand(key)
        if found is not None:
            return Embedded(found, is_cached=True)
        began_s = time.monotonic()
        while True:
            try:
                embedded = await self._under_way.result(key, lambda: self._look_up_or_encode(key, query))
            except DeadlineExceededError:  # the deadline of who asked first
                if time.monotonic() >= began_s + self._deadline_s:
                    raise
            else:
                return embedded.waited_for(time.monotonic() - began_s)

    async def _look_up_or_encode(self, key: str, query: Query) -> Embedded:
        found = await self._cache.get(key)
        if found is not None:
            return Embedded(found, is_cached=True)
        embedded = await self._encode(query)
        self._cache.put(key, embedded.found)
        return embedded

    async def _cache_key(self, query: Query) -> str:
        """The query's content hash; megabytes of images are hashed in a thread."""
        model = f"{self._encoder.fingerprint} {self._encoder.backend} {self._encoder.precision}"
        if query.item.images:
            return await self._threads.run(query.content_hash, model)
        return query.content_hash(model)

    async def _encode(self, query: Query) -> Embedded:
        """The query's vector from a shared batch; the place is taken before the decoding."""
        deadline_s = time.monotonic() + self._deadline_s
        with self._batcher.reserve() as place:
            started_s = time.monotonic()
            try:
                prepared = await self._threads.run(
                    self._encoder.prepare, query.item, Role.QUERY, query.text_weight, query.instruction
                )
            except InvalidItemError as error:
                raise from_item_error(error) from error
            decode_s = time.monotonic() - started_s
            encoded = await asyncio.wrap_future(place.submit(prepared, deadline_s))
        found = QueryVector(encoded.vector_D, prepared.is_text_cut)
        return Embedded(found, False, decode_s, encoded.queue_s, encoded.encode_s)
