"""Read-only connections to one SQLite file, lent to one thread at a time."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from anykey.index.deadline import LOOK_S, NEVER, Deadline

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
        self._idle: list[sqlite3.Connection] = []  # the last one back is the first one lent: its pages are the freshest
        self._kept: set[sqlite3.Connection] = set()  # lent until `give_back`, beyond the block in which they were lent
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(MOST_LENT):
            self._places.put(None)

    @contextmanager
    def lent(self, deadline: Deadline = NEVER) -> Iterator[sqlite3.Connection]:
        """A connection for the length of the block; its statements stop at the deadline.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
        """
        self._take_place(deadline)
        try:
            db = self._take()
            try:
                with stopping_at(db, deadline):
                    yield db
            finally:
                if db not in self._kept:
                    self._take_back(db)
        finally:
            self._places.put(None)

    def keep(self, db: sqlite3.Connection) -> None:
        """Leaves a connection that is lent with the caller when the block ends; its place may be taken by another."""
        self._kept.add(db)

    def give_back(self, db: sqlite3.Connection) -> None:
        """Takes back a connection that was kept."""
        self._kept.discard(db)
        self._take_back(db)

    def close(self) -> None:
        """Closes the connections; none may be lent. Repeating it is fine."""
        while self._idle:
            self._idle.pop().close()

    def _take_place(self, deadline: Deadline) -> None:
        while True:
            try:
                return self._places.get(timeout=min(deadline.seconds_left, LOOK_S))
            except Empty:
                deadline.check()

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _take_back(self, db: sqlite3.Connection) -> None:
        stop_at(db, NEVER)
        if db.in_transaction or len(self._idle) >= MOST_IDLE:  # what is half-done serves nobody
            db.close()
        else:
            self._idle.append(db)


@contextmanager
def stopping_at(db: sqlite3.Connection, deadline: Deadline) -> Iterator[None]:
    """Lets the statements of the block stop at the deadline; later ones too, until they are told otherwise.

    Raises:
        DeadlineExceededError: one was stopped.
    """
    stop_at(db, deadline)
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            deadline.check()
        raise


def stop_at(db: sqlite3.Connection, deadline: Deadline) -> None:
    """Lets a connection's statements stop at a deadline, in place of the one before."""
    if deadline is NEVER:
        db.set_progress_handler(None, 0)
    else:
        db.set_progress_handler(lambda: deadline.is_over, STEPS_BETWEEN_LOOKS)
