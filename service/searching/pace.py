"""How many searches pay to share a call of the index: measured with the index that is served.

Exact search fetches each vector once for all queries of a call, a GPU computes many as fast as one, and every call
opens a transaction. A graph that one core walks for one query, on the other hand, gains little or loses.

Shape legend: Q = queries, D = width.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import Deadline
from anykey.index.errors import DeadlineExceededError
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import NotReadyError, OverloadedError
from anykey.service.logs import LogEvent
from anykey.service.searching.searcher import SearchableIndex

BUDGET_S = 1.0  # of both kinds of search together
SIZES = (4, 16, 64)
ROUNDS = 3
MOST_ALONE = 16  # searches that are made alone in a round
K = 10
PAYS_BELOW = 0.8  # of the time alone: less is not worth that one waits for another
NEAR = 1.25  # times the fastest, which two measurements of the same thing differ by
EXACT_UNMEASURED = 16  # where a second is too short: exact search gains by how it is made
RETRY_S = 60.0  # until a measurement that failed is made again

Vector = NDArray[np.float32]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What was measured of one kind of search.

    Attributes:
        alone_ms: Milliseconds a search where each has a call of its own, in as many threads as the service has;
            `None` where the time did not suffice.
        together_ms: Milliseconds a search where so many share a call.
        most_together: How many may share one.
    """

    alone_ms: float | None
    together_ms: dict[int, float]
    most_together: int

    @classmethod
    def of(cls, alone_ms: float | None, together_ms: dict[int, float], *, exact: bool) -> "Trial":
        """Draws the conclusion: the largest size about as fast as the fastest, if that is clearly faster than alone."""
        if alone_ms is None or not together_ms:
            return cls(alone_ms, together_ms, EXACT_UNMEASURED if exact else 1)
        least_ms = min(together_ms.values())
        if least_ms >= PAYS_BELOW * alone_ms:
            return cls(alone_ms, together_ms, 1)
        return cls(alone_ms, together_ms, max(size for size, ms in together_ms.items() if ms <= NEAR * least_ms))


class SearchPace:
    """Knows how many searches may share a call of an index; measures it anew once the index has another version.

    Life: `measure` blocks for `BUDGET_S`, and is called before the first search. A later measurement takes as long in a
    thread of its own; until it is done, what was found before holds. `close` ends that. Any thread may use it.
    """

    def __init__(self, index: SearchableIndex, *, num_threads: int, most_together: int | None) -> None:
        """Nothing is measured yet: each search has a call of its own.

        Args:
            index: What is searched.
            num_threads: How many calls of it may be under way.
            most_together: How many searches may share a call; measured when absent.
        """
        self._index = index
        self._num_threads = num_threads
        self._is_given = most_together is not None
        unknown = Trial(None, {}, most_together or 1)
        self._trials = {False: unknown, True: unknown}
        self._version: str | None = None
        self._is_measured = False
        self._due_s = 0.0
        self._lock = threading.Lock()
        self._closing = Deadline()
        self._threads = BoundedThreads("pace", 1, 1)

    def most_together(self, exact: bool) -> int:
        """How many searches may share a call, of those that compare every key or of the others."""
        if not self._is_given and self._is_due():
            with contextlib.suppress(OverloadedError, NotReadyError):  # it is being measured, or the service ends
                self._threads.submit(self._measure)
        return self._trials[exact].most_together

    def measure(self) -> None:
        """Measures now, unless how many is given."""
        if not self._is_given and self._is_due():
            self._measure()

    def trials(self) -> dict[bool, Trial]:
        """What was found, by whether every key is compared."""
        return dict(self._trials)

    def close(self) -> None:
        """Ends a measurement that is under way."""
        self._closing.cancel()
        self._threads.close()

    def _is_due(self) -> bool:
        """Whether this thread is to measure: nothing of this version was, and nobody else is at it."""
        version = self._index.version
        with self._lock:
            if version == self._version and (self._is_measured or time.monotonic() < self._due_s):
                return False
            self._version, self._is_measured = version, True
            return True

    def _measure(self) -> None:
        width = self._index.encoder.width
        try:
            for exact in (False, True):
                measurement = _Measurement(self._search_of(exact), width, self._num_threads, self._closing)
                self._trials[exact] = measurement.trial(exact=exact)
        except Exception as error:  # the index says elsewhere what is wrong with it
            fields = {"event": LogEvent.INDEX_FAILED}
            logger.warning("cannot tell whether searches together pay: %s", type(error).__name__, extra=fields)
            with self._lock:
                self._is_measured, self._due_s = False, time.monotonic() + RETRY_S

    def _search_of(self, exact: bool) -> Callable[[Vector, Deadline], Any]:
        def search(vectors_QD: Vector, deadline: Deadline) -> Any:
            modalities = [Modality.TEXT] * len(vectors_QD)
            return self._index.search(vectors_QD, K, exact=exact, query_modalities=modalities, deadline=deadline)

        return search


class _Measurement:
    """Searches of one kind, timed until the time is up."""

    def __init__(
        self, search: Callable[[Vector, Deadline], Any], width: int, num_threads: int, closing: Deadline
    ) -> None:
        self._search = search
        self._num_threads = num_threads
        self._closing = closing
        self._deadline = Deadline(BUDGET_S / 2)
        vectors_QD = np.random.default_rng(0).standard_normal((max(SIZES), width)).astype(np.float32)
        self._vectors_QD = vectors_QD / np.linalg.norm(vectors_QD, axis=1, keepdims=True)
        self._times_s: dict[int, float] = {}

    def trial(self, *, exact: bool) -> Trial:
        """All that could be measured in time; the best of some rounds."""
        try:
            first_s = self._timed(self._together, 1)  # reads what is not in memory yet
            for _ in range(ROUNDS):
                self._measure_round(first_s)
        except DeadlineExceededError:
            pass
        alone_s = self._times_s.pop(0, None)
        together_ms = {size: round(1000 * seconds, 4) for size, seconds in sorted(self._times_s.items())}
        return Trial.of(None if alone_s is None else round(1000 * alone_s, 4), together_ms, exact=exact)

    def _measure_round(self, first_s: float) -> None:
        affordable = int(self._deadline.seconds_left / (4 * first_s)) * self._num_threads
        num_alone = max(self._num_threads, min(MOST_ALONE, affordable))
        self._note(0, self._timed(self._alone, num_alone) / num_alone)
        likely_s = self._times_s[0]
        for size in SIZES:
            if size * likely_s > self._deadline.seconds_left:
                return
            likely_s = self._timed(self._together, size) / size
            self._note(size, likely_s)

    def _note(self, size: int, seconds: float) -> None:
        self._times_s[size] = min(seconds, self._times_s.get(size, float("inf")))

    def _timed(self, work: Callable[[int], Any], number: int) -> float:
        started_s = time.perf_counter()
        work(number)
        return time.perf_counter() - started_s

    def _together(self, number: int) -> None:
        self._closing.check()
        self._search(self._vectors_QD[:number], self._deadline)

    def _alone(self, number: int) -> None:
        self._closing.check()
        queries = [self._vectors_QD[query : query + 1] for query in range(number)]
        with ThreadPoolExecutor(self._num_threads) as pool:
            list(pool.map(lambda query_1D: self._search(query_1D, self._deadline), queries))
