"""What was embedded and is not published yet: records in a table of their own, which no reader looks at.

A staged record's vector and images lie beside those of live ones, under an `id` of the same sequence. They are written
once: to make the record live, a line in `keys` is written, and its line in `staged` is deleted. Releases that do not
know these tables leave them alone.
"""

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from anykey.index.errors import IndexCorruptError
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.records import Record
from anykey.index.store.store_file import Meta, naming_damage, vector_dtype, write_meta
from anykey.index.store.store_records import (
    LINE,
    LINE_VALUES,
    RECORD,
    REFUSAL,
    Known,
    Refusal,
    copy_vector,
    drop_parts,
    dump_images,
    line_of,
    read_known,
    read_records,
    write_parts,
)

STAGING_NAME = "staging"  # in the store
PAGE_ROWS = 1000
STAGING = f"""
CREATE TABLE IF NOT EXISTS staged (
    id INTEGER PRIMARY KEY,
    row INTEGER NOT NULL,
    key TEXT NOT NULL UNIQUE,
    {RECORD}
);
CREATE TABLE IF NOT EXISTS staged_failures (
    {REFUSAL}
);
"""
logger = logging.getLogger(__name__)


class StagedFacts(BaseModel):
    """Whose vectors the staged ones are.

    Attributes:
        fingerprint: The encoder's.
        origin: What tells these vectors from others with that fingerprint, such as the file that they were taken from.
        encoder: What is noted of the encoder, once a vector is there.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    origin: str = ""
    encoder: EncoderFacts | None = None


class Staging:
    """The staged records of a store that is open for writing; for one thread at a time."""

    def __init__(
        self, db: sqlite3.Connection, path: Path, meta: Meta, changing: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Looks at nothing yet.

        Args:
            db: The store's connection.
            path: The store's file.
            meta: What is noted about it.
            changing: Makes the changes of a block one that is on disk when the block has ended.
        """
        self._db = db
        self._path = path
        self._meta = meta
        self._changing = changing

    @property
    def facts(self) -> StagedFacts | None:
        """Whose the staged vectors are; `None` if nothing is staged, or nobody can tell."""
        try:
            return StagedFacts.model_validate_json(self._meta.read().get(STAGING_NAME) or "null")
        except ValidationError:
            return None

    def begin(self, fingerprint: str, origin: str = "") -> None:
        """Goes on with what a stopped run staged, if it is sound and of this encoder and origin; else it is dropped.

        Raises:
            IndexCorruptError: the store is damaged, so that nothing can be dropped from it.
            OSError: the store cannot be read now, or the disk is full.
        """
        with naming_damage(self._path):
            num_keys, facts = self.num_keys(), self.facts
        if facts is not None and (facts.fingerprint, facts.origin) == (fingerprint, origin):
            try:
                self._require_sound()
                return
            except IndexCorruptError as error:
                logger.warning("%s; starting over", error)
        elif num_keys:
            logger.warning("%s %s", self._path, starting_over(num_keys))
        with self._changing():
            self.discard()
            self._note(StagedFacts(fingerprint=fingerprint, origin=origin))

    def discard(self) -> None:
        """Deletes all that is staged, if there is something, with vectors and images."""
        if not self._meta.read().get(STAGING_NAME):
            return
        with self._changing():
            self.drop(identity for identity, _ in self.ids_and_keys())
            self.clear()

    def note_encoder(self, encoder: EncoderFacts) -> None:
        """Notes who makes the vectors; where and how, in addition to what is noted."""
        facts = self.facts
        if facts is None:
            raise IndexCorruptError(self._path, "it does not tell whose vectors are staged in it")
        if facts.encoder is not None:
            places = sorted({*facts.encoder.computed_in, *encoder.computed_in})
            encoder = facts.encoder.model_copy(update={"computed_in": places})
        self._note(facts.model_copy(update={"encoder": encoder}))

    def add(self, records: Iterable[Record], refusals: Sequence[Refusal] = ()) -> None:
        """Stages keys in place of those of the same names, and keys that the encoder refused; all or nothing.

        A record without a vector takes the one that is staged for its key, or else the one that is live.
        """
        with self._changing():
            some: dict[str, Record] = {}
            for record in records:
                if record.key in some:  # given twice: the first one is staged before the second takes its place
                    self._add(some.values())
                    some.clear()
                some[record.key] = record
            self._add(some.values())
            for refusal in refusals:
                self._refuse(refusal)

    def known(self, key: str) -> Known | None:
        """What is staged of a key that a build embedded or refused."""
        return read_known(self._db, key, "staged", "staged_failures")

    def has(self, key: str) -> bool:
        """Whether a record of that key is staged."""
        return self._db.execute("SELECT 1 FROM staged WHERE key = ?", (key,)).fetchone() is not None

    def record(self, key: str) -> Record:
        """A staged record."""
        return next(read_records(self._db, "key = ?", (key,), "staged"))

    def num_keys(self, after: int = 0) -> int:
        """Number of staged records, or of those with an `id` after one."""
        return int(self._db.execute("SELECT count(*) FROM staged WHERE id > ?", (after,)).fetchone()[0])

    def last_id(self) -> int:
        """The last `id` that a record was given, live or staged."""
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'keys'").fetchone()
        return 0 if found is None else int(found[0])

    def ids_and_keys(self) -> Iterator[tuple[int, str]]:
        """Every staged record's `id` and key, in the order in which they were staged."""
        last = 0
        query = "SELECT id, key FROM staged WHERE id > ? ORDER BY id LIMIT ?"
        while page := self._db.execute(query, (last, PAGE_ROWS)).fetchall():
            last = page[-1][0]
            yield from page

    def pages(self) -> Iterator[list[tuple[Any, ...]]]:
        """All staged records as rows of `LINE`, in the order in which they were staged, some at a time."""
        last = 0
        query = f"SELECT {LINE} FROM staged WHERE id > ? ORDER BY id LIMIT ?"
        while page := self._db.execute(query, (last, PAGE_ROWS)).fetchall():
            last = page[-1][0]
            yield page

    def drop(self, ids: Iterable[int]) -> None:
        """Deletes staged records by their `id`, with vectors and images; all or nothing."""
        with self._changing():
            for identity in ids:
                self._db.execute("DELETE FROM staged WHERE id = ?", (identity,))
                drop_parts(self._db, identity)

    def drop_refused(self, keys: Iterable[str]) -> None:
        """Forgets that keys were refused; all or nothing."""
        with self._changing():
            self._db.executemany("DELETE FROM staged_failures WHERE key = ?", ((key,) for key in keys))

    def clear(self) -> None:
        """Forgets what was staged; vectors and images stay, as after the records became live."""
        with self._changing():
            self._db.execute("DELETE FROM staged")
            self._db.execute("DELETE FROM staged_failures")
            self._meta.write({STAGING_NAME: ""})

    def _add(self, records: Collection[Record]) -> None:
        """Stages records of different keys."""
        dtype = vector_dtype(self._meta.read())
        numbered = list(enumerate(records, self.last_id() + 1))
        keys = [(record.key,) for record in records]
        query = "SELECT id FROM staged WHERE key = ?"
        earlier = {key: found[0] for (key,) in keys if (found := self._db.execute(query, (key,)).fetchone())}
        self._db.executemany("DELETE FROM staged WHERE id = ?", zip(earlier.values(), strict=True))
        lines = [line_of(record, identity, identity) for identity, record in numbered]
        self._db.executemany(f"INSERT INTO staged {LINE_VALUES}", lines)
        write_parts(self._db, numbered, dtype)
        for identity, record in numbered:
            if record.vector_D is None:
                live = self._db.execute("SELECT id FROM keys WHERE key = ?", (record.key,)).fetchone()
                copy_vector(self._db, identity, record.key, earlier.get(record.key) or live[0])
        for identity in earlier.values():
            drop_parts(self._db, identity)
        self._db.executemany("DELETE FROM staged_failures WHERE key = ?", keys)
        self._note_last_id(self.last_id() + len(numbered))

    def _refuse(self, refusal: Refusal) -> None:
        earlier = self._db.execute("SELECT id FROM staged WHERE key = ?", (refusal.key,)).fetchone()
        if earlier is not None:
            self.drop(earlier)
        facts = (refusal.payload_sha256, refusal.limits, refusal.reason)
        stamps = dump_images(refusal.images, refusal.key, *facts)
        values = (refusal.key, refusal.payload_sha256, stamps, refusal.limits, refusal.reason)
        self._db.execute("INSERT OR REPLACE INTO staged_failures VALUES (?, ?, ?, ?, ?)", values)

    def _require_sound(self) -> None:
        """Reads all that is staged, and compares it with its checksums.

        Raises:
            IndexCorruptError: some of it is damaged.
        """
        with naming_damage(self._path):
            for _ in read_records(self._db, "true", table="staged"):
                pass
            for (key,) in self._db.execute("SELECT key FROM staged_failures").fetchall():
                self.known(key)

    def _note(self, facts: StagedFacts) -> None:
        with self._changing():
            self._meta.write({STAGING_NAME: facts.model_dump_json()})

    def _note_last_id(self, identity: int) -> None:
        """Keeps live records from being given an `id` that a staged one has."""
        found = self._db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'keys'", (identity,))
        if not found.rowcount:
            self._db.execute("INSERT INTO sqlite_sequence VALUES ('keys', ?)", (identity,))


def starting_over(num_keys: int) -> str:
    """What is said of keys that a stopped run embedded, and that are of no use to this one."""
    return (
        f"holds {num_keys:,} keys that a stopped build embedded with another encoder, --faiss, --normalize or "
        "--vectors, or that `reembed` did; starting over"
    )


def has_staged(db: sqlite3.Connection) -> bool:
    """Whether a store has tables for staged records; one that only earlier releases wrote has none."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'staged'"
    return db.execute(query).fetchone() is not None


def delete_staged(db: sqlite3.Connection) -> None:
    """Deletes all that is staged in a copy of a store, in the transaction of the caller."""
    if not has_staged(db):
        return
    for table in ("vectors", "images"):
        db.execute(f"DELETE FROM {table} WHERE id IN (SELECT id FROM staged)")
    db.execute("DELETE FROM staged")
    db.execute("DELETE FROM staged_failures")
    write_meta(db, {STAGING_NAME: ""})
