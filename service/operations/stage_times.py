"""How long the stages of requests took, by index and route: since the start, and over the last minutes.

Shape legend: S = stages, B = buckets.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anykey.service.operations.histogram import FINE_BOUNDS_S
from anykey.service.operations.records import RequestRecord

STAGES = ("read", "decode", "queue", "encode", "search", "rerank", "write", "total")
OF_A_QUERY = ("decode", "queue", "encode", "search", "rerank")
SLICE_S = 10.0
NUM_SLICES = 30  # which together are "the last minutes"
RECENT_S = SLICE_S * NUM_SLICES
_STAGE_NUMBERS = {name: number for number, name in enumerate(STAGES)}
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

    def add(self, stages: NDArray[np.int64], buckets: NDArray[np.int64], seconds: NDArray[np.float64]) -> None:
        """Counts times, each of a stage and in a bucket."""
        num_buckets = self.counts_SB.shape[1]
        counts = np.bincount(stages * num_buckets + buckets, minlength=self.counts_SB.size)
        self.counts_SB += counts.reshape(self.counts_SB.shape)
        self.total_S += np.bincount(stages, seconds, minlength=len(STAGES))

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
        times: dict[Place, list[tuple[int, float]]] = {}
        with self._lock:
            for record in records:
                self.requests[record.index, record.route, record.method, record.status] += 1
                if record.error_type:
                    self.errors[record.index, record.route, record.error_type] += 1
                times.setdefault((record.index, record.route), []).extend(stages_of(record))
            if times:
                recent = self._slice()
            for place, numbered in times.items():
                stages, seconds = map(np.array, zip(*numbered, strict=True))
                buckets = np.searchsorted(_BOUNDS, seconds)
                for kept in (self._all, recent):
                    kept.setdefault(place, Times()).add(stages, buckets, seconds)

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


def stages_of(record: RequestRecord) -> Iterator[tuple[int, float]]:
    """The numbers of the stages that a request came through, and how long each took in seconds.

    The stages of each of its queries count once. Writing is writing hits as JSON and handing the answer to the
    connection.
    """
    if record.read_s:
        yield _STAGE_NUMBERS["read"], record.read_s
    for query in record.queries:
        timings = query.fields.timings_ms
        for name in OF_A_QUERY:
            seconds = getattr(timings, name) / 1000
            if name == "search":
                seconds = max(0.0, seconds - query.write_s)
            if seconds:
                yield _STAGE_NUMBERS[name], seconds
    if record.answered_s:
        hits_s = max((query.write_s for query in record.queries), default=0.0)
        yield _STAGE_NUMBERS["write"], record.ended_s - record.answered_s + hits_s
    yield _STAGE_NUMBERS["total"], record.ended_s - record.started_s


def named_stages(record: RequestRecord) -> Iterator[tuple[str, float]]:
    """The same by name, those of several queries together."""
    sums: dict[int, float] = {}
    for number, seconds in stages_of(record):
        sums[number] = sums.get(number, 0.0) + seconds
    for number, seconds in sorted(sums.items()):
        yield STAGES[number], seconds
