"""The plan of a build: the whole corpus, checked and without repeats, on disk in the order it was read.

A plan is scratch: it is made anew by every run, and costs no memory however large the corpus is. It says what
the index shall hold; the store says what has been embedded.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.store_file import unusable
from anykey.sources.corpus.entry import CorpusEntry, KnownVector
from anykey.sources.errors import (
    DuplicateKeyError,
    InvalidRowError,
    SourceError,
    UnreachableImageError,
    UnreadableStretchError,
)
from anykey.sources.files.images import ImageStamp, ImageStorage

PAGE_ROWS = 512
CURRENT, LEFT, SETTLED = 0, 1, 2  # states of an entry: stored as it is, to be embedded, staged by a stopped run

_SCHEMA = """
CREATE TABLE entries (
    position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, place TEXT NOT NULL, text TEXT, metadata TEXT NOT NULL,
    pools TEXT NOT NULL, images TEXT NOT NULL, vector BLOB, payload_sha256 BLOB NOT NULL, may_repeat INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 1, is_deleted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE bad_rows (
    position INTEGER NOT NULL, place TEXT NOT NULL, key TEXT, reason TEXT NOT NULL, is_unreachable INTEGER NOT NULL,
    is_unread INTEGER NOT NULL
);
CREATE INDEX keys_of_bad_rows ON bad_rows (key);
"""
ENTRY = (
    "position, entries.key, place, entries.text, entries.metadata, entries.pools, entries.images,"
    " entries.payload_sha256, entries.vector"
)


_EARLIER = "SELECT place, text, metadata, images, may_repeat, pools, position FROM entries WHERE key = ?"
_INSERTION = (
    "INSERT INTO entries (position, key, place, text, metadata, pools, images, vector, payload_sha256, may_repeat)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True)
class PlannedEntry:
    """One key to be indexed.

    Attributes:
        position: Its place in the corpus.
        key: Its name.
        where: The row that gave it, such as `file:line`.
        text: Its text, or `None`.
        metadata: Its metadata object as canonical JSON.
        pools: Its pools, sorted.
        images: Its images.
        payload_sha256: Digest, in hexadecimal, of all that the store will hold of it besides vector and image bytes.
        vector: Its vector, where the corpus has it of the build's encoder; little-endian float32.
    """

    position: int
    key: str
    where: str
    text: str | None
    metadata: str
    pools: tuple[str, ...]
    images: tuple[ImageStamp, ...]
    payload_sha256: str
    vector: bytes | None = None


class Plan:
    """The corpus of one build, in a scratch SQLite file; for one thread.

    Attributes:
        path: The file.
    """

    def __init__(
        self, path: Path, images: ImageStorage, fingerprint: str | None = None, keeps_vectors: bool = True
    ) -> None:
        """Makes an empty plan.

        Args:
            path: The file.
            images: How the entries' images will be stored.
            fingerprint: The encoder whose vectors are taken, where the corpus brings some; none are when absent.
            keeps_vectors: Whether they are kept, or looked at only.
        """
        path.unlink(missing_ok=True)
        self.path = path
        self._images = images
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rwc", uri=True, isolation_level=None)
        self._fingerprint = fingerprint
        self._keeps_vectors = keeps_vectors
        self._encoders: list[EncoderFacts] = []
        self._first_place = ""  # of the first row with a vector
        self._position = 0
        self._is_counted = True
        self._is_any_unread = False
        try:
            for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", *_SCHEMA.split(";"), "BEGIN"):
                self.execute(statement)
        except OSError:
            self.close()
            raise

    @property
    def num_rows(self) -> int | None:
        """Rows of the corpus so far, good and bad; `None` if nobody knows, as a stretch cannot be read."""
        return self._position if self._is_counted else None

    @property
    def is_any_unread(self) -> bool:
        """Whether the corpus has rows that could not be read, so that their keys are unknown."""
        return self._is_any_unread

    def pass_over(self, num_rows: int | None = 1) -> None:
        """Goes on behind a row of the corpus that gives no entry.

        Args:
            num_rows: How many rows it stands for; `None` if nobody knows.
        """
        self._position += num_rows or 1
        self._is_counted &= num_rows is not None

    def add(self, entry: CorpusEntry, stamps: Sequence[ImageStamp] = ()) -> None:
        """Takes the next row's entry in.

        Args:
            entry: What the row says.
            stamps: What its images are now, in the entry's order.

        Raises:
            DuplicateKeyError: an earlier row has its key, and the two are not one M-BEIR candidate listed by two files.
            SourceError: its vector and an earlier row's are said to be of one encoder, and cannot be.
        """
        self._position += 1
        images = json.dumps(list(map(astuple, stamps))) if stamps else "[]"
        metadata = json.dumps(entry.metadata, sort_keys=True, ensure_ascii=False) if entry.metadata else "{}"
        try:
            earlier = self._db.execute(_EARLIER, (entry.key,)).fetchone()
            if earlier is None:
                digest = _payload_digest(entry.text, metadata, entry.pools, stamps, self._images)
                pools = json.dumps(entry.pools) if entry.pools else "[]"
                vector = None if entry.vector is None else self._kept(entry.vector, entry.where)
                facts = (entry.text, metadata, pools, images, vector, digest, entry.may_repeat)
                self._db.execute(_INSERTION, (self._position, entry.key, entry.where, *facts))
                return
        except sqlite3.OperationalError as error:
            raise unusable(self.path, error) from error
        self._repeat(entry, earlier, (entry.text, metadata, images))

    def encoders(self) -> list[EncoderFacts]:
        """What is said of the encoder by those who made the vectors that the corpus brought."""
        return self._encoders

    def add_bad_row(self, row: InvalidRowError, position: int | None = None) -> None:
        """Notes a bad row.

        Args:
            row: The row, and what is wrong with it.
            position: The position of its entry; that of the row just begun when absent.
        """
        self.execute(
            "INSERT INTO bad_rows VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(self._position if position is None else position, row.where, row.key, row.reason),
                *(isinstance(row, UnreachableImageError), is_unread := isinstance(row, UnreadableStretchError)),
            ),
        )
        self._is_any_unread |= is_unread

    def entries(self, only_left: bool = False) -> Iterator[PlannedEntry]:
        """All entries, or those left to embed, in the corpus's order; the plan may change meanwhile."""
        condition = f"{_condition(only_left)} AND position > ?"
        query = f"SELECT {ENTRY} FROM entries WHERE {condition} ORDER BY position LIMIT {PAGE_ROWS}"
        last = -1
        while page := self.execute(query, (last,)).fetchall():
            last = page[-1][0]
            yield from map(planned, page)

    def count(self, only_left: bool = False) -> int:
        """Number of entries, or of those left to embed."""
        condition = _condition(only_left)
        return int(self.execute(f"SELECT count(*) FROM entries WHERE {condition}").fetchone()[0])

    def num_usable(self) -> int:
        """Number of entries that did not turn out to be bad rows, nor were deleted live."""
        query = "SELECT count(*) FROM entries WHERE NOT is_deleted AND position NOT IN (SELECT position FROM bad_rows)"
        return int(self.execute(query).fetchone()[0])

    def lacking(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of some keys that are gone from the corpus: none of them where a stretch of it cannot be read."""
        return iter(()) if self.is_any_unread else self.unnamed(keys)

    def unnamed(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of some keys that no row names that was read, or bad rows alone that the corpus will have to mend."""
        query = (
            "SELECT 1 FROM entries WHERE key = :key"
            " UNION ALL SELECT 1 FROM bad_rows WHERE key = :key AND is_unreachable"
        )
        return (key for key in keys if self.execute(query, {"key": key}).fetchone() is None)

    def left_out(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of some keys that are not to be stored from this corpus, whatever the reason."""
        query = "SELECT 1 FROM entries WHERE key = ? AND NOT is_deleted"
        return (key for key in keys if self.execute(query, (key,)).fetchone() is None)

    def places_with_images(self, keys: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Those of some keys whose entries have images, with the entries' positions."""
        query = "SELECT position FROM entries WHERE key = ? AND images != '[]'"
        found = ((key, self.execute(query, (key,)).fetchone()) for key in keys)
        return ((key, row[0]) for key, row in found if row is not None)

    def bad_rows(self) -> list[InvalidRowError]:
        """The bad rows in the corpus's order."""
        query = "SELECT place, reason, key, is_unread FROM bad_rows ORDER BY position, rowid"
        return [
            UnreadableStretchError(place, reason) if is_unread else InvalidRowError(place, reason, key)
            for place, reason, key, is_unread in self.execute(query).fetchall()
        ]

    def end_reading(self) -> None:
        """Ends the reading of the corpus: from now on stores can be attached, and other connections see the plan."""
        self.execute("COMMIT")

    def close(self) -> None:
        """Closes and deletes the file."""
        self._db.close()
        self.path.unlink(missing_ok=True)

    def _kept(self, vector: KnownVector, place: str) -> bytes | None:
        """What is kept of a row's vector: nothing where another encoder made it."""
        if self._fingerprint is None or vector.encoder.fingerprint != self._fingerprint:
            return None
        if vector.encoder not in self._encoders:
            self._require_alike(vector.encoder, place)
            self._encoders.append(vector.encoder)
        return vector.data if self._keeps_vectors else None

    def _require_alike(self, encoder: EncoderFacts, place: str) -> None:
        """Makes sure that what is said of the build's encoder is the same wherever there is a vector of it."""
        self._first_place = self._first_place or place
        for name in ("width", "fusion"):
            first, here = getattr(next(iter(self._encoders), encoder), name), getattr(encoder, name)
            if first != here:
                raise SourceError(
                    f"{_file_of(self._first_place)} and {_file_of(place)} have vectors of the encoder "
                    f"{encoder.fingerprint}, but its {name} is {first} by the one and {here} by the other: one of them "
                    "is damaged; leave it out of the corpus"
                )

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Runs a statement of SQL over the plan, and over what is attached to it.

        Raises:
            OSError: the plan's file cannot be read or written now, as on a full disk.
        """
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise unusable(self.path, error) from error

    def execute_all(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Runs a statement of SQL with each of some values; raises as `execute` does."""
        self.execute("BEGIN")
        try:
            self._db.executemany(statement, values)
        except sqlite3.OperationalError as error:
            raise unusable(self.path, error) from error
        self.execute("COMMIT")

    def _repeat(self, entry: CorpusEntry, earlier: tuple[Any, ...], content: tuple[Any, ...]) -> None:
        """Puts a key in one more pool, if the row is the same candidate in another M-BEIR file."""
        place, text, metadata, images, may_repeat, pools, position = earlier
        is_other_file = _file_of(entry.where) != _file_of(place)
        if not (entry.may_repeat and may_repeat and is_other_file):
            raise DuplicateKeyError(entry.where, f"duplicate key '{entry.key}', first at {place}", entry.key)
        if content != (text, metadata, images):
            reason = f"key '{entry.key}' differs from the row with the same did at {place}"
            raise DuplicateKeyError(entry.where, reason, entry.key)
        merged = sorted({*json.loads(pools), *entry.pools})
        digest = _payload_digest(text, metadata, merged, _stamps(images), self._images)
        facts = (json.dumps(merged), digest, position)
        self.execute("UPDATE entries SET pools = ?, payload_sha256 = ? WHERE position = ?", facts)


def _file_of(place: str) -> str:
    """The file that a row's place names."""
    return place.rpartition(":")[0]


def _condition(only_left: bool) -> str:
    return f"state = {LEFT}" if only_left else "true"


def planned(row: Sequence[Any]) -> PlannedEntry:
    """An entry from what `ENTRY` selects."""
    position, key, where, text, metadata, pools, images, payload_sha256, vector = row
    named = () if pools == "[]" else tuple(json.loads(pools))
    stamps = () if images == "[]" else _stamps(images)
    return PlannedEntry(position, key, where, text, metadata, named, stamps, payload_sha256.hex(), vector)


def _stamps(images: str) -> tuple[ImageStamp, ...]:
    return tuple([ImageStamp(*image) for image in json.loads(images)])


def _payload_digest(
    text: str | None, metadata: str, pools: Sequence[str], stamps: Sequence[ImageStamp], images: ImageStorage
) -> bytes:
    places = [stamp.location for stamp in stamps] if images == "reference" else len(stamps)
    facts = [text, metadata, pools, images, places]
    return hashlib.sha256(json.dumps(facts).encode()).digest()
