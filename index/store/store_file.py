"""A store's SQLite file: opening it for reading, what it says about itself, and how damage is told.

`Connections` are lent to one thread at a time; those to a version's postings are as well.
"""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from anykey.index.deadline import LOOK_S, NEVER, Deadline
from anykey.index.errors import IndexCorruptError
from anykey.index.store.records import checksum_of

APPLICATION_ID = 0x416E794B  # "AnyK"
SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 30.0
ROOM_BYTES = 128 * 1024  # that a writer needs to open a store: 32 KiB shared by all who have it open, and its log
META_CHECKSUM = "checksum"  # among what a store says about itself: the CRC-32 of all else
READ_CACHE_KIB = 16 * 1024  # of a connection, at most; SQLite's 2 MiB do not hold the inner pages of 1,000,000 keys
MOST_LENT = max(32, os.cpu_count() or 1)  # connections to one file at a time
MOST_IDLE = 8  # kept open for the next; each has pages of the file in memory, and one to three open files
STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's machine, less than a millisecond

_NOT_DAMAGE = tuple(
    f"SQLITE_{name}"
    for name in ("BUSY", "LOCKED", "CANTOPEN", "PERM", "READONLY", "NOMEM", "FULL", "IOERR", "INTERRUPT")
)


def read_meta(db: sqlite3.Connection) -> dict[str, Any]:
    """What was noted about a whole store.

    Raises:
        IndexCorruptError: it differs from its checksum, which stores of earlier releases do not have.
    """
    meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
    if meta.pop(META_CHECKSUM, None) not in (None, _meta_checksum(meta)):
        raise IndexCorruptError(path_of(db), "what it says about itself, in `meta`, differs from its checksum")
    return meta


def read_seq(db: sqlite3.Connection) -> int:
    """Number of a store's last change; unlike `read_meta`, it looks at nothing else, and at no checksum.

    Raises:
        IndexCorruptError: it is no number, or is not there.
    """
    found = db.execute("SELECT value FROM meta WHERE name = 'seq'").fetchone()
    if found is None or not isinstance(found[0], int):
        raise IndexCorruptError(path_of(db), "it does not tell its last change")
    return found[0]


def write_meta(db: sqlite3.Connection, facts: dict[str, Any], known: dict[str, Any] | None = None) -> None:
    """Notes facts about a whole store, in the transaction of the caller.

    Args:
        db: The store's connection.
        facts: The facts.
        known: What was noted before, where that has been read in the same transaction.

    Raises:
        IndexCorruptError: what was noted before differs from its checksum.
    """
    rows = {**facts, META_CHECKSUM: _meta_checksum({**(known or read_meta(db)), **facts})}
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows.items())


