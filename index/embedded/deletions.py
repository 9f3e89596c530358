"""What was deleted live and has not been stored since: a build leaves it deleted, though its corpus names it.

Stores of earlier releases have no table for it; they get one with their first deletion.
"""

import sqlite3
from collections.abc import Iterable

from index.embedded.records import deletion_checksum
from index.embedded.store_file import path_of
from index.errors import IndexCorruptError

DELETIONS = "CREATE TABLE IF NOT EXISTS deletions (key TEXT PRIMARY KEY, checksum INTEGER NOT NULL)"


def note_deleted(db: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Remembers deletions, in the transaction of the caller."""
    db.execute(DELETIONS)
    rows = ((key, deletion_checksum(key)) for key in keys)
    db.executemany("INSERT OR REPLACE INTO deletions VALUES (?, ?)", rows)


def forget_deleted(db: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Forgets deletions, in the transaction of the caller, in a store that has a table for them."""
    db.executemany("DELETE FROM deletions WHERE key = ?", ((key,) for key in keys))


def has_deletions(db: sqlite3.Connection) -> bool:
    """Whether a store remembers what was deleted live; one of an earlier release does so from the first time on."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'deletions'"
    return db.execute(query).fetchone() is not None


def read_deleted(db: sqlite3.Connection) -> list[str]:
    """Reads which keys were deleted live and have not been stored since.

    Raises:
        IndexCorruptError: one of them differs from its checksum.
    """
    found = db.execute("SELECT key, checksum FROM deletions").fetchall() if has_deletions(db) else []
    for key, checksum in found:
        if deletion_checksum(key) != checksum:
            raise IndexCorruptError(path_of(db), f"the deletion of key {key!r} differs from its checksum")
    return [key for key, _ in found]
