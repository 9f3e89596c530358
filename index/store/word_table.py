"""The words of a store's keys, in a full-text table beside them (SQLite's FTS5) that follows the change sequence.

A row of `words` has the tokens of the key whose change number is its `rowid`. Whoever changes keys need not know of it:
before a change is committed, the table takes in what came after the last change that it has, and lets go of what went,
in the same transaction. A store that a release without words made or changed is caught up with when it is opened for
writing; until then, `word_facts` tells readers that the table is behind.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import IndexCorruptError, WordsUnavailableError
from anykey.index.filtering.filters import parse_path
from anykey.index.store.manifest import OPTIONS_NAME
from anykey.index.store.store_file import Meta, naming_damage, path_of, read_meta
from anykey.index.words.tokens import Path as FieldPath
from anykey.index.words.tokens import tokens_of

ROWS_AT_ONCE = 2_000
_TABLES = (
    "CREATE VIRTUAL TABLE words USING fts5(tokens, tokenize = 'ascii')",
    "CREATE TABLE word_facts (seq INTEGER NOT NULL, fields TEXT)",
)
_KEYS = "SELECT row, key, text, metadata FROM keys WHERE row > ? ORDER BY row"
_STATE = "SELECT seq, fields FROM word_facts"  # up to which change the table has the words, and of which fields
_GONE = "SELECT row FROM removals WHERE seq > ? AND row <= ?"
logger = logging.getLogger(__name__)


class WordTable:
    """The words of a store that is open for writing; for one thread at a time.

    Attributes:
        is_behind: Whether the table could not be made or caught up with, as where the disk was full; it is tried again
            when the store is opened next.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, meta: Meta) -> None:
        """Makes the table if there is none, and catches up with what other releases changed.

        Args:
            db: The store's connection, in no transaction.
            path: The store's file.
            meta: What is noted about it.
        """
        self._db = db
        self._meta = meta
        self.is_behind = False
        try:
            with naming_damage(path):
                if not db.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone():
                    raise OSError("this Python's SQLite has no FTS5")
                self._catch_up(path)
        except OSError as error:
            logger.warning("keys of %s cannot be found by their words for now: %s", path, error)
            self.is_behind = True

    def follow(self) -> None:
        """Takes in what the transaction under way has changed, which is about to be committed."""
        if self.is_behind:
            return
        meta, state = self._meta.read(), self._db.execute(_STATE).fetchone()
        if state is None or state[1] != _fields_in(meta.get(OPTIONS_NAME)):
            self.rebuild()
            return
        known, fields = state
        if known != meta["seq"]:
            gone = self._db.execute(_GONE, (known, known))
            self._db.executemany("DELETE FROM words WHERE rowid = ?", gone)
            self._take_in_all(known, fields, meta["seq"])

    def rebuild(self) -> None:
        """Makes the table anew from the keys, in the transaction of the caller."""
        meta = self._meta.read()
        self._make(_fields_in(meta.get(OPTIONS_NAME)))
        self._take_in_all(0, _fields_in(meta.get(OPTIONS_NAME)), meta["seq"])

    def _make(self, fields: str | None) -> None:
        for name in ("words", "word_facts"):
            self._db.execute(f"DROP TABLE IF EXISTS {name}")
        for statement in _TABLES:
            self._db.execute(statement)
        self._db.execute("INSERT INTO word_facts VALUES (0, ?)", (fields,))

    def _take_in_all(self, after: int, fields: str | None, seq: int) -> None:
        """Takes in all keys after a change number, up to the last one, `seq`."""
        more: int | None = after
        while more is not None:
            more = self._take_in(more, fields)
        self._db.execute("UPDATE word_facts SET seq = ?", (seq,))

    def _take_in(self, after: int, fields: str | None) -> int | None:
        """Takes in some keys after a change number; gives that of the last one, `None` if there are no more."""
        page = self._db.execute(f"{_KEYS} LIMIT {ROWS_AT_ONCE}", (after,)).fetchall()
        paths = paths_of(fields)
        rows = [(seq, tokens_of(key, text, metadata, paths)) for seq, key, text, metadata in page]
        self._db.executemany("INSERT INTO words (rowid, tokens) VALUES (?, ?)", rows)
        return page[-1][0] if len(page) == ROWS_AT_ONCE else None

    def _catch_up(self, path: Path) -> None:
        """Takes in what releases changed that know of no words, a part at a time; what is done stays done."""
        facts, meta = _facts(self._db), self._meta.read()
        if facts is not None and (facts[0] == meta["seq"] or facts[1] != _fields_in(meta.get(OPTIONS_NAME))):
            return  # other fields are taken in by the change that follows
        if facts is None:
            with _committing(self._db):
                self._make(_fields_in(meta.get(OPTIONS_NAME)))
        elif facts[0]:
            with _committing(self._db):
                self._db.execute("DELETE FROM words WHERE rowid NOT IN (SELECT row FROM keys)")
        known = 0 if facts is None else facts[0]
        if known < meta["seq"]:
            logger.info("taking in the words of the keys of %s", path)
        more: int | None = known
        while more is not None:
            with _committing(self._db):
                more = self._take_in(more, _fields_in(meta.get(OPTIONS_NAME)))
                self._db.execute("UPDATE word_facts SET seq = ?", (meta["seq"] if more is None else more,))


