"""The best hits of a search in the order of a cross-encoder, which reads the query and each key together.

Shape legend: B = batch, a pair of query and key a row.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.errors import EncoderError, InvalidItemError
from anykey.encoder.images import ImageLimits
from anykey.encoder.item import Item, Modality
from anykey.index.hits import Hit
from anykey.program.extras import MissingLibraryError
from anykey.service.concurrency.gathering import all_of
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher
from anykey.service.errors import (
    ImageNotReachedError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    StartupError,
    UnsupportedModalityError,
    from_item_error,
)
from anykey.service.queries.query import ItemPart, Query
from anykey.service.searching.lookups import Lookups
from anykey.service.settings import ServiceSettings, parse_rerankers

MAX_BATCH_PAIRS = 64
MAX_READING = 8  # keys of one request whose images are fetched and decoded at a time
GATHER_S = 0.001  # the pairs of a request come one by one, and at once
HOW_TO_LOAD = "start the service with --rerankers NAME=DIRECTORY"


class PairScorer(Protocol):
    """What the service needs of a cross-encoder; `encoder.reranking.Reranker` is one.

    `prepare` and `pair` may be called from any thread, `score` from one at a time.
    """

    name: str
    fingerprint: str
    modalities: frozenset[Modality]
    max_tokens: int
    device: str

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights."""
        ...

    def prepare(self, item: Item) -> Any:
        """A query or a key, decoded."""
        ...

    def pair(self, query: Any, key: Any) -> Any:
        """Both together, with `num_tokens`."""
        ...

    def score(self, pairs: Sequence[Any]) -> NDArray[np.float32]:
        """Scores `[B]`, higher is better."""
        ...


@dataclass(frozen=True)
class RankedHit:
    """A hit in its new place.

    Attributes:
        hit: As the index found it, with its new rank.
        score: The reranker's; `None` for a key that it cannot read, which comes after those that it can.
    """

    hit: Hit
    score: float | None


