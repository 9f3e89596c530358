"""Concurrent requests share the batches of a model.

Shape legend: B = batch, D = width.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict, dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.service.errors import DeadlineExceededError, InternalError, NotReadyError, OverloadedError
from anykey.service.logs import LogEvent

PreparedT = TypeVar("PreparedT")
Vector = NDArray[np.float32]

logger = logging.getLogger(__name__)


class BatchModel(Protocol):
    """What a batcher needs of a model: a part of `ItemEncoder`."""

    @property
    def width(self) -> int:
        """D, how many numbers come out for an item."""
        ...

    def cost(self, prepared: Any) -> int:
        """Tokens of an item, at least 1."""
        ...

    def encode_prepared(self, prepared: Sequence[Any]) -> Vector:
        """Numbers `[B, D]` for items."""
        ...


@dataclass(frozen=True)
class Encoded:
    """One item's vector and what it waited for.

    Attributes:
        vector_D: What the model gave for it, float32.
        queue_s: From joining the queue to the start of its batch.
        encode_s: Duration of the whole batch.
        batch_items: How many items shared the batch.
    """

    vector_D: Vector
    queue_s: float
    encode_s: float
    batch_items: int


@dataclass
class BatcherCounters:
    """What became of the items so far; each item that got a place counts once in the last five.

    Attributes:
        batches: Batches given to the encoder, failed ones included.
        rejected: Refused a place because the queue was full.
        encoded: Came out with a vector.
        dropped: Cancelled by their caller before their batch was formed.
        expired: Past their deadline when their batch was formed.
        failed: In a batch that failed.
        abandoned: Still unanswered when the batcher was closed or its worker died.
    """

    batches: int = 0
    rejected: int = 0
    encoded: int = 0
    dropped: int = 0
    expired: int = 0
    failed: int = 0
    abandoned: int = 0


@dataclass
class _Entry(Generic[PreparedT]):
    prepared: PreparedT
    num_tokens: int
    deadline_s: float
    queued_s: float
    future: "Future[Encoded]" = field(default_factory=Future)


class Batcher(Generic[PreparedT]):
    """Gathers items of concurrent requests into batches for one model, an encoder mostly.

    One worker thread owns the model, which is called the encoder here. Everything else may be called from any thread;
    waiting is done on `concurrent.futures.Future`, from asyncio with `asyncio.wrap_future`.

    What triggers a batch: as much is waiting as a batch may hold, or the oldest item has waited `max_wait_s`. A batch
    holds `max_batch_items` items and `max_batch_tokens` of their tokens at most, which is what their memory and time
    are bounded by: eight photos are no more than some hundred texts. An item that has more is a batch of its own.
    While a batch computes, items gather; when it ends, whatever has waited long enough leaves at once. The
    items were decoded before they came here, so forming a batch costs nothing, and it is formed as late as
    possible, which fills it best.

    Places: `reserve` takes one of `max_queue_items` places or raises `OverloadedError` at once. A place is taken
    before the costly decoding and is given back when the item's batch is formed, or when the `Place` is left
    without submitting. So the limit covers items being decoded and items waiting, not the batch that computes.

    When the batch is formed, items whose future was cancelled are dropped, items past their deadline get
    `DeadlineExceededError`, and neither reaches the encoder.

    Failure: when the encoder raises, or answers with something else than finite vectors of its width, every
    future of that batch gets `InternalError` (the encoder's error is its cause and is logged with traceback),
    and the worker lives on. Should the worker end for any other reason, `is_alive` turns false, every waiting
    future gets `NotReadyError`, and so does every later `submit`: nothing hangs.

    Shutdown: `close` refuses new items with `NotReadyError`, stops waiting for batches to fill, encodes what is
    queued, and returns when the worker has ended or after `drain_s`; what is unanswered then gets
    `NotReadyError`. A second `close` does nothing.

    Counters: see `BatcherCounters`. Units: items, but `batches`.
    """

    def __init__(
        self,
        encoder: BatchModel,
        *,
        max_batch_items: int,
        max_batch_tokens: int,
        max_wait_s: float,
        max_queue_items: int,
        clock: Callable[[], float] = time.monotonic,
        name: str = "encoder",
        items: str = "queries",
    ) -> None:
        """Starts the worker.

        Args:
            encoder: Embeds in the worker's thread only.
            max_batch_items: Most items of a batch.
            max_batch_tokens: Most tokens of a batch, as the encoder's `cost` has them.
            max_wait_s: Longest wait for a batch to fill while the encoder is idle.
            max_queue_items: Places.
            clock: Seconds, monotonic; deadlines are given on it.
            name: What the model is, for messages and the thread's name.
            items: What its items are, for messages.
        """
        self._encoder = encoder
        self._name = name
        self._items = items
        self._max_batch_items = max_batch_items
        self._max_batch_tokens = max_batch_tokens
        self._max_wait_s = max_wait_s
        self._max_queue_items = max_queue_items
        self._clock = clock
        self._counters = BatcherCounters()
        self._changed = threading.Condition()
        self._queue: deque[_Entry[PreparedT]] = deque()
        self._computing: list[_Entry[PreparedT]] = []
        self._places_taken = 0
        self._is_closing = False
        self._is_alive = True
        self._worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._worker.start()

    @property
    def is_alive(self) -> bool:
        """Whether items are still taken and encoded."""
        return self._is_alive and not self._is_closing

    def counters(self) -> dict[str, int]:
        """A consistent copy of `BatcherCounters`, and as they are now: places taken, and items decoded and queued."""
        with self._changed:
            now = {"places_taken": self._places_taken, "queued": len(self._queue)}
            return {**asdict(self._counters), **now}

    def reserve(self) -> "Place[PreparedT]":
        """Takes a place in the queue, to be used as a context manager.

        Raises:
            OverloadedError: every place is taken.
            NotReadyError: closed, or the worker died.
        """
        with self._changed:
            self._check_open()
            if self._places_taken >= self._max_queue_items:
                self._counters.rejected += 1
                raise OverloadedError(
                    f"{self._places_taken} {self._items} are waiting, the most accepted; retry in a moment"
                )
            self._places_taken += 1
        return Place(self)

    def close(self, drain_s: float) -> None:
        """Encodes what is queued and ends the worker; blocks for `drain_s` at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._worker.join(drain_s)
        self._abandon("the service is shutting down")

    def _submit(self, prepared: PreparedT, deadline_s: float) -> "Future[Encoded]":
        entry = _Entry(prepared, self._encoder.cost(prepared), deadline_s, self._clock())
        with self._changed:
            self._check_open()
            self._queue.append(entry)
            self._changed.notify_all()
        return entry.future

    def _release(self) -> None:
        with self._changed:
            self._places_taken -= 1

    @property
    def _died(self) -> str:
        return f"the {self._name}'s worker has died"

    def _check_open(self) -> None:
        if self._is_closing:
            raise NotReadyError("the service is shutting down")
        if not self._is_alive:
            raise NotReadyError(self._died)

    def _work(self) -> None:
        """The worker thread: batches until closed and empty."""
        try:
            while (batch := self._next_batch()) is not None:
                if batch:
                    self._compute(batch)
        finally:
            with self._changed:
                self._is_alive = False
            if not self._is_closing:
                logger.critical(self._died, extra={"event": LogEvent.WORKER_DIED})
            self._abandon(self._died)

    def _next_batch(self) -> list[_Entry[PreparedT]] | None:
        """Waits for a batch and forms it; empty when all in it were dropped, `None` when there is no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closing)
            if not self._queue:
                return None
            leaves_s = self._queue[0].queued_s + self._max_wait_s
            while not self._is_closing and not self._is_enough():
                remaining_s = leaves_s - self._clock()
                if remaining_s <= 0:
                    break
                self._changed.wait(remaining_s)
            taken = [self._queue.popleft() for _ in range(self._num_fitting())]
            self._places_taken -= len(taken)
            now_s = self._clock()
            self._computing = [entry for entry in taken if self._is_wanted(entry, now_s)]
            return self._computing

    def _is_enough(self) -> bool:
        """Whether a batch is full, or the next item does not fit into it."""
        num_fitting = self._num_fitting()
        return num_fitting == self._max_batch_items or num_fitting < len(self._queue)

    def _num_fitting(self) -> int:
        """How many of the items that wait longest make a batch."""
        num_tokens = 0
        for number, entry in enumerate(islice(self._queue, self._max_batch_items)):
            num_tokens += entry.num_tokens
            if number and num_tokens > self._max_batch_tokens:
                return number
        return min(len(self._queue), self._max_batch_items)

    def _is_wanted(self, entry: _Entry[PreparedT], now_s: float) -> bool:
        if not entry.future.set_running_or_notify_cancel():
            self._counters.dropped += 1
            return False
        if now_s >= entry.deadline_s:
            self._counters.expired += 1
            entry.future.set_exception(DeadlineExceededError("the request waited past its deadline in the queue"))
            return False
        return True

    def _compute(self, batch: list[_Entry[PreparedT]]) -> None:
        """Encodes one batch and resolves every future in it, whatever happens."""
        started_s = self._clock()
        try:
            vectors_BD = self._encoder.encode_prepared([entry.prepared for entry in batch])
            self._check_vectors(vectors_BD, len(batch))
        except Exception as error:
            fields = {"event": LogEvent.BATCH_FAILED, "model": self._name, "batch_items": len(batch)}
            logger.exception("a batch failed", extra=fields)
            self._finish(batch, [_internal(error, self._name) for _ in batch])
            return
        encode_s = self._clock() - started_s
        self._finish(
            batch,
            [
                Encoded(vector_D, started_s - entry.queued_s, encode_s, len(batch))
                for vector_D, entry in zip(vectors_BD, batch, strict=True)
            ],
        )

    def _check_vectors(self, vectors_BD: Vector, num_items: int) -> None:
        expected = (num_items, self._encoder.width)
        if vectors_BD.shape != expected:
            raise ValueError(f"the {self._name} gave shape {vectors_BD.shape}, expected {expected}")
        if not np.isfinite(vectors_BD).all():
            raise ValueError(f"the {self._name} gave numbers that are not finite")

    def _finish(self, batch: list[_Entry[PreparedT]], outcomes: Sequence[Encoded | Exception]) -> None:
        with self._changed:
            if self._computing is not batch:  # closed meanwhile; `_abandon` answered and counted them
                return
            self._computing = []
            self._counters.batches += 1
            if isinstance(outcomes[0], Encoded):
                self._counters.encoded += len(batch)
            else:
                self._counters.failed += len(batch)
        for entry, outcome in zip(batch, outcomes, strict=True):
            _resolve(entry.future, outcome)

    def _abandon(self, reason: str) -> None:
        """Answers everything that is still waiting with `NotReadyError`."""
        with self._changed:
            left = [*self._computing, *self._queue]
            self._places_taken -= len(self._queue)
            self._queue.clear()
            self._computing = []
            self._counters.abandoned += len(left)
        for entry in left:
            _resolve(entry.future, NotReadyError(reason))


class Place(Generic[PreparedT]):
    """A place in a batcher's queue, held from before decoding until the item's batch is formed.

    Used as a context manager, which gives an unused place back.
    """

    def __init__(self, batcher: Batcher[PreparedT]) -> None:
        self._batcher = batcher
        self._is_used = False

    def submit(self, prepared: PreparedT, deadline_s: float) -> "Future[Encoded]":
        """Puts an item into the queue; once per place.

        Args:
            prepared: The item, as the encoder's `prepare` gave it.
            deadline_s: On the batcher's clock; later than this the item is not encoded any more.

        Returns:
            A future of the vector; cancelling it drops the item when its batch is formed. It may raise
            `DeadlineExceededError`, `InternalError` or `NotReadyError`.

        Raises:
            NotReadyError: closed, or the worker died.
        """
        assert not self._is_used, "a place holds one item"
        future = self._batcher._submit(prepared, deadline_s)
        self._is_used = True
        return future

    def __enter__(self) -> "Place[PreparedT]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_used:
            self._is_used = True
            self._batcher._release()


def _resolve(future: "Future[Any]", outcome: object) -> None:
    """Sets a result or an exception; does nothing when the future was cancelled meanwhile."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass


def _internal(error: Exception, name: str) -> InternalError:
    """A wire error of its own for one item of a failed batch."""
    internal = InternalError(f"the {name} failed on the batch this query was part of")
    internal.__cause__ = error
    return internal
