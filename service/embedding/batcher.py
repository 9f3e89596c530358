"""Concurrent requests share the batches of a model.

Shape legend: B = batch, D = width.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anykey.service.concurrency.threads import stand_back
from anykey.service.concurrency.throughput import SURE_SHARE, Throughput
from anykey.service.errors import DeadlineExceededError, InternalError, NotReadyError, OverloadedError, ServiceError
from anykey.service.logs import LogEvent
from anykey.service.operations.histogram import FINE_BOUNDS_S, STEPS_PER_DOUBLING, Histogram
from anykey.service.operations.records import CURRENT, MOST_BATCHES, BatchRecord, RequestRecord

PreparedT = TypeVar("PreparedT")
Vector = NDArray[np.float32]
LEAST_SHARED = 8  # items that a worker takes, where several share what waits: fewer in a batch take longer each
BATCH_SHARE = 0.5  # of the time that who waits longest has left: what its batch may take, for the search comes after it

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
        hopeless: Refused a place because their turn would have come too late.
        encoded: Came out with a vector.
        dropped: Cancelled by their caller before their batch was formed.
        expired: Past their deadline when their batch was formed.
        failed: The encoder failed on them alone.
        abandoned: Still unanswered when the batcher was closed or its worker died.
    """

    batches: int = 0
    rejected: int = 0
    hopeless: int = 0
    encoded: int = 0
    dropped: int = 0
    expired: int = 0
    failed: int = 0
    abandoned: int = 0


class BatchSizes:
    """Sizes of the batches so far, those that failed among them; filled by one worker at a time.

    Attributes:
        items: Items of each.
        tokens: Tokens of each.
        seconds: How long each took that did not fail.
    """

    def __init__(self) -> None:
        """Begins with none."""
        self.items = Histogram([2**power for power in range(13)])
        self.tokens = Histogram([2**power for power in range(4, 21)])
        self.seconds = Histogram(FINE_BOUNDS_S[3 * STEPS_PER_DOUBLING :: STEPS_PER_DOUBLING])

    def add(self, num_items: int, num_tokens: int) -> None:
        """Counts a batch that begins."""
        self.items.add(num_items)
        self.tokens.add(num_tokens)


class Lane(Enum):
    """Which of a batcher's two queues an item waits in."""

    NOW = "now"  # somebody's search waits for it
    LATER = "later"  # such as a key that is to be stored: it stands back behind searches


@dataclass(frozen=True)
class LaterItems:
    """How items of the lane `LATER` share the model with those that are wanted now.

    Attributes:
        max_queue_items: Places of their own.
        max_batch_items: Most of them in one batch while items of `NOW` come, which wait for one such batch at most.
        max_wait_s: So often one of their batches leaves although items of `NOW` wait, so that they get on at all.
        quiet_s: So long after the last item of `NOW` their batches are as large as any.
    """

    max_queue_items: int
    max_batch_items: int
    max_wait_s: float
    quiet_s: float = 1.0


@dataclass
class _Entry(Generic[PreparedT]):
    prepared: PreparedT
    num_tokens: int
    deadline_s: float
    queued_s: float
    lane: Lane
    record: RequestRecord | None = None
    future: "Future[Encoded]" = field(default_factory=Future)


@dataclass
class _Queue(Generic[PreparedT]):
    """One lane: its items, oldest first, their tokens, and how many places are taken of it."""

    max_places: int
    entries: deque[_Entry[PreparedT]] = field(default_factory=deque)
    num_tokens: int = 0
    places_taken: int = 0

    def add(self, entry: _Entry[PreparedT]) -> None:
        """Puts an item behind the others."""
        self.entries.append(entry)
        self.num_tokens += entry.num_tokens

    def take(self, number: int) -> list[_Entry[PreparedT]]:
        """Takes the items that wait longest, and gives their places back."""
        taken = [self.entries.popleft() for _ in range(number)]
        self.num_tokens -= sum(entry.num_tokens for entry in taken)
        self.places_taken -= number
        return taken