class Meta:
    """What is noted about a whole store that is open; for one thread at a time.

    It is read, and compared with its checksum, where another connection may have changed it since, and not before.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        """Reads nothing yet.

        Args:
            db: The store's connection, over which it is changed by `write` alone.
        """
        self._db = db
        self._facts: dict[str, Any] | None = None
        self._version: int | None = None  # which SQLite changes with every commit of another connection

    def read(self) -> dict[str, Any]:
        """The facts, which the caller leaves as they are.

        Raises:
            IndexCorruptError: they differ from their checksum.
        """
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if self._facts is None or version != self._version:
            self._facts, self._version = read_meta(self._db), version
        return self._facts

    def write(self, facts: dict[str, Any]) -> None:
        """Notes facts, in the transaction of the caller, who calls `forget` if it is taken back.

        Raises:
            IndexCorruptError: what was noted before differs from its checksum.
        """
        known = self.read()
        write_meta(self._db, facts, known)
        self._facts = {**known, **facts}

    def forget(self) -> None:
        """Has the facts read anew."""
        self._facts = None


def path_of(db: sqlite3.Connection) -> Path:
    """The file that a connection is open on."""
    return Path(db.execute("PRAGMA database_list").fetchone()[2])


def vector_dtype(meta: dict[str, Any]) -> np.dtype[Any]:
    """How a store keeps its vectors: little-endian float32 or float16."""
    return np.dtype({"float32": "<f4", "float16": "<f2"}[meta["vector_type"]])


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot change the file; for whichever one thread uses it at a time.

    A transaction that a killed writer left half-written in the file is rolled back first.

    Raises:
        IndexCorruptError: the file is no store.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise IndexCorruptError(path, "it is missing")
    require_readable(path)
    with naming_damage(path):
        _roll_back(path)
        db = _connect(path, "ro")
        try:
            identity = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute(f"PRAGMA cache_size = -{READ_CACHE_KIB}")
        except BaseException:
            db.close()
            raise
    if (identity, version) != (APPLICATION_ID, SCHEMA_VERSION):
        db.close()
        raise IndexCorruptError(
            path, f"expected a store of schema {SCHEMA_VERSION}, got {identity:#x} schema {version}"
        )
    return db


def is_unfinished(path: Path) -> bool:
    """Whether a store is one that somebody began and no version was ever made of: whatever is in it is only staged.

    The encoder is noted in the transaction that publishes the first version. Earlier releases published stores without
    keys, which no change is of, and noted it there too. What cannot be read is taken for a store that has keys.
    """
    if not path.exists():
        return True
    try:
        _roll_back(path)
        with closing(_connect(path, "ro")) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # stopped before the tables were there
                return db.execute("SELECT 1 FROM sqlite_master").fetchone() is None
            meta = read_meta(db)
            return bool(meta["seq"] == 0 and "fingerprint" not in meta)
    except (sqlite3.Error, IndexCorruptError, LookupError, OSError):
        return False


def require_room(path: Path) -> None:
    """Makes sure that a writer can open a store: one that fails in the middle of it keeps readers from opening it.

    Raises:
        OSError: the disk is too full for that.
    """
    if shutil.disk_usage(path.parent).free < ROOM_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _meta_checksum(meta: dict[str, Any]) -> int:
    by_name = sorted(meta.items(), key=lambda fact: repr(fact[0]))  # of a damaged store, names may be anything
    return checksum_of(by_name)


def _roll_back(path: Path) -> None:
    """Lets SQLite undo what a rollback journal holds, which it does only over a connection that may write.

    A store is in journal mode WAL while it is open for writing; it has such a journal while the mode changes.
    """
    if not path.with_name(f"{path.name}-journal").exists():
        return
    try:
        with closing(_connect(path, "ro")) as db:
            db.execute("PRAGMA user_version").fetchone()
            return  # a journal of a writer that lives
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
            raise
    with closing(_connect(path, "rw")) as db:
        db.execute("PRAGMA user_version").fetchone()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, BUSY_TIMEOUT_S, uri=True, isolation_level=None, check_same_thread=False)


def is_undecodable(error: sqlite3.Error) -> bool:
    """Whether Python complains about a text that is no UTF-8, though SQLite read it."""
    return str(error).startswith("Could not decode to UTF-8")


@contextmanager
def reading_any_text(db: sqlite3.Connection) -> Iterator[None]:
    """Lets the block read texts that are no UTF-8; what is none of it becomes half surrogate pairs."""
    db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        db.text_factory = str


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turns SQLite's complaints about a store into an error that names it.

    Raises:
        IndexCorruptError: the file is damaged.
        OSError: it cannot be opened, read or written for another reason, such as its permissions or a full disk; says
            what to do.
    """
    try:
        yield
    except UnicodeDecodeError as error:  # of a name that SQLite complains about
        raise IndexCorruptError(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        if not path.exists():
            raise IndexCorruptError(path, "it is missing") from error
        if getattr(error, "sqlite_errorname", "").startswith(_NOT_DAMAGE):
            raise unusable(path, error) from error
        raise IndexCorruptError(path, str(error)) from error


def unusable(path: Path, error: sqlite3.Error) -> OSError:
    """What is said of an SQLite file that cannot be read or written now, whatever it holds; with the way out."""
    is_full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
    return OSError(f"cannot read or write {path}: {error}{'; make room on that disk and try again' * is_full}")


def require_readable(path: Path) -> None:
    """Makes sure that a file that is there may be read, since SQLite and FAISS tell it as if it were damaged.

    Raises:
        PermissionError: it may not; names it.
    """
    if path.exists() and not os.access(path, os.R_OK):  # to open and close it would drop SQLite's locks on it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


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