class LoadedReranker:
    """A reranker whose pairs, of many requests, share batches.

    Belongs to one event loop, which it never blocks: images are looked up as those that are shown, queries and keys are
    prepared in `threads`, and pairs are scored by a worker of its own.
    """

    def __init__(
        self,
        scorer: PairScorer,
        batcher: Batcher[Any],
        *,
        lookups: Lookups,
        threads: BoundedThreads,
        deadline_s: float,
        max_images: int,
    ) -> None:
        """Joins the parts, which who made them closes.

        Args:
            scorer: Prepares pairs.
            batcher: Scores them, with the same model.
            lookups: Give the images of keys, where the model reads them.
            threads: For `scorer.prepare`.
            deadline_s: Longest time for one request.
            max_images: How many of a key's images are read.
        """
        self.scorer = scorer
        self.batcher = batcher
        self._lookups = lookups
        self._threads = threads
        self._deadline_s = deadline_s
        self._max_images = max_images

    def check_query(self, query: Query) -> None:
        """Refuses what the model cannot read whole.

        Raises:
            InvalidRequestError: the query is no single item.
            UnsupportedModalityError: the query is an image, or has one, and the model reads texts alone.
        """
        if query.item is None:
            raise InvalidRequestError(
                f"reranker {self.scorer.name} reads one item, a text, image or both, and takes no query of other or "
                "several parts; leave rerank out"
            )
        modality = query.item.modality
        if modality not in self.scorer.modalities:
            raise UnsupportedModalityError(
                f"reranker {self.scorer.name} reads texts, and takes no {modality} queries; leave rerank out"
            )

    async def rerank(self, query: Item, hits: Sequence[Hit], request_id: str) -> list[RankedHit]:
        """The hits in the order of the model's scores, ranks from 1; equal scores stay in the index's order.

        Args:
            query: One that `check_query` lets pass.
            hits: As the index gives them, best first.
            request_id: For the log.

        Raises:
            InvalidRequestError: an image of the query cannot be read; its kind says how.
            OverloadedError: too many pairs wait, or for too long.
            DeadlineExceededError: not scored within the deadline; those that still wait are dropped.
            NotReadyError: shutting down, or the worker died.
            IndexUnavailableError: the index cannot be reached, or is damaged.
            InternalError: the model failed on a batch.
        """
        deadline_s = time.monotonic() + self._deadline_s
        candidates = [hit for hit in hits if self._may_be_read(hit)]
        self.batcher.require_room(deadline_s)
        with ExitStack() as stack:
            places = {hit.key: stack.enter_context(self.batcher.reserve()) for hit in candidates}
            pairs = await self._pairs(query, candidates, request_id)
            keys = sorted(pairs, key=lambda key: -int(pairs[key].num_tokens))  # those of one length share a batch
            submitted = [places[key].submit(pairs[key], deadline_s) for key in keys]
        scored = await all_of(list(map(asyncio.wrap_future, submitted)))
        return _in_order(hits, {key: float(one.vector_D[0]) for key, one in zip(keys, scored, strict=True)})

    async def score_items(self, query: ItemPart, documents: Sequence[ItemPart]) -> tuple[list[float], int]:
        """The model's scores of items that came with a request.

        Args:
            query: What they are scored for.
            documents: The items.

        Returns:
            A score for each, higher is better, and the tokens of all pairs.

        Raises:
            ServiceError: as `rerank`, or an item cannot be read whole; says which.
        """
        deadline_s = time.monotonic() + self._deadline_s
        self.batcher.require_room(deadline_s)
        with ExitStack() as stack:
            places = [stack.enter_context(self.batcher.reserve()) for _ in documents]
            asked = await self._read(query)
            turns = asyncio.Semaphore(MAX_READING)

            async def read(document: ItemPart) -> Any:
                async with turns:
                    return await self._read(document)

            parts = await all_of([read(document) for document in documents])
            pairs = [self.scorer.pair(asked, part) for part in parts]
            submitted = [place.submit(pair, deadline_s) for place, pair in zip(places, pairs, strict=True)]
        scored = await all_of(list(map(asyncio.wrap_future, submitted)))
        return [float(one.vector_D[0]) for one in scored], sum(int(pair.num_tokens) for pair in pairs)

    async def _read(self, part: ItemPart) -> Any:
        """An item as the model is given it; an error tells which one it is."""
        modality = part.item.modality
        if modality not in self.scorer.modalities:
            raise UnsupportedModalityError(f"{part.where}: reranker {self.scorer.name} reads texts, and no {modality}")
        try:
            return await self._threads.run(self.scorer.prepare, part.item)
        except InvalidItemError as error:
            told = from_item_error(error)
            raise type(told)(f"{part.where}: {told.message}") from error

    def _may_be_read(self, hit: Hit) -> bool:
        has_text = bool(hit.payload.text and hit.payload.text.strip())
        return has_text or (Modality.IMAGE in self.scorer.modalities and hit.payload.num_images > 0)

    async def _pairs(self, query: Item, hits: Sequence[Hit], request_id: str) -> dict[str, Any]:
        """The query with each key that can be read; a few are read at a time, for others have images to read, too."""
        if not hits:
            return {}
        try:
            asked = await self._threads.run(self.scorer.prepare, query)
        except InvalidItemError as error:
            raise from_item_error(error) from error
        turns = asyncio.Semaphore(MAX_READING)

        async def read(hit: Hit) -> Any:
            async with turns:
                return await self._prepared(hit, request_id)

        parts = await all_of([asyncio.create_task(read(hit)) for hit in hits])
        return {
            hit.key: self.scorer.pair(asked, part) for hit, part in zip(hits, parts, strict=True) if part is not None
        }

    async def _prepared(self, hit: Hit, request_id: str) -> Any | None:
        """A key as the model is given it; `None` if one of its images cannot be read, so that it is not halved."""
        num_images = hit.payload.num_images if Modality.IMAGE in self.scorer.modalities else 0
        positions = range(min(num_images, self._max_images))
        try:
            images = [(await self._lookups.image(hit.key, position, request_id)).data for position in positions]
            return await self._threads.run(self.scorer.prepare, Item(hit.payload.text, tuple(images)))
        except (NotFoundError, ImageNotReachedError, InvalidItemError):
            return None