class Batcher(Generic[PreparedT]):
    """Gathers items of concurrent requests into batches for one model, an encoder mostly.

    Its workers, one or a few threads, own the model, which is called the encoder here. Everything else may be called
    from any thread; waiting is done on `concurrent.futures.Future`, from asyncio with `asyncio.wrap_future`.

    What triggers a batch: as much is waiting as a batch may hold, the oldest item has waited `max_wait_s`, or there is
    nothing to wait for, because every place that is taken holds an item that is here: none is being decoded. So an item
    that comes alone is not held up. A batch holds `max_batch_items` items and `max_batch_tokens` of their tokens at
    most, which is what their memory and time are bounded by: eight photos are no more than some hundred texts. An item
    that has more is a batch of its own. A batch of `NOW` also has no more than is likely to be done before the deadline
    of the item that waits longest. While a batch computes, items gather. The items were decoded before they came
    here, so forming a batch costs nothing, and it is formed as late as possible, which fills it best. Several workers
    share what a batch may hold, and each leaves the others as many of the waiting items as it takes, but for so few
    that they are better embedded together, for which one batch waits for another.

    Places: `reserve` takes one of `max_queue_items` places or raises `OverloadedError` at once. A place is taken
    before the costly decoding and is given back when the item's batch is formed, or when the `Place` is left
    without submitting. So the limit covers items being decoded and items waiting, not the batch that computes.
    An item of `NOW` is also refused where those before it and its own batch, at the pace of the last batches, take
    longer than it may wait: it would be answered too late, and hold up others that are not.

    Lanes: items of `LATER`, if there are places for such, wait in a queue of their own and never share a batch with
    those of `NOW`, which go first. What keeps the one from starving and the others from waiting, `LaterItems` says.

    When the batch is formed, items whose future was cancelled are dropped, items past their deadline get
    `DeadlineExceededError`, and neither reaches the encoder.

    Failure: when the encoder raises, or answers with something else than finite vectors of its width, that is logged
    with traceback, and the halves of the batch are tried, and their halves (an item that came alone is tried once
    more), so that an item which is the reason fails alone: its future gets `InternalError`, whose cause is the
    encoder's error. The worker lives on. Should one end for
    any other reason, `is_alive` turns false, every waiting future gets `NotReadyError`, and so does every later
    `submit`: nothing hangs.

    Shutdown: `close` refuses new items with `NotReadyError`, stops waiting for batches to fill, encodes what is
    queued, and returns when the workers have ended or after `drain_s`; what is unanswered then gets
    `NotReadyError`. A second `close` does nothing.

    Counters: see `BatcherCounters`. Units: items, but `batches`.

    Attributes:
        sizes: Those of the batches so far.
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
        later: LaterItems | None = None,
        num_workers: int = 1,
    ) -> None:
        """Starts the workers.

        Args:
            encoder: Embeds in the workers' threads only.
            max_batch_items: Most items of a batch.
            max_batch_tokens: Most tokens of a batch, as the encoder's `cost` has them.
            max_wait_s: Longest wait of an idle encoder for items that have a place and are being decoded.
            max_queue_items: Places.
            clock: Seconds, monotonic; deadlines are given on it.
            name: What the model is, for messages and the thread's name.
            items: What its items are, for messages.
            later: How items of `Lane.LATER` take part; absent: there are no places for them.
            num_workers: From how many threads the encoder is called at the same time, if a batch is large enough to
                be shared among so many.
        """
        self._encoder = encoder
        self._name = name
        self._items = items
        self._max_batch_items = max_batch_items
        self._max_batch_tokens = max_batch_tokens
        self._max_wait_s = max_wait_s
        self._later_rule = later or LaterItems(0, 1, 0.0)
        self._clock = clock
        self._counters = BatcherCounters()
        self.sizes = BatchSizes()
        self._changed = threading.Condition()
        self._now: _Queue[PreparedT] = _Queue(max_queue_items)
        self._later: _Queue[PreparedT] = _Queue(self._later_rule.max_queue_items)
        self._last_now_s = -math.inf  # when an item of NOW last came, or left
        self._last_later_s = -math.inf  # when a batch of LATER last left
        self._computing: list[list[_Entry[PreparedT]]] = []  # batches, none of them empty
        self._computing_since_s = 0.0  # these, since the last one before them came out
        self._busy_since_s = 0.0  # with items of NOW that have not come out yet, or since the last that did
        self._tokens_pace, self._items_pace = Throughput(), Throughput()
        self._is_closing = False
        self._is_alive = True
        num_workers = min(num_workers, max(1, max_batch_items // LEAST_SHARED))
        self._workers = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(num_workers)]
        for worker in self._workers:
            worker.start()

    @property
    def is_alive(self) -> bool:
        """Whether items are still taken and encoded."""
        return self._is_alive and not self._is_closing

    def counters(self) -> dict[str, int]:
        """A consistent copy of `BatcherCounters`, and as they are now: places taken, and items decoded and queued."""
        with self._changed:
            now = {"places_taken": self._now.places_taken, "queued": len(self._now.entries)}
            if self._later.max_places:
                now |= {"later_places_taken": self._later.places_taken, "later_queued": len(self._later.entries)}
            return {**asdict(self._counters), **now}

    def reserve(self, lane: Lane = Lane.NOW, deadline_s: float = math.inf) -> "Place[PreparedT]":
        """Takes a place in the queue, to be used as a context manager.

        Args:
            lane: In which of the two.
            deadline_s: On the batcher's clock; when the item's vector has to be there.

        Raises:
            OverloadedError: every place is taken, or an item of `NOW` would be late.
            NotReadyError: closed, or the worker died.
        """
        with self._changed:
            self._check_open()
            queue = self._queue_of(lane)
            self._check_room(queue, deadline_s)
            if queue is self._now and not queue.places_taken and not self._computes(Lane.NOW):
                self._busy_since_s = self._clock()
            queue.places_taken += 1
            if lane is Lane.NOW:
                self._last_now_s = self._clock()
        return Place(self, lane)

    def require_room(self, deadline_s: float) -> None:
        """Returns if `reserve` would give an item of `NOW` a place now; else raises what that would."""
        with self._changed:
            self._check_open()
            self._check_room(self._now, deadline_s)

    def close(self, drain_s: float) -> None:
        """Encodes what is queued and ends the workers; blocks for `drain_s` at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        ends_s = time.monotonic() + drain_s
        for worker in self._workers:
            worker.join(max(0.0, ends_s - time.monotonic()))
        self._abandon("the service is shutting down")

    def _submit(self, prepared: PreparedT, deadline_s: float, lane: Lane) -> "Future[Encoded]":
        entry = _Entry(prepared, self._encoder.cost(prepared), deadline_s, self._clock(), lane, CURRENT.get())
        with self._changed:
            self._check_open()
            self._queue_of(lane).add(entry)
            self._changed.notify_all()
        return entry.future

    def _release(self, lane: Lane) -> None:
        with self._changed:
            self._queue_of(lane).places_taken -= 1
            self._changed.notify_all()  # what waited for its item need not wait any more

    def _queue_of(self, lane: Lane) -> _Queue[PreparedT]:
        return self._now if lane is Lane.NOW else self._later

    def _check_room(self, queue: _Queue[PreparedT], deadline_s: float) -> None:
        """Raises `OverloadedError` if a queue is full, or those in it and before it take too long."""
        if queue.places_taken >= queue.max_places:
            self._counters.rejected += 1
            items = self._items if queue is self._now else "items of less urgency"
            raise OverloadedError(f"{queue.places_taken} {items} are waiting, the most accepted; retry in a moment")
        left_s = max(0.0, deadline_s - self._clock())
        if queue is self._now and (wait_s := self._wait_s(left_s)) > SURE_SHARE * left_s:
            self._counters.hopeless += 1
            raise OverloadedError(
                f"{queue.places_taken} {self._items} are waiting, and one more takes about {wait_s:.1f} s, too long "
                "to be answered in time; retry in a moment"
            )

    def _wait_s(self, left_s: float) -> float:
        """How long an item of NOW that comes now takes to come out, about; 0 while nothing is known, or waits.

        It comes out with its batch, which others may fill up behind it, as far as `_num_fitting` lets them.
        """
        num_decoded = len(self._now.entries)
        before_s = (
            self._computing_left_s(self._clock())
            + self._tokens_pace.seconds_for(self._now.num_tokens)
            + self._items_pace.seconds_for(self._now.places_taken - num_decoded)
        )
        if not before_s:
            return 0.0
        of_batch_s = self._items_pace.seconds_for(min(self._max_batch_items, self._now.places_taken + 1))
        alone_s = self._items_pace.seconds_for(1)
        return before_s + min(of_batch_s, max(alone_s, BATCH_SHARE * (left_s - before_s)))

    def _computing_left_s(self, now_s: float) -> float:
        """How long the batches that compute still take together, about."""
        num_tokens = sum(entry.num_tokens for batch in self._computing for entry in batch)
        computing_s = self._tokens_pace.seconds_for(num_tokens)
        return max(0.0, computing_s - (now_s - self._computing_since_s))

    def _computes(self, lane: Lane) -> bool:
        return any(batch[0].lane is lane for batch in self._computing)

    @property
    def _died(self) -> str:
        return f"the {self._name}'s worker has died"

    def _check_open(self) -> None:
        if self._is_closing:
            raise NotReadyError("the service is shutting down")
        if not self._is_alive:
            raise NotReadyError(self._died)

    def _work(self) -> None:
        """A worker's thread: batches until closed and empty, or another worker has died."""
        stand_back()
        try:
            while (batch := self._next_batch()) is not None:
                if batch:
                    self._compute(batch)
        except BaseException:  # the thread ends with it
            with self._changed:
                self._is_alive = False
                self._changed.notify_all()
            if not self._is_closing:
                logger.critical(self._died, extra={"event": LogEvent.WORKER_DIED})
            self._abandon(self._died)
            raise

    def _next_batch(self) -> list[_Entry[PreparedT]] | None:
        """Waits for a batch and forms it; empty when all in it were dropped, `None` when there is no more."""
        with self._changed:
            while True:
                if not self._is_alive:
                    return None
                now_s = self._clock()
                queue = self._queue_due(now_s)
                if queue is not None:
                    remaining_s = queue.entries[0].queued_s + self._max_wait_s - now_s
                    if self._is_closing or remaining_s <= 0 or self._is_enough(queue, now_s):
                        break
                    self._changed.wait(remaining_s)
                elif self._is_closing:
                    return None
                else:
                    self._changed.wait()
            taken = queue.take(self._num_fitting(queue, now_s))
            if queue is self._later:
                self._last_later_s = now_s
            else:
                self._last_now_s = now_s
            batch = [entry for entry in taken if self._is_wanted(entry, now_s)]
            if batch:
                if not self._computing:
                    self._computing_since_s = now_s
                self._computing.append(batch)
            return batch

    def _queue_due(self, now_s: float) -> _Queue[PreparedT] | None:
        """Whose turn it is: items of NOW, unless there are none or those of LATER have stood back long enough.

        Beside a batch of NOW only a large one begins: few items come out sooner by all cores together, one batch after
        the other.
        """
        if self._later.entries and self._is_turn_of_later(now_s):
            return self._later
        is_beside = self._computes(Lane.NOW) and not self._is_closing
        return self._now if len(self._now.entries) >= (LEAST_SHARED if is_beside else 1) else None

    def _is_turn_of_later(self, now_s: float) -> bool:
        """Whether a batch of LATER may leave; while items of NOW come, it is the only one of its kind."""
        if self._is_quiet(now_s):
            return True
        stood_back_s = now_s - max(self._later.entries[0].queued_s, self._last_later_s)
        is_free = not self._is_wanted_now or stood_back_s >= self._later_rule.max_wait_s
        return is_free and not self._computes(Lane.LATER)

    @property
    def _is_wanted_now(self) -> bool:
        return bool(self._now.entries) or self._computes(Lane.NOW)

    def _is_quiet(self, now_s: float) -> bool:
        return not self._is_wanted_now and now_s - self._last_now_s >= self._later_rule.quiet_s

    def _is_enough(self, queue: _Queue[PreparedT], now_s: float) -> bool:
        """Whether a batch is full, the next item does not fit into it, or nobody is on the way to join it."""
        if queue.places_taken == len(queue.entries):
            return True
        num_fitting = self._num_fitting(queue, now_s)
        return num_fitting == self._capacity(queue, now_s) or num_fitting < len(queue.entries)

    def _num_fitting(self, queue: _Queue[PreparedT], now_s: float) -> int:
        """How many of the items that wait longest make a batch."""
        capacity, num_workers = self._capacity(queue, now_s), len(self._workers)
        max_items = min(capacity, max(LEAST_SHARED, math.ceil(len(queue.entries) / num_workers)))
        max_tokens: float = self._max_batch_tokens * capacity // self._max_batch_items
        if queue is self._now and queue.entries:  # who waits longest should not be late for the others
            units_in_time = self._tokens_pace.units_in(BATCH_SHARE * (queue.entries[0].deadline_s - now_s))
            max_tokens = min(max_tokens, units_in_time / num_workers)
        num_tokens = 0
        for number, entry in enumerate(islice(queue.entries, max_items)):
            num_tokens += entry.num_tokens
            if number and num_tokens > max_tokens:
                return number
        return min(len(queue.entries), max_items)

    def _capacity(self, queue: _Queue[PreparedT], now_s: float) -> int:
        """Most items of a worker's batch: its share of what all of them may hold."""
        max_items = math.ceil(self._max_batch_items / len(self._workers))
        if queue is self._later and not self._is_quiet(now_s):
            return min(self._later_rule.max_batch_items, max_items)
        return max_items

    def _is_wanted(self, entry: _Entry[PreparedT], now_s: float) -> bool:
        if not entry.future.set_running_or_notify_cancel():
            self._counters.dropped += 1
            return False
        if now_s >= entry.deadline_s:
            self._counters.expired += 1
            entry.future.set_exception(_late())
            return False
        return True

    def _compute(self, batch: list[_Entry[PreparedT]]) -> None:
        """Encodes one batch and resolves every future in it, whatever happens."""
        self._finish(batch, self._outcomes(batch))

    def _outcomes(self, batch: Sequence[_Entry[PreparedT]], is_retried: bool = False) -> list[Encoded | ServiceError]:
        """What becomes of each item: where a batch fails, its halves are tried, for one item may be the reason."""
        started_s = self._clock()
        if is_retried and any(started_s >= entry.deadline_s for entry in batch):
            in_time = iter(self._outcomes([entry for entry in batch if started_s < entry.deadline_s], is_retried))
            return [next(in_time) if started_s < entry.deadline_s else _late() for entry in batch]
        if not batch:
            return []
        record = BatchRecord(self._name, started_s, len(batch), sum(entry.num_tokens for entry in batch))
        with self._changed:
            self._counters.batches += 1
            self.sizes.add(record.num_items, record.num_tokens)
        try:
            vectors_BD = self._encoder.encode_prepared([entry.prepared for entry in batch])
            self._check_vectors(vectors_BD, len(batch))
        except Exception as error:
            if not is_retried:
                fields = {"event": LogEvent.BATCH_FAILED, "model": self._name, "batch_items": len(batch)}
                logger.exception("a batch failed", extra=fields)
            if len(batch) == 1:  # one that came alone gets a second chance too, as the parts of a batch do
                return [_internal(error, self._name)] if is_retried else self._outcomes(batch, is_retried=True)
            middle = len(batch) // 2
            return [*self._outcomes(batch[:middle], True), *self._outcomes(batch[middle:], True)]
        encode_s = self._clock() - started_s
        with self._changed:
            self.sizes.seconds.add(encode_s)
        record.ended_s = started_s + encode_s
        _tell_requests(record, batch)
        return [
            Encoded(vector_D, started_s - entry.queued_s, encode_s, len(batch))
            for vector_D, entry in zip(vectors_BD, batch, strict=True)
        ]

    def _check_vectors(self, vectors_BD: Vector, num_items: int) -> None:
        expected = (num_items, self._encoder.width)
        if vectors_BD.shape != expected:
            raise ValueError(f"the {self._name} gave shape {vectors_BD.shape}, expected {expected}")
        if not np.isfinite(vectors_BD).all():
            raise ValueError(f"the {self._name} gave numbers that are not finite")

    def _finish(self, batch: list[_Entry[PreparedT]], outcomes: Sequence[Encoded | ServiceError]) -> None:
        with self._changed:
            if not any(one is batch for one in self._computing):  # closed meanwhile; `_abandon` answered them
                return
            self._note_pace(batch)
            self._computing = [one for one in self._computing if one is not batch]
            self._computing_since_s = self._clock()
            self._changed.notify_all()
            for outcome in outcomes:
                self._counters.encoded += isinstance(outcome, Encoded)
                self._counters.expired += isinstance(outcome, DeadlineExceededError)
                self._counters.failed += isinstance(outcome, InternalError)
        for entry, outcome in zip(batch, outcomes, strict=True):
            _resolve(entry.future, outcome)

    def _note_pace(self, batch: Sequence[_Entry[PreparedT]]) -> None:
        """Notes how long it took until a batch of NOW came out: for all that it waited for, decoding included."""
        if batch[0].lane is Lane.NOW:
            now_s = self._clock()
            seconds, self._busy_since_s = now_s - self._busy_since_s, now_s
            self._tokens_pace.note(sum(entry.num_tokens for entry in batch), seconds)
            self._items_pace.note(len(batch), seconds)

    def _abandon(self, reason: str) -> None:
        """Answers everything that is still waiting with `NotReadyError`."""
        with self._changed:
            left = [entry for batch in self._computing for entry in batch]
            for queue in (self._now, self._later):
                left += queue.take(len(queue.entries))
            self._computing = []
            self._counters.abandoned += len(left)
        for entry in left:
            _resolve(entry.future, NotReadyError(reason))


