"""Takes the records of requests that have ended, and tells them to who makes something of them, off the event loop."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from anykey.service.logs import LogEvent
from anykey.service.operations.records import RequestRecord
from anykey.service.operations.stage_times import StageTimes

EVERY_S = 0.5
TURNS_A_MINUTE = 120
MAX_PENDING = 100_000  # records; of more that come in one turn, the oldest are lost

logger = logging.getLogger(__name__)


class Watcher:
    """Watches what becomes of requests.

    A request adds its record to a list, which costs less than a microsecond. A thread of its own goes through the list
    twice a second. `catch_up` does so at once, for who wants to know how things are now.

    Attributes:
        times: Counts of requests and times.
        num_under_way: Requests that are being answered; belongs to the event loop.
        is_tracing: Whether requests are given a trace that come with none.
        wants_next: Tells whether the queries of the next request are written down; `None`: those of none are.
    """

    def __init__(self) -> None:
        """Prepares; the thread begins with `start`."""
        self.times = StageTimes()
        self.num_under_way = 0
        self.is_tracing = False
        self.wants_next: Callable[[], bool] | None = None
        self._chores: list[Callable[[], None]] = []
        self._readers: list[Callable[[Sequence[RequestRecord]], None]] = [self.times.add]
        self._pending: deque[RequestRecord] = deque(maxlen=MAX_PENDING)
        self._turn = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)

    def tell(self, reader: Callable[[Sequence[RequestRecord]], None]) -> None:
        """Has records told to one more reader, in the watcher's thread; to be called before it starts."""
        self._readers.append(reader)

    def do_each_minute(self, chore: Callable[[], None]) -> None:
        """Has something done now and then, in the watcher's thread; to be called before it starts."""
        self._chores.append(chore)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def close(self) -> None:
        """Goes through what is left and ends the thread; blocks until then."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.catch_up()

    def add(self, record: RequestRecord) -> None:
        """Takes the record of a request that has ended."""
        self._pending.append(record)

    def catch_up(self) -> None:
        """Goes through all records that have come; in any thread."""
        with self._turn:
            records = [self._pending.popleft() for _ in range(len(self._pending))]
            if not records:
                return
            for reader in self._readers:
                try:
                    reader(records)
                except Exception:  # whatever it is, the service and the other readers go on
                    logger.exception("records of requests are lost", extra={"event": LogEvent.RECORDS_LOST})
            for record in records:  # which refers to its batches, and they to it
                record.batches.clear()

    def _work(self) -> None:
        turns_left = 0
        while not self._is_over.wait(EVERY_S):
            self.catch_up()
            turns_left -= 1
            if turns_left <= 0:
                turns_left = TURNS_A_MINUTE
                self._do_chores()

    def _do_chores(self) -> None:
        for chore in self._chores:
            try:
                chore()
            except Exception:  # whatever it is, the watching goes on
                logger.exception("what is done each minute failed", extra={"event": LogEvent.RECORDS_LOST})
