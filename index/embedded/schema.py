"""The tables of a store's SQLite file."""

from index.embedded.deletions import DELETIONS
from index.embedded.retired import RETIRED
from index.embedded.store_file import APPLICATION_ID, SCHEMA_VERSION

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    modality TEXT NOT NULL,
    text TEXT,
    metadata TEXT NOT NULL,
    pools TEXT NOT NULL,
    num_images INTEGER NOT NULL,
    origin TEXT NOT NULL,
    content_sha256 BLOB,
    payload_sha256 BLOB,
    stamps TEXT,
    checksum INTEGER NOT NULL
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
    key TEXT PRIMARY KEY, payload_sha256 BLOB NOT NULL, stamps TEXT NOT NULL, limits TEXT NOT NULL, reason TEXT NOT NULL
);
"""
QUERIES = """
CREATE TABLE IF NOT EXISTS queries (
    position INTEGER PRIMARY KEY, modality INTEGER NOT NULL, vector BLOB NOT NULL, checksum INTEGER NOT NULL
)
"""
_MARKS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
SCHEMA = f"{_MARKS} {_TABLES} {QUERIES}; {DELETIONS}; {RETIRED}"
