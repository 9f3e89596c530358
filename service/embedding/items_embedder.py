"""Many items of one request: embedded together, as fast as the model takes them.

Shape legend: D = width.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from anykey.encoder.protocol import Role
from anykey.service.concurrency.gathering import all_of
from anykey.service.embedding.batcher import Lane
from anykey.service.embedding.query_embedder import OF_A_PART, EmbeddedPart, QueryEmbedder
from anykey.service.errors import InternalError, OverloadedError, ServiceError
from anykey.service.queries.query import ItemPart

MAX_AT_A_TIME = 256  # of one list; how many of them get on is decided by the turns
OF_ONE_ITEM = (*OF_A_PART, InternalError)


class ItemsEmbedder:
    """Embeds lists of items, which share batches with each other and stand back behind searches.

    Belongs to one event loop, which it never blocks. As many items are decoded or wait for the model as there are
    turns; the requests under way take them one by one, so that a short list is not late for a long one.
    """

    def __init__(self, embedder: QueryEmbedder, *, turns: asyncio.Semaphore, max_items: int, deadline_s: float) -> None:
        """Begins with nothing under way.

        Args:
            embedder: Embeds one item.
            turns: Whoever has one finds a place in the batcher.
            max_items: Most items of all lists under way.
            deadline_s: Longest time for one list.
        """
        self._embedder = embedder
        self._turns = turns
        self._max_items = max_items
        self._deadline_s = deadline_s
        self._num_items = 0

    async def embed(self, items: Sequence[ItemPart | ServiceError], role: Role) -> list[EmbeddedPart | ServiceError]:
        """A vector for each item, or why it has none.

        Args:
            items: The items; one that could not be read is told as it came.
            role: What they are embedded for.

        Raises:
            OverloadedError: the lists under way have too many items.
            DeadlineExceededError: an item was not encoded in time.
            NotReadyError: shutting down, or the encoder's worker died.
        """
        outcomes: dict[int, EmbeddedPart | ServiceError] = {}
        ends_s = time.monotonic() + self._deadline_s
        left = iter(list(enumerate(items)))

        async def embed_some() -> None:
            """Takes item after item, until others have taken the last."""
            for number, item in left:
                if isinstance(item, ServiceError):
                    outcomes[number] = item
                    continue
                try:
                    outcomes[number] = await self._embed_one(item, role, ends_s)
                except OF_ONE_ITEM as error:
                    outcomes[number] = error.as_result()

        with self._counted(len(items)):
            await all_of([embed_some() for _ in range(min(MAX_AT_A_TIME, len(items)))])
        return [outcomes[number] for number in range(len(items))]

    async def embed_all(self, items: Sequence[ItemPart], role: Role) -> list[EmbeddedPart]:
        """A vector for each item.

        Args:
            items: The items.
            role: What they are embedded for.

        Raises:
            ServiceError: as `embed`, or one of the items has no vector; says which, and the others are left.
        """
        outcomes: dict[int, EmbeddedPart] = {}
        ends_s = time.monotonic() + self._deadline_s
        left = iter(list(enumerate(items)))

        async def embed_some() -> None:
            """Takes item after item, until others have taken the last."""
            for number, item in left:
                outcomes[number] = await self._embed_one(item, role, ends_s)

        with self._counted(len(items)):
            await all_of([embed_some() for _ in range(min(MAX_AT_A_TIME, len(items)))])
        return [outcomes[number] for number in range(len(items))]

    async def _embed_one(self, item: ItemPart, role: Role, ends_s: float) -> EmbeddedPart:
        async with self._turns:
            return await self._embedder.embed_item(item, role, Lane.LATER, ends_s - time.monotonic())

    @contextmanager
    def _counted(self, num_items: int) -> Iterator[None]:
        """Refuses items for which there is no room beside those under way."""
        if self._num_items + num_items > self._max_items:
            raise OverloadedError(
                f"{self._num_items} items are being embedded, at most {self._max_items} are; retry in a moment"
            )
        self._num_items += num_items
        try:
            yield
        finally:
            self._num_items -= num_items
