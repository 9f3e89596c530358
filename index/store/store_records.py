"""Records of a store over any connection to it: read, each compared with its checksum, and written line by line."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from anykey.encoder.item import Modality
from anykey.index.errors import KeyCorruptError
from anykey.index.store.build_facts import BuildFacts, Known, SeenImage, dump_images, load_images
from anykey.index.store.records import NewImage, Record, payload_checksum, vector_checksum
from anykey.index.store.store_file import path_of, read_meta, vector_dtype

Table = Literal["keys", "retired", "staged"]  # what is live, what was, and what is to be
Failures = Literal["failures", "staged_failures"]
RECORD = """
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
""".strip()  # the columns that `keys`, `retired` and `staged` have in common, beside numbers and name
REFUSAL = """
    key TEXT PRIMARY KEY, payload_sha256 BLOB NOT NULL, stamps TEXT NOT NULL, limits TEXT NOT NULL, reason TEXT NOT NULL
""".strip()  # the columns of `failures` and `staged_failures`
STAGED = (  # what a line of `staged` and one of `keys` have in common
    "id, row, key, modality, text, metadata, pools, num_images, origin, content_sha256, payload_sha256, stamps,"
    " checksum"
)


def read_known(
    db: sqlite3.Connection, key: str, table: Table = "keys", failures: Failures = "failures"
) -> Known | None:
    """Reads what a build stored or refused of a key, over any connection to the store."""
    query = f"SELECT payload_sha256, stamps, content_sha256 FROM {table} WHERE key = ? AND origin = 'corpus'"
    row = db.execute(query, (key,)).fetchone()
    if row is not None:
        payload_sha256, stamps, content_sha256 = row
        images = _load_images(db, stamps, key, payload_sha256, content_sha256)
        return Known(payload_sha256, images, content_sha256=content_sha256)
    row = db.execute(f"SELECT payload_sha256, stamps, limits, reason FROM {failures} WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    payload_sha256, stamps, limits, reason = row
    images = _load_images(db, stamps, key, payload_sha256, limits, reason)
    return Known(payload_sha256, images, limits=limits, reason=reason)


def check_refusals(db: sqlite3.Connection) -> None:
    """Reads what is remembered of the keys that were refused.

    Raises:
        KeyCorruptError: some of it is damaged.
    """
    for key, *facts, stamps in db.execute("SELECT key, payload_sha256, limits, reason, stamps FROM failures"):
        _load_images(db, stamps, key, *facts)


def read_records(
    db: sqlite3.Connection, where: str, parameters: Sequence[Any] = (), table: Table = "keys"
) -> Iterator[Record]:
    """Whole records, images and all, in the order of their change numbers.

    Args:
        db: The connection.
        where: Which, as a condition of SQL.
        parameters: What stands for its question marks.
        table: Whether live records are asked for, those that were replaced or deleted, or staged ones.

    Raises:
        KeyCorruptError: one of them is damaged.
    """
    dtype = vector_dtype(read_meta(db))
    query = (
        f"SELECT id, row, key, modality, text, metadata, pools, num_images, {table}.checksum, origin, payload_sha256,"
        f" content_sha256, stamps, vector, vectors.checksum FROM {table} LEFT JOIN vectors USING (id)"
        f" WHERE {where} ORDER BY row"
    )
    for identity, seq, key, *facts in db.execute(query, parameters):
        modality, text, metadata, pools, num_images, checksum, *built_facts, vector, checksum_of_vector = facts
        origin, payload_sha256, content_sha256, stamps = built_facts
        checksums = (payload_checksum(seq, key, modality, text, metadata, pools, num_images), checksum_of_vector)
        if vector is None or checksums != (checksum, vector_checksum(key, vector)):
            raise KeyCorruptError(path_of(db), str(key), f"the record of key {key!r} differs from its checksum")
        images = tuple(_read_images(db, identity, key))
        if len(images) != num_images:
            raise KeyCorruptError(path_of(db), str(key), f"key {key!r} has {len(images)} images, {num_images} expected")
        built = None
        if stamps is not None:
            seen = _load_images(db, stamps, key, payload_sha256, content_sha256)
            built = BuildFacts(payload_sha256, content_sha256, seen)
        if origin != ("live" if built is None else "corpus"):
            reason = f"key {key!r} is said to come from {origin!r}, which it does not"
            raise KeyCorruptError(path_of(db), str(key), reason)
        vector_D = np.frombuffer(vector, dtype)
        yield Record(key, Modality(modality), text, metadata, tuple(json.loads(pools)), images, vector_D, built)


def columns_of(record: Record, seq: int) -> dict[str, Any]:
    """What the line of a record says as change number `seq`."""
    built = record.built
    payload = (record.modality.value, record.text, record.metadata, json.dumps(record.pools), len(record.images))
    return {
        "row": seq,
        "key": record.key,
        **dict(zip(("modality", "text", "metadata", "pools", "num_images"), payload, strict=True)),
        "origin": "live" if built is None else "corpus",
        "content_sha256": built and built.content_sha256,
        "payload_sha256": built and built.payload_sha256,
        "stamps": built and dump_images(built.images, record.key, built.payload_sha256, built.content_sha256),
        "checksum": payload_checksum(seq, record.key, *payload),
    }


def insert_record(db: sqlite3.Connection, table: Table, columns: Mapping[str, Any]) -> int:
    """Writes the line of a record; gives its `id`, which is a new one if the columns tell none."""
    marks = ", ".join("?" * len(columns))
    cursor = db.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))
    return cursor.lastrowid or 0


def write_parts(db: sqlite3.Connection, identity: int, record: Record, dtype: np.dtype[Any]) -> None:
    """Writes a record's images, and its vector if it has one."""
    if record.vector_D is not None:
        vector = record.vector_D.astype(dtype).tobytes()
        db.execute("INSERT INTO vectors VALUES (?, ?, ?)", (identity, vector, vector_checksum(record.key, vector)))
    db.executemany(
        "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)",
        (
            (identity, position, image.media_type, image.path, image.data, image.checksum(record.key, position))
            for position, image in enumerate(record.images)
        ),
    )


