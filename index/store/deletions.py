"""What was deleted live and has not been stored since: a build leaves it deleted, though its corpus names it.

Stores of earlier releases have no table for it; they get one with their first deletion. A version has a list of its
own, so that going back to it brings none of them back with the next build.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from anykey.index.errors import IndexCorruptError
from anykey.index.store.manifest import Manifest
from anykey.index.store.records import deletion_checksum
from anykey.index.store.store_file import path_of
from anykey.index.store.versions import check_file

DELETED_NAME = "deleted.jsonl"  # in a version
DELETIONS = "CREATE TABLE IF NOT EXISTS deletions (key TEXT PRIMARY KEY, checksum INTEGER NOT NULL)"


def note_deleted(db: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Remembers deletions, in the transaction of the caller, in a store that has a table for them."""
    rows = ((key, deletion_checksum(key)) for key in keys)
    db.executemany("INSERT OR REPLACE INTO deletions VALUES (?, ?)", rows)


def forget_deleted(db: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Forgets deletions, in the transaction of the caller, in a store that has a table for them."""
    db.executemany("DELETE FROM deletions WHERE key = ?", ((key,) for key in keys))


def has_deletions(db: sqlite3.Connection) -> bool:
    """Whether a store remembers what was deleted live; one of an earlier release does so from the first time on."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'deletions'"
    return db.execute(query).fetchone() is not None


def read_deleted(db: sqlite3.Connection) -> Iterator[str]:
    """Reads which keys were deleted live and have not been stored since.

    Raises:
        IndexCorruptError: one of them differs from its checksum.
    """
    for key, checksum in db.execute("SELECT key, checksum FROM deletions") if has_deletions(db) else ():
        if deletion_checksum(key) != checksum:
            raise IndexCorruptError(path_of(db), f"the deletion of key {key!r} differs from its checksum")
        yield key


def list_deleted(version_dir: Path, keys: Iterator[str]) -> None:
    """Lists in a version's folder what was deleted live when it was made; without any, there is no such file."""
    for first in keys:  # and the others behind it
        with (version_dir / DELETED_NAME).open("w", encoding="ascii") as file:
            file.writelines(f"{json.dumps(key)}\n" for key in chain([first], keys))


def deleted_at(version_dir: Path, manifest: Manifest) -> list[str]:
    """Reads what was deleted live when a version was made; nothing is known of those of earlier releases.

    Raises:
        IndexCorruptError: the list is missing or damaged.
        PermissionError: it may not be read.
    """
    if DELETED_NAME not in manifest.files:
        return []
    check_file(version_dir, manifest, DELETED_NAME, is_whole=True)
    return [json.loads(line) for line in (version_dir / DELETED_NAME).read_bytes().splitlines()]
