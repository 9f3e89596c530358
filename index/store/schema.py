"""The tables of a store's SQLite file, and opening it for writing, which makes those that are missing."""

import sqlite3
import uuid
from pathlib import Path

from anykey.index.errors import IndexCorruptError
from anykey.index.store.deletions import DELETIONS
from anykey.index.store.requests import REQUESTS
from anykey.index.store.retired import RETIRED
from anykey.index.store.staging import STAGING
from anykey.index.store.store_file import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    SCHEMA_VERSION,
    naming_damage,
    require_room,
    write_meta,
)
from anykey.index.store.store_records import RECORD, REFUSAL
from anykey.index.vectors.structure_facts import VectorType
from anykey.program.files import sync

PAGE_BYTES = 16 * 1024  # of SQLite's 4 KiB, a vector of 512 numbers fills one and leaves half of it empty

_TABLES = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    {RECORD}
);
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES keys ON DELETE CASCADE, vector BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE images (
    id INTEGER NOT NULL REFERENCES keys ON DELETE CASCADE,
    position INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    path TEXT,
    data BLOB,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (id, position)
);
CREATE TABLE removals (seq INTEGER PRIMARY KEY, row INTEGER NOT NULL);
CREATE TABLE failures (
    {REFUSAL}
);
"""
QUERIES = """
CREATE TABLE IF NOT EXISTS queries (
    position INTEGER PRIMARY KEY, modality INTEGER NOT NULL, vector BLOB NOT NULL, checksum INTEGER NOT NULL
)
"""
_MARKS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
SCHEMA = f"{_MARKS} {_TABLES} {QUERIES}; {DELETIONS}; {RETIRED} {STAGING} {REQUESTS}"


def open_to_write(path: Path, vector_type: VectorType) -> sqlite3.Connection:
    """A connection that may change a store, which is made if it is not there; for one thread at a time.

    Raises:
        IndexCorruptError: the file is no store.
        OSError: it cannot be opened, as where the disk is so full that SQLite could not even do that.
    """
    require_room(path)
    if not path.exists():  # of a folder that cannot be written to, SQLite says no more than that it cannot open it
        path.touch()
        sync(path.parent)
    with naming_damage(path):
        db = sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path, vector_type)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path, vector_type: VectorType) -> None:
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file; one that exists keeps its own
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a commit that returned is on disk
    db.execute("PRAGMA foreign_keys = OFF")  # the parts of a retired record outlive its row in `keys`
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN; {SCHEMA}")
        write_meta(db, {"seq": 0, "store_id": uuid.uuid4().hex, "vector_type": vector_type})
        db.execute("COMMIT")
    elif version != SCHEMA_VERSION:
        raise IndexCorruptError(path, f"expected a store of schema {SCHEMA_VERSION}, got schema {version}")
    db.executescript(RETIRED + STAGING + REQUESTS)  # older stores have no such tables
