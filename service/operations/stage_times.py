"""How long the stages of requests took, by index and route: since the start, and over the last minutes.

Shape legend: S = stages, B = buckets.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anykey.service.operations.histogram import FINE_BOUNDS_S
from anykey.service.operations.records import RequestRecord

STAGES = ("read", "decode", "queue", "encode", "search", "rerank", "write", "total")
READ, DECODE, QUEUE, ENCODE, SEARCH, RERANK, WRITE, TOTAL = range(len(STAGES))
SLICE_S = 10.0
NUM_SLICES = 30  # which together are "the last minutes"
RECENT_S = SLICE_S * NUM_SLICES
_BOUNDS = np.array(FINE_BOUNDS_S)

Place = tuple[str, str]
"""Name of an index, and a route."""


@dataclass
class Times:
    """Times of each stage.

    Attributes:
        counts_SB: How many are in each bucket of `FINE_BOUNDS_S`, and above.
        total_S: Their sums, in seconds.
    """

    counts_SB: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(STAGES), len(FINE_BOUNDS_S) + 1), np.int64)
    )
    total_S: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(STAGES)))

    def add(self, stage: int, seconds: NDArray[np.float64], buckets: NDArray[np.int64]) -> None:
        """Counts times of a stage, each in its bucket."""
        self.counts_SB[stage] += np.bincount(buckets, minlength=self.counts_SB.shape[1])
        self.total_S[stage] += seconds.sum()

    def join(self, other: "Times") -> None:
        """Counts another's times, too."""
        self.counts_SB += other.counts_SB
        self.total_S += other.total_S


class StageTimes:
    """Counts of requests, errors and times; any thread may use it.

    Attributes:
        requests: How many were answered, by index, route, method and status.
        errors: How many were not answered as they asked, by index, route and the error's type.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins empty.

        Args:
            clock: Seconds that only go forward.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._all: dict[Place, Times] = {}
        self._slices: deque[tuple[int, dict[Place, Times]]] = deque(maxlen=NUM_SLICES)
        self.requests: Counter[tuple[str, str, str, int]] = Counter()
        self.errors: Counter[tuple[str, str, str]] = Counter()

    def add(self, records: Iterable[RequestRecord]) -> None:
        """Counts requests."""
        times: dict[Place, list[list[float]]] = {}
        with self._lock:
            for record in records:
                self.requests[record.index, record.route, record.method, record.status] += 1
                if record.error_type:
                    self.errors[record.index, record.route, record.error_type] += 1
                place = (record.index, record.route)
                by_stage = times.get(place)
                if by_stage is None:
                    by_stage = times[place] = [[] for _ in STAGES]
                add_stages(record, by_stage)
            if times:
                recent = self._slice()
            for place, by_stage in times.items():
                kept = (self._all.setdefault(place, Times()), recent.setdefault(place, Times()))
                for stage, listed in enumerate(by_stage):
                    if listed:
                        seconds = np.array(listed)
                        buckets = np.searchsorted(_BOUNDS, seconds)
                        for each in kept:
                            each.add(stage, seconds, buckets)

    def since_start(self) -> dict[Place, Times]:
        """The times of all requests, by index and route."""
        with self._lock:
            return self._joined([self._all])

    def lately(self) -> dict[Place, Times]:
        """The times of requests that ended within the last `RECENT_S` seconds, about."""
        oldest = self._slice_number() - NUM_SLICES
        with self._lock:
            return self._joined([kept for number, kept in self._slices if number > oldest])

    def _joined(self, several: Iterable[dict[Place, Times]]) -> dict[Place, Times]:
        joined: dict[Place, Times] = {}
        for each in several:
            for place, times in each.items():
                joined.setdefault(place, Times()).join(times)
        return joined

    def _slice(self) -> dict[Place, Times]:
        number = self._slice_number()
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append((number, {}))
        return self._slices[-1][1]

    def _slice_number(self) -> int:
        return int(self._clock() // SLICE_S)


def add_stages(record: RequestRecord, by_stage: Sequence[list[float]]) -> None:
    """Adds to the lists of the stages that a request came through how long each took, in seconds.

    The stages of each of its queries count once. Writing is writing hits as JSON and handing the answer to the
    connection.
    """
    if record.read_s:
        by_stage[READ].append(record.read_s)
    hits_s = 0.0
    for query in record.queries:
        timings, write_s = query.fields.timings_ms, query.write_s
        hits_s = max(hits_s, write_s)
        if timings.encode:
            by_stage[DECODE].append(timings.decode / 1000)
            by_stage[QUEUE].append(timings.queue / 1000)
            by_stage[ENCODE].append(timings.encode / 1000)
        if timings.search:
            by_stage[SEARCH].append(max(0.0, timings.search / 1000 - write_s))
        if timings.rerank:
            by_stage[RERANK].append(timings.rerank / 1000)
    if record.answered_s:
        by_stage[WRITE].append(record.ended_s - record.answered_s + hits_s)
    by_stage[TOTAL].append(record.ended_s - record.started_s)


def named_stages(record: RequestRecord) -> Iterator[tuple[str, float]]:
    """The same by name, those of several queries together."""
    by_stage: list[list[float]] = [[] for _ in STAGES]
    add_stages(record, by_stage)
    for name, seconds in zip(STAGES, by_stage, strict=True):
        if seconds:
            yield name, sum(seconds)