def _in_order(hits: Sequence[Hit], score_of: Mapping[str, float]) -> list[RankedHit]:
    """Those with a score by that, then the others as they came."""
    ordered = sorted((hit for hit in hits if hit.key in score_of), key=lambda hit: -score_of[hit.key])
    ordered += [hit for hit in hits if hit.key not in score_of]
    return [RankedHit(replace(hit, rank=rank), score_of.get(hit.key)) for rank, hit in enumerate(ordered, 1)]


class Rerankers:
    """The rerankers that are loaded, by name; belongs to one event loop."""

    def __init__(self, loaded: Iterable[LoadedReranker] = ()) -> None:
        """Takes them in the order of the settings."""
        self._by_name = {reranker.scorer.name: reranker for reranker in loaded}

    def all(self) -> list[LoadedReranker]:
        """Each of them."""
        return list(self._by_name.values())

    def named(self, name: str | None) -> LoadedReranker:
        """The one that a request names, or the only one.

        Raises:
            InvalidRequestError: none is loaded, none has this name, or there are several and none was named.
        """
        known = ", ".join(self._by_name)
        if not known:
            raise InvalidRequestError(f"rerank: no reranker is loaded; {HOW_TO_LOAD}")
        if name is None and len(self._by_name) > 1:
            raise InvalidRequestError(f"rerank: expected model to be one of several, known: {known}")
        if name is not None and name not in self._by_name:
            raise InvalidRequestError(f"rerank: unknown model {name[:40]!a}; known: {known}")
        return self._by_name[name] if name is not None else self.all()[0]

    def require_alive(self) -> None:
        """Returns if each of them can score.

        Raises:
            NotReadyError: a worker has died.
        """
        for reranker in self.all():
            if not reranker.batcher.is_alive:
                raise NotReadyError(f"the worker of reranker {reranker.scorer.name} has died; restart the service")


class _AsBatchModel:
    """A scorer as a batcher calls a model: one number comes out for a pair."""

    width = 1

    def __init__(self, scorer: PairScorer) -> None:
        self._scorer = scorer

    def cost(self, prepared: Any) -> int:
        """The pair's tokens."""
        num_tokens: int = prepared.num_tokens
        return num_tokens

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Scores `[B, 1]`."""
        return self._scorer.score(prepared)[:, None]


def load_rerankers(settings: ServiceSettings) -> list[PairScorer]:
    """Loads the cross-encoders that the settings name; without any, no library is loaded.

    Raises:
        StartupError: a library or a directory is missing, or a directory is damaged or no cross-encoder.
    """
    if not settings.rerankers:
        return []
    from anykey.encoder.reranking import Reranker

    try:
        return [
            Reranker.load(
                name,
                Path(place),
                device=settings.device,
                max_tokens=settings.max_rerank_tokens,
                max_image_px=settings.max_rerank_image_px,
                limits=ImageLimits.of(settings),
            )
            for name, place in parse_rerankers(settings.rerankers).items()
        ]
    except (EncoderError, MissingLibraryError, OSError) as error:
        raise StartupError(str(error)) from error


def open_batcher(scorer: PairScorer, settings: ServiceSettings) -> Batcher[Any]:
    """Starts a scorer's worker; closing the batcher ends it."""
    return Batcher(
        _AsBatchModel(scorer),
        max_batch_items=MAX_BATCH_PAIRS,
        max_batch_tokens=settings.max_rerank_batch_tokens,
        max_wait_s=GATHER_S,
        max_queue_items=settings.max_rerank_queue,
        name=f"reranker {scorer.name}",
        items="pairs of query and key",
    )
