"""Answers to requests that clients may repeat, remembered in the transaction of the changes that were asked for.

So a repeated request is answered again and not done twice, also after a kill at any moment. An answer is remembered for
a day, unless so many or so large ones come after it that it has to make room. Stores of earlier releases get the table
when they are opened for writing, and those releases leave it alone.
"""

import json
import sqlite3
import time
import zlib

from anykey.index.changes import Applied, Outcome, RequestKey, Status
from anykey.index.errors import IndexCorruptError, RequestMismatchError
from anykey.index.store.records import checksum_of
from anykey.index.store.store_file import path_of

REMEMBERED_S = 24 * 3600
MOST_REQUESTS = 100_000
MOST_BYTES = 64 * 2**20  # of all answers together
REQUESTS = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    answered_s INTEGER NOT NULL,
    answer BLOB NOT NULL,
    end_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
"""


def remembered(db: sqlite3.Connection, request: RequestKey) -> Applied | None:
    """The answer to an earlier request of the same name, if it is remembered.

    Raises:
        RequestMismatchError: that was another request.
        IndexCorruptError: it is damaged.
    """
    found = db.execute(
        "SELECT digest, answered_s, answer, checksum FROM requests WHERE name = ?", (request.name,)
    ).fetchone()
    if found is None or found[1] <= time.time() - REMEMBERED_S:
        return None
    digest, answered_s, answer, checksum = found
    if checksum_of([request.name, answered_s, repr(digest)], answer) != checksum:
        raise IndexCorruptError(path_of(db), f"the answer to request {request.name!r} differs from its checksum")
    if digest != request.digest:
        raise RequestMismatchError(
            f"idempotency key {request.name!a} was used for another request; expected a new key for a new request"
        )
    return _load(answer)


def remember(db: sqlite3.Connection, request: RequestKey, applied: Applied) -> None:
    """Remembers an answer, in the transaction of the caller, and forgets the oldest ones there is no room for."""
    now_s, answer = int(time.time()), _dump(applied)
    last = db.execute("SELECT end_bytes FROM requests ORDER BY id DESC LIMIT 1").fetchone()
    end_bytes = (0 if last is None else last[0]) + len(answer)
    checksum = checksum_of([request.name, now_s, repr(request.digest)], answer)
    columns = "name, digest, answered_s, answer, end_bytes, checksum"
    facts = (request.name, request.digest, now_s, answer, end_bytes, checksum)
    identity = db.execute(f"INSERT OR REPLACE INTO requests ({columns}) VALUES (?, ?, ?, ?, ?, ?)", facts).lastrowid
    kept = db.execute(
        "SELECT id FROM requests WHERE id > ? AND answered_s > ? AND end_bytes > ? ORDER BY id LIMIT 1",
        ((identity or 0) - MOST_REQUESTS, now_s - REMEMBERED_S, end_bytes - MOST_BYTES),
    ).fetchone()
    db.execute("DELETE FROM requests WHERE id < ?", (identity if kept is None else kept[0],))


def _dump(applied: Applied) -> bytes:
    outcomes = [[each.key, each.status, each.seq, each.is_new, each.reason] for each in applied.outcomes]
    return zlib.compress(json.dumps([outcomes, applied.num_deleted, applied.seq]).encode(), 1)


def _load(answer: bytes) -> Applied:
    outcomes, num_deleted, seq = json.loads(zlib.decompress(answer))
    made = tuple(Outcome(key, Status(status), *rest) for key, status, *rest in outcomes)
    return Applied(made, num_deleted, seq, is_repeat=True)