def copy_vector(db: sqlite3.Connection, identity: int, key: str, earlier: int) -> None:
    """Gives a record the vector of an earlier one of the same key.

    Raises:
        KeyCorruptError: it is damaged.
    """
    found = db.execute("SELECT vector, checksum FROM vectors WHERE id = ?", (earlier,)).fetchone()
    if found is None or vector_checksum(key, found[0]) != found[1]:
        raise KeyCorruptError(path_of(db), key, f"the vector of key {key!r} differs from its checksum")
    db.execute("INSERT INTO vectors VALUES (?, ?, ?)", (identity, *found))


def drop_parts(db: sqlite3.Connection, identity: int) -> None:
    """Deletes the vector and the images of a record."""
    db.execute("DELETE FROM vectors WHERE id = ?", (identity,))
    db.execute("DELETE FROM images WHERE id = ?", (identity,))


def _read_images(db: sqlite3.Connection, identity: int, key: str) -> Iterator[NewImage]:
    query = "SELECT position, media_type, path, data, checksum FROM images WHERE id = ? ORDER BY position"
    for position, media_type, path, data, checksum in db.execute(query, (identity,)).fetchall():
        image = NewImage(media_type, path, data)
        if image.checksum(key, position) != checksum:
            raise KeyCorruptError(path_of(db), key, f"image {position} of key {key!r} differs from its checksum")
        yield image


def _load_images(db: sqlite3.Connection, stamps: str, key: str, *facts: object) -> tuple[SeenImage, ...]:
    try:
        return load_images(stamps, key, *facts)
    except ValueError as error:
        raise KeyCorruptError(path_of(db), str(key), str(error)) from error
