"""The store: keys, payload, vectors, images, pools and the change sequence in one SQLite file.

The store is the truth; the FAISS file is derived from it. `id` names a key's record for as long as it lives and
is never used again; `row` is the key's position in the FAISS file, and empty while it is not in there.

Shape legend: B = batch, D = width.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.item import Modality
from index.errors import IndexCorruptError
from index.images import ImageStamp
from index.plan import PlannedEntry

APPLICATION_ID = 0x416E794B  # "AnyK"
SCHEMA_VERSION = 1

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    row INTEGER UNIQUE,
    seq INTEGER NOT NULL,
    modality TEXT NOT NULL,
    text TEXT,
    metadata TEXT NOT NULL,
    num_images INTEGER NOT NULL,
    content_sha256 BLOB NOT NULL,
    payload_sha256 BLOB NOT NULL,
    stamps TEXT NOT NULL
);
CREATE TABLE vectors (id INTEGER PRIMARY KEY REFERENCES keys ON DELETE CASCADE, vector BLOB NOT NULL);
CREATE TABLE images (
    id INTEGER NOT NULL REFERENCES keys ON DELETE CASCADE,
    position INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    path TEXT,
    data BLOB,
    PRIMARY KEY (id, position)
);
CREATE TABLE pools (
    pool TEXT NOT NULL, id INTEGER NOT NULL REFERENCES keys ON DELETE CASCADE, PRIMARY KEY (pool, id)
) WITHOUT ROWID;
CREATE INDEX pools_of_key ON pools (id);
CREATE TABLE failures (
    key TEXT PRIMARY KEY, payload_sha256 BLOB NOT NULL, stamps TEXT NOT NULL, limits TEXT NOT NULL, reason TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class SeenImage:
    """An image file as it was when it was read: its stamp then, and its content."""

    stamp: ImageStamp
    sha256: str


@dataclass(frozen=True)
class Known:
    """What a store knows of a key, embedded or refused.

    Attributes:
        payload_sha256: Digest of the payload it was stored with.
        images: Its image files as they were read.
        content_sha256: Digest of what the encoder saw; `None` for a refused key.
        row: Its row; `None` for a key that has none yet or was refused.
        limits: The limits that a refused key was tried with.
        reason: Why the key was refused, or `None` if it was embedded.
    """

    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    content_sha256: bytes | None = None
    row: int | None = None
    limits: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class NewImage:
    """One image to be stored: its bytes, or its path alone."""

    seen: SeenImage
    media_type: str
    data: bytes | None


@dataclass(frozen=True)
class NewKey:
    """One key to be stored.

    Attributes:
        entry: What the corpus says.
        payload_sha256: Digest of the payload.
        content_sha256: Digest of what the encoder sees.
        images: Its images.
        vector_D: Its unit vector; `None` keeps the one that is stored.
    """

    entry: PlannedEntry
    payload_sha256: bytes
    content_sha256: bytes
    images: tuple[NewImage, ...]
    vector_D: NDArray[np.float32] | None


@dataclass(frozen=True)
class Refusal:
    """One key that the encoder cannot take, so that it is not tried again while nothing changes."""

    entry: PlannedEntry
    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    limits: str
    reason: str


class Store:
    """A store open for writing by the one builder; for one thread.

    Attributes:
        path: The SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            self._db.executescript(f"BEGIN; {_SCHEMA} INSERT INTO meta VALUES ('seq', 0); COMMIT;")

    @property
    def meta(self) -> dict[str, Any]:
        """What was noted about the whole store."""
        return dict(self._db.execute("SELECT name, value FROM meta").fetchall())

    @property
    def seq(self) -> int:
        """Sequence number of the last change."""
        return int(self.meta["seq"])

    def note(self, **facts: str | int) -> None:
        """Notes facts about the whole store."""
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts.items())

    def known(self, key: str) -> Known | None:
        """What is stored about a key, embedded or refused."""
        return read_known(self._db, key)

    def commit(self, keys: Sequence[NewKey], refusals: Sequence[Refusal] = (), gone: Sequence[str] = ()) -> None:
        """Stores keys, and forgets keys that are now refused or gone, all or nothing.

        Each stored or forgotten key takes the next number of the change sequence, in the order given.
        """
        with self._transaction():
            seq = self.seq
            for number, key in enumerate(keys, start=1):
                self._upsert(key, seq + number)
            for refusal in refusals:
                self._refuse(refusal)
            num_forgotten = self._forget([*(refusal.entry.key for refusal in refusals), *gone])
            self.note(seq=seq + len(keys) + num_forgotten)

    def follow(self, plan_path: Path) -> None:
        """Makes the store hold the plan's keys only, with rows 0, 1, 2, ... in the plan's order."""
        self._db.execute("ATTACH ? AS plan", (str(plan_path),))
        with self._transaction():
            gone = self._db.execute("SELECT key FROM keys WHERE key NOT IN (SELECT key FROM plan.entries)").fetchall()
            self.note(seq=self.seq + self._forget([key for (key,) in gone]))
            self._db.execute("DELETE FROM failures WHERE key NOT IN (SELECT key FROM plan.entries)")
            self._number_rows()
        self._db.execute("DETACH plan")

    def num_keys(self) -> int:
        """Number of keys."""
        return int(self._db.execute("SELECT count(*) FROM keys").fetchone()[0])

    def count_by_modality(self) -> dict[Modality, int]:
        """Number of keys per modality; all three are there."""
        counts = dict(self._db.execute("SELECT modality, count(*) FROM keys GROUP BY modality").fetchall())
        return {modality: counts.get(modality, 0) for modality in Modality}

    def count_by_pool(self) -> dict[str, int]:
        """Number of keys per pool, in the order of the pools' names."""
        return dict(self._db.execute("SELECT pool, count(*) FROM pools GROUP BY pool ORDER BY pool").fetchall())

    def vectors(self, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """All vectors in the order of their rows, `[B, D]` at a time."""
        cursor = self._db.execute("SELECT vector FROM vectors JOIN keys USING (id) ORDER BY row")
        while batch := cursor.fetchmany(batch_size):
            yield np.frombuffer(b"".join(vector for (vector,) in batch), dtype="<f4").reshape(len(batch), -1)

    def finish(self) -> None:
        """Closes the store as one file without journal."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    def close(self) -> None:
        """Closes the store as it is; the next `Store` goes on with it."""
        self._db.close()

    def _upsert(self, new: NewKey, seq: int) -> None:
        entry = new.entry
        self._db.execute(
            "INSERT INTO keys (key, seq, modality, text, metadata, num_images, content_sha256, payload_sha256, stamps)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET seq = excluded.seq,"
            " modality = excluded.modality, text = excluded.text, metadata = excluded.metadata,"
            " num_images = excluded.num_images, content_sha256 = excluded.content_sha256,"
            " payload_sha256 = excluded.payload_sha256, stamps = excluded.stamps",
            (
                *(entry.key, seq, entry.modality, entry.text, entry.metadata, len(entry.images)),
                *(new.content_sha256, new.payload_sha256, _dump_images([image.seen for image in new.images])),
            ),
        )
        (identity,) = self._db.execute("SELECT id FROM keys WHERE key = ?", (entry.key,)).fetchone()
        self._write_parts(identity, new)
        self._db.execute("DELETE FROM failures WHERE key = ?", (entry.key,))

    def _write_parts(self, identity: int, new: NewKey) -> None:
        for table in ("images", "pools"):
            self._db.execute(f"DELETE FROM {table} WHERE id = ?", (identity,))
        if new.vector_D is not None:
            vector = new.vector_D.astype("<f4").tobytes()
            self._db.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (identity, vector))
        self._db.executemany(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?)",
            (
                (
                    identity,
                    position,
                    image.media_type,
                    image.seen.stamp.location if image.data is None else None,
                    image.data,
                )
                for position, image in enumerate(new.images)
            ),
        )
        self._db.executemany("INSERT INTO pools VALUES (?, ?)", ((pool, identity) for pool in new.entry.pools))

    def _refuse(self, refusal: Refusal) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)",
            (
                *(refusal.entry.key, refusal.payload_sha256, _dump_images(refusal.images)),
                *(refusal.limits, refusal.reason),
            ),
        )

    def _forget(self, keys: Sequence[str]) -> int:
        """Deletes keys; gives the number that were there, each of which is one change."""
        return sum(self._db.execute("DELETE FROM keys WHERE key = ?", (key,)).rowcount for key in keys)

    def _number_rows(self) -> None:
        """Numbers the rows in the plan's order, unless they are already numbered so."""
        self._db.execute("DROP TABLE IF EXISTS temp.ranking")
        self._db.execute("CREATE TEMP TABLE ranking (rank INTEGER PRIMARY KEY, id INTEGER UNIQUE)")
        self._db.execute(
            "INSERT INTO ranking (id) SELECT keys.id FROM plan.entries JOIN keys USING (key) ORDER BY position"
        )
        is_right = self._db.execute(
            "SELECT NOT EXISTS (SELECT 1 FROM keys JOIN ranking USING (id) WHERE row IS NOT rank - 1)"
        ).fetchone()[0]
        if not is_right:
            self._db.execute("UPDATE keys SET row = NULL")
            self._db.execute("UPDATE keys SET row = (SELECT rank - 1 FROM ranking WHERE ranking.id = keys.id)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def read_known(db: sqlite3.Connection, key: str) -> Known | None:
    """Reads what a store knows of a key, over any connection to it."""
    row = db.execute("SELECT payload_sha256, stamps, content_sha256, row FROM keys WHERE key = ?", (key,)).fetchone()
    if row is not None:
        return Known(row[0], _load_images(row[1]), content_sha256=row[2], row=row[3])
    row = db.execute("SELECT payload_sha256, stamps, limits, reason FROM failures WHERE key = ?", (key,)).fetchone()
    return None if row is None else Known(row[0], _load_images(row[1]), limits=row[2], reason=row[3])


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot change the file; for whichever one thread uses it.

    Raises:
        IndexCorruptError: the file is no store.
    """
    with naming_damage(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        identity = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
    if (identity, version) != (APPLICATION_ID, SCHEMA_VERSION):
        db.close()
        raise IndexCorruptError(
            path, f"expected a store of schema {SCHEMA_VERSION}, got {identity:#x} schema {version}"
        )
    return db


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turns SQLite's complaints about a published file into an error that names it."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise IndexCorruptError(path, str(error)) from error


def _dump_images(images: Sequence[SeenImage]) -> str:
    stamps = ((image.stamp.location, image.stamp.size_bytes, image.stamp.version, image.sha256) for image in images)
    return json.dumps(list(stamps))


def _load_images(stamps: str) -> tuple[SeenImage, ...]:
    return tuple(SeenImage(ImageStamp(*stamp), sha256) for *stamp, sha256 in json.loads(stamps))
