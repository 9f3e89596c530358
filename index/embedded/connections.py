"""Read-only connections to one SQLite file, lent to one thread at a time."""

import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from index.deadline import NEVER, Deadline

MOST_LENT = max(32, os.cpu_count() or 1)
MOST_IDLE = 8  # kept open for the next; each has pages of the file in memory, and one to three open files
STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's machine, less than a millisecond


class Connections:
    """A bounded number of connections for any number of threads, also for those that come and go.

    Who comes while all are lent waits for one. Safe for use from several threads. `close` closes them all.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Opens nothing yet.

        Args:
            connect: Makes a connection, which one thread uses at a time.
        """
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._places = threading.Semaphore(MOST_LENT)

    @contextmanager
    def lent(self, deadline: Deadline = NEVER) -> Iterator[sqlite3.Connection]:
        """A connection for the length of the block; its statements stop at the deadline.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        left_s = deadline.seconds_left
        if not self._places.acquire(timeout=None if math.isinf(left_s) else left_s):
            deadline.check()
        try:
            db = self._take()
            try:
                with _stopping(db, deadline):
                    yield db
            finally:
                self._take_back(db)
        finally:
            self._places.release()

    def close(self) -> None:
        """Closes the connections; none may be lent. Repeating it is fine."""
        with self._lock:
            for db in self._idle:
                db.close()
            self._idle.clear()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _take_back(self, db: sqlite3.Connection) -> None:
        with self._lock:
            if not db.in_transaction and len(self._idle) < MOST_IDLE:  # what is half-done serves nobody
                self._idle.append(db)
                return
        db.close()


@contextmanager
def _stopping(db: sqlite3.Connection, deadline: Deadline) -> Iterator[None]:
    """Stops what the connection does in the block once the deadline is over."""
    if deadline is NEVER:
        yield
        return
    db.set_progress_handler(lambda: deadline.is_over, STEPS_BETWEEN_LOOKS)
    try:
        yield
    except sqlite3.OperationalError:
        deadline.check()
        raise
    finally:
        db.set_progress_handler(None, 0)
