"""Records of a store over any connection to it, read and written, with what a build remembers of each to know it again.

What is read is compared with its checksum.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal

import numpy as np

from anykey.encoder.item import Modality
from anykey.index.errors import KeyCorruptError
from anykey.index.store.records import (
    NewImage,
    Record,
    checksum_of,
    payload_checksum,
    payload_checksums,
    vector_checksum,
)
from anykey.index.store.store_file import path_of, read_meta, vector_dtype
from anykey.sources.files.images import ImageStamp

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
LINE = (  # the columns of `keys` and of `staged`
    "id, row, key, modality, text, metadata, pools, num_images, origin, content_sha256, payload_sha256, stamps,"
    " checksum"
)
PATCHED_NAME = "patched"  # in `stamps` of a record that a build stored, and whose metadata or pools were changed live
LINE_VALUES = f"({LINE}) VALUES ({', '.join('?' * len(LINE.split(',')))})"


@dataclass(frozen=True)
class SeenImage:
    """An image file as it was when it was read: its stamp then, and its content."""

    stamp: ImageStamp
    sha256: str


@dataclass(frozen=True)
class Known:
    """What a store knows of a key that a build stored or refused.

    Attributes:
        payload_sha256: Digest of the payload it was stored with.
        images: Its image files as they were read.
        content_sha256: Digest of what the encoder saw; `None` for a refused key.
        limits: The limits that a refused key was tried with.
        reason: Why the key was refused, or `None` if it was embedded.
    """

    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    content_sha256: bytes | None = None
    limits: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class BuildFacts:
    """What a build remembers of a key, to know it again: digests of payload and content, and the image files.

    Attributes:
        payload_sha256: Digest of what its row in the corpus said.
        content_sha256: Digest of what the encoder saw.
        images: Its image files as they were read.
        is_patched: Whether its metadata or pools were changed live since.
    """

    payload_sha256: bytes
    content_sha256: bytes
    images: tuple[SeenImage, ...]
    is_patched: bool = False


@dataclass(frozen=True)
class Refusal:
    """One key that the encoder cannot take, so that it is not tried again while nothing changes."""

    key: str
    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    limits: str
    reason: str


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
            built = BuildFacts(payload_sha256, content_sha256, seen, _is_patched(stamps))
        if origin != ("live" if built is None else "corpus"):
            reason = f"key {key!r} is said to come from {origin!r}, which it does not"
            raise KeyCorruptError(path_of(db), str(key), reason)
        vector_D = np.frombuffer(vector, dtype)
        yield Record(key, Modality(modality), text, metadata, tuple(json.loads(pools)), images, vector_D, built)


def line_of(record: Record, seq: int, identity: int | None = None) -> tuple[Any, ...]:
    """The line of a record as change number `seq`, in the order of `LINE`; without an `id`, SQLite gives it one."""
    key, built = record.key, record.built
    pools = json.dumps(record.pools) if record.pools else "[]"
    payload = (str(record.modality), record.text, record.metadata, pools, len(record.images))
    (checksum,) = payload_checksums([(seq, key, *payload)])
    if built is None:
        return (identity, seq, key, *payload, "live", None, None, None, checksum)
    facts = (built.payload_sha256, built.content_sha256)
    stamps = dump_images(built.images, key, *facts) if built.images else dump_no_images(key, *facts)
    if built.is_patched:
        stamps = _with_patched_mark(stamps)
    return (identity, seq, key, *payload, "corpus", built.content_sha256, built.payload_sha256, stamps, checksum)


def write_parts(db: sqlite3.Connection, records: Iterable[tuple[int, Record]], dtype: np.dtype[Any]) -> None:
    """Writes the images of records, and the vectors of those that have one, each under its record's `id`."""
    vectors, images = [], []
    for identity, record in records:
        if record.vector_D is not None:
            vector = record.vector_D.astype(dtype).tobytes()
            vectors.append((identity, vector, vector_checksum(record.key, vector)))
        for position, image in enumerate(record.images):
            checksum = image.checksum(record.key, position)
            images.append((identity, position, image.media_type, image.path, image.data, checksum))
    db.executemany("INSERT INTO vectors VALUES (?, ?, ?)", vectors)
    db.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", images)


def copy_vector(db: sqlite3.Connection, identity: int, key: str, earlier: int) -> None:
    """Gives a record the vector of an earlier one of the same key.

    Raises:
        KeyCorruptError: it is damaged.
    """
    found = db.execute("SELECT vector, checksum FROM vectors WHERE id = ?", (earlier,)).fetchone()
    if found is None or vector_checksum(key, found[0]) != found[1]:
        raise KeyCorruptError(path_of(db), key, f"the vector of key {key!r} differs from its checksum")
    db.execute("INSERT INTO vectors VALUES (?, ?, ?)", (identity, *found))


def marked_as_patched(db: sqlite3.Connection, stamps: str, key: str, *facts: object) -> str:
    """What a build remembers of a key's image files, as of one whose metadata or pools were changed live.

    Raises:
        KeyCorruptError: it is damaged.
    """
    return _with_patched_mark(dump_images(_load_images(db, stamps, key, *facts), key, *facts))


def _with_patched_mark(stamps: str) -> str:
    return json.dumps({**json.loads(stamps), PATCHED_NAME: True})


def _is_patched(stamps: str) -> bool:
    return PATCHED_NAME in stamps and PATCHED_NAME in json.loads(stamps)


def copy_parts(db: sqlite3.Connection, earlier: int, identity: int) -> None:
    """Gives a record the vector and the images of an earlier one of the same key, as they are stored."""
    db.execute("INSERT INTO vectors SELECT ?, vector, checksum FROM vectors WHERE id = ?", (identity, earlier))
    columns = "position, media_type, path, data, checksum"
    db.execute(f"INSERT INTO images SELECT ?, {columns} FROM images WHERE id = ?", (identity, earlier))


def drop_parts(db: sqlite3.Connection, identity: int) -> None:
    """Deletes the vector and the images of a record."""
    db.execute("DELETE FROM vectors WHERE id = ?", (identity,))
    db.execute("DELETE FROM images WHERE id = ?", (identity,))


def dump_images(images: Sequence[SeenImage], key: str, *facts: object) -> str:
    """The image files of a key as JSON, with a CRC-32 of them and of what else a build remembers of the key."""
    stamps = [[image.stamp.location, image.stamp.size_bytes, image.stamp.version, image.sha256] for image in images]
    return json.dumps({"images": stamps, "checksum": checksum_of([key, stamps, *facts])})


def dump_no_images(key: str, payload_sha256: bytes, content_sha256: bytes) -> str:
    """What `dump_images` gives of a key without images that a build stored, many times as fast."""
    facts = f"[{quoted(key)}, [], {quoted(repr(payload_sha256))}, {quoted(repr(content_sha256))}]None"
    return f'{{"images": [], "checksum": {zlib.crc32(facts.encode())}}}'


def load_images(dumped: str, key: str, *facts: object) -> tuple[SeenImage, ...]:
    """What `dump_images` was given.

    Raises:
        ValueError: any of it has changed.
    """
    try:
        found = json.loads(dumped)
        if isinstance(found, dict):  # earlier releases wrote the list alone
            if checksum_of([key, found["images"], *facts]) != found["checksum"]:
                raise ValueError("its checksum differs")
            found = found["images"]
        return tuple(SeenImage(ImageStamp(*stamp), sha256) for *stamp, sha256 in found)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"what a build remembers of key {key!r} is damaged: {error}") from error


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
