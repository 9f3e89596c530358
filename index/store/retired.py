"""Records that were replaced or deleted, kept as long as a version covers a moment at which they were live.

A retired record leaves `keys` and is written to `retired` with the number of the change that ended it; its vector and
its images stay where they are, under the `id` that is never used again. So a change of a key costs one more line, and
going back to a version needs nothing but the store. Releases that know nothing of this table change the store as they
always did, and what they replace is gone: a version is gone back to only if all of its records are still there.
"""

import sqlite3
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import IndexCorruptError
from anykey.index.store.records import checksum_of
from anykey.index.store.store_file import path_of
from anykey.index.store.store_records import RECORD, drop_parts

Origin = Literal["corpus", "live"]
Ender = Literal["corpus", "live", "rollback"]  # who replaced or deleted a record

RETIRED = f"""
CREATE TABLE IF NOT EXISTS retired (
    row INTEGER PRIMARY KEY,
    ended INTEGER NOT NULL,
    ended_by TEXT NOT NULL,
    ending INTEGER NOT NULL,
    id INTEGER NOT NULL,
    key TEXT NOT NULL,
    {RECORD}
);
"""
LIVE_AT = "row <= ? AND ended > ?"  # of a retired record: it was live after that change, given twice
_PAYLOAD = "id, key, modality, text, metadata, pools, num_images"
_FACTS = f"{_PAYLOAD}, origin, content_sha256, payload_sha256, stamps, checksum"
_PAGE_ROWS = 1000


def retire(db: sqlite3.Connection, identity: int, seq: int, key: str, ended: int, ended_by: Ender) -> None:
    """Notes a live record, which the caller is about to take out of `keys`, as one that ended."""
    ending = checksum_of([seq, key, ended, ended_by])
    query = f"INSERT INTO retired SELECT row, ?, ?, ?, {_FACTS} FROM keys WHERE id = ?"
    db.execute(query, (ended, ended_by, ending, identity))


def has_retired(db: sqlite3.Connection) -> bool:
    """Whether a store knows of retired records; those that only earlier releases wrote do not."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'retired'").fetchone() is not None


def prune(db: sqlite3.Connection, seqs: Sequence[int], after: int) -> int | None:
    """Deletes some of the retired records that were live at none of some moments.

    Args:
        db: The store's connection, in a transaction.
        seqs: The moments, as numbers of changes.
        after: The change number after which it goes on; -1 to begin.

    Returns:
        The one to go on after; `None` if there are no more.
    """
    page = db.execute(
        "SELECT row, ended, id FROM retired WHERE row > ? ORDER BY row LIMIT ?", (after, _PAGE_ROWS)
    ).fetchall()
    for stored, ended, identity in page:
        if not any(stored <= seq < ended for seq in seqs):
            db.execute("DELETE FROM retired WHERE row = ?", (stored,))
            drop_parts(db, identity)
    return page[-1][0] if page else None


def forget(db: sqlite3.Connection) -> None:
    """Deletes all retired records, in the transaction of the caller."""
    db.execute("DELETE FROM retired")
    for table in ("vectors", "images"):
        db.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT id FROM keys UNION ALL SELECT id FROM staged)")


def seqs_at(db: sqlite3.Connection, seq: int) -> NDArray[np.int64]:
    """Change numbers, ascending, of the records that were live after change `seq` and are there, maybe retired."""
    query = f"SELECT row FROM keys WHERE row <= ? UNION ALL SELECT row FROM retired WHERE {LIVE_AT} ORDER BY row"
    found = db.execute(query, (seq, seq, seq))
    return np.fromiter((number for (number,) in found), np.int64)


def know_retired(db: sqlite3.Connection) -> None:
    """Lets a connection that only reads find no retired records where the store has no table of them."""
    if not has_retired(db):
        db.executescript(RETIRED.replace("CREATE TABLE", "CREATE TEMP TABLE"))


def check_endings(db: sqlite3.Connection) -> None:
    """Compares what is said of the ends of records with its checksums.

    Raises:
        IndexCorruptError: some of it is damaged.
    """
    for seq, key, ended, ended_by, ending in db.execute("SELECT row, key, ended, ended_by, ending FROM retired"):
        if checksum_of([seq, key, ended, ended_by]) != ending:
            raise IndexCorruptError(path_of(db), f"what is said of the end of key {key!r} differs from its checksum")