class Place(Generic[PreparedT]):
    """A place in a batcher's queue, held from before decoding until the item's batch is formed.

    Used as a context manager, which gives an unused place back.
    """

    def __init__(self, batcher: Batcher[PreparedT], lane: Lane) -> None:
        self._batcher = batcher
        self._lane = lane
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
        future = self._batcher._submit(prepared, deadline_s, self._lane)
        self._is_used = True
        return future

    def __enter__(self) -> "Place[PreparedT]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_used:
            self._is_used = True
            self._batcher._release(self._lane)


def _tell_requests(record: BatchRecord, batch: Sequence[_Entry[Any]]) -> None:
    """Notes a batch in the records of the requests that it had items of."""
    for entry in batch:
        request = entry.record
        if request is not None and request not in record.members and len(request.batches) < MOST_BATCHES:
            record.members[request] = entry.queued_s
            request.batches.append(record)


def _resolve(future: "Future[Any]", outcome: object) -> None:
    """Sets a result or an exception; does nothing when the future was cancelled meanwhile."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("the request waited past its deadline in the queue")


def _internal(error: Exception, name: str) -> InternalError:
    """The wire error for an item that the model failed on alone."""
    internal = InternalError(f"the {name} failed on this item")
    internal.__cause__ = error
    return internal