def matches(db: sqlite3.Connection, expression: str, seq: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The keys that an expression of FTS5 finds: change numbers `[M]`, in no order, and their BM25 scores `[M]`.

    Args:
        db: A connection to the store, in a transaction.
        expression: The expression.
        seq: The number of the transaction's last change.

    Raises:
        WordsUnavailableError: the store has no words, or is ahead of them.
    """
    facts = _facts(db)
    if facts is None or facts[0] != seq:
        raise WordsUnavailableError(
            "the keys of this index cannot be found by their words yet: a release without words made or changed it; "
            "open it for writing once, as `anykey-index compact` does"
        )
    try:
        found = db.execute("SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?", (expression,)).fetchall()
    except sqlite3.DatabaseError as error:
        if not _is_of_words(error):
            raise
        raise WordsUnavailableError(
            "what the index has of its keys' words is damaged; `anykey-index repair` makes it anew"
        ) from error
    seqs = np.fromiter((row[0] for row in found), np.int64, len(found))
    return seqs, np.fromiter((row[1] for row in found), np.float64, len(found))


def words_damage(db: sqlite3.Connection) -> IndexCorruptError | None:
    """What is wrong with the words of a store, if anything: they are compared with its keys, one by one."""
    facts = _facts(db)
    if facts is None or facts[0] != read_meta(db)["seq"]:
        return None  # behind, which every reader is told
    reason = "what it has of its keys' words differs from the keys; `anykey-index repair` makes it anew"
    paths, num_tokens = paths_of(facts[1]), 0
    try:
        kept = db.execute("SELECT rowid, tokens FROM words ORDER BY rowid")
        for row, key in zip_longest(kept, db.execute(_KEYS, (0,))):
            if row is None or key is None or row != (key[0], tokens_of(key[1], key[2], key[3], paths)):
                return IndexCorruptError(path_of(db), reason)
            num_tokens += row[1].count(" ") + 1 if row[1] else 0
        db.execute("CREATE VIRTUAL TABLE temp.found_words USING fts5vocab('main', 'words', 'row')")
        (num_found,) = db.execute("SELECT coalesce(sum(cnt), 0) FROM temp.found_words").fetchone()
    except sqlite3.DatabaseError as error:
        if not _is_of_words(error):
            raise
        return IndexCorruptError(path_of(db), reason)
    return None if num_found == num_tokens else IndexCorruptError(path_of(db), reason)


def compact_words(db: sqlite3.Connection) -> None:
    """Rewrites the words of a copy of a store without anything of those that went."""
    if _facts(db) is not None:
        db.execute("INSERT INTO words (words) VALUES ('optimize')")


def paths_of(fields: str | None) -> list[FieldPath] | None:
    """The fields of which the words count, as a store notes them, to their paths; `None` stands for all."""
    return None if fields is None else [parse_path(field) for field in json.loads(fields)]


def _is_of_words(error: sqlite3.Error) -> bool:
    """Whether SQLite complains about the full-text table alone."""
    return getattr(error, "sqlite_errorname", "") == "SQLITE_CORRUPT_VTAB"


@lru_cache(maxsize=8)  # asked with every change
def _fields_in(options: str | None) -> str | None:
    """The fields that a store's options name, as JSON; `None` for all."""
    fields = json.loads(options or "{}").get("word_fields")
    return None if fields is None else json.dumps(fields)


def _facts(db: sqlite3.Connection) -> tuple[int, str | None] | None:
    """Up to which change the table has the words, and of which fields; `None` without a table."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'word_facts'").fetchone():
        return None
    found: tuple[int, str | None] | None = db.execute(_STATE).fetchone()
    return found


@contextmanager
def _committing(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # else SQLite has taken it back by itself, for want of room
            db.execute("ROLLBACK")
        raise
