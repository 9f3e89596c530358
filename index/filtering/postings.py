"""Postings: for each value in the keys' metadata, for each modality and pool, the positions of the keys that have it.

A version's `fields.sqlite`, derived from the store and never changed. All postings lie one after the other, in the
order of their terms (`index.filtering.terms`), as one array of little-endian uint32 cut into chunks:

    terms     term, start, stop    a term's positions are those from `start` to `stop` of the array, ascending
    chunks    number, positions    `CHUNK` of them each, the last one fewer
    facts     num_positions, num_postings

So all values between two bounds are one slice too, however many they are. `application_id` is 0x416E7946.

Shape legend: P = positions found.
"""

import heapq
import itertools
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError
from anykey.index.filtering.conditions import Condition
from anykey.index.filtering.conditions import Path as FieldPath
from anykey.index.filtering.evaluation import Bounds, Selection, evaluate, intersect, select
from anykey.index.filtering.terms import (
    NoTermError,
    behind_place,
    column_of,
    exists_term,
    is_dated,
    is_instant,
    is_string,
    modality_term,
    moment_term,
    place_of,
    pool_term,
    strings_beside,
    terms_of,
)
from anykey.index.store.store_file import Connections, naming_damage

APPLICATION_ID = 0x416E7946  # "AnyF"
SCHEMA_VERSION = 2
FORMER_VERSION = 1  # which does not tell dates from other strings
CHUNK = 16_384  # positions, 64 KiB
POSITION_BYTES = 4
CHUNK_BYTES = POSITION_BYTES * CHUNK
MEMORY_BYTES = 16 * 2**20  # more makes no file faster
TERM_BYTES = 250  # what a term in memory costs besides its own bytes and its positions
TERMS_PER_QUERY = 500
TERMS_AT_ONCE = 8192  # that are counted, for which values are held

Posted = tuple[str, Sequence[str], dict[str, Any]]  # one key's modality, pools and metadata
Span = tuple[int, int]  # a slice of the array of all postings: start, stop

SCHEMA = f"""
PRAGMA page_size = 16384;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE facts (num_positions INTEGER NOT NULL, num_postings INTEGER NOT NULL);
CREATE TABLE terms (term BLOB PRIMARY KEY, start INTEGER NOT NULL, stop INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks (number INTEGER PRIMARY KEY, positions BLOB NOT NULL);
"""


def write_postings(path: Path, rows: Iterable[Posted], memory_bytes: int = MEMORY_BYTES) -> int:
    """Writes the postings of keys, with scratch space beside the file.

    Args:
        path: The file, made anew; the caller forces it to disk. After an error it may be there and incomplete.
        rows: Modality, pools and metadata (JSON) of the keys at positions 0, 1, 2, ...
        memory_bytes: What is held in memory at once, however many keys there are; about.

    Returns:
        The number of keys.
    """
    path.unlink(missing_ok=True)
    with closing(_Runs(path.with_name(f"{path.name}.runs"), memory_bytes)) as runs, closing(_open_scratch(path)) as db:
        num_positions = runs.add(rows)
        db.executescript(SCHEMA)
        db.execute("BEGIN")
        chunks = _Chunks(db)
        db.executemany("INSERT INTO terms VALUES (?, ?, ?)", _place(runs.merged(), chunks))
        chunks.finish()
        db.execute("INSERT INTO facts VALUES (?, ?)", (num_positions, chunks.num_postings))
        db.execute("COMMIT")
    return num_positions


def posted_terms(row: Posted) -> set[bytes]:
    """The terms of one key."""
    modality, pools, metadata = row
    terms = {modality_term(modality), *map(pool_term, pools)}
    return terms | terms_of(metadata) if metadata else terms


class Postings:
    """Open postings, read-only; safe for use from several threads.

    Attributes:
        path: The file.
        num_positions: Number of keys; positions are below it.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            IndexCorruptError: it is missing, damaged, or holds no postings.
        """
        self.path = path
        self.num_positions = self._num_postings = 0
        self._is_former = False
        self._connections = Connections(lambda: _open_read_only(path))
        try:
            with self.reading() as reading:
                self._is_former = reading.version() == FORMER_VERSION
                self.num_positions, self._num_postings = reading.facts()
        except IndexCorruptError:
            self.close()
            raise

    def positions(self, condition: Condition, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Positions of the keys whose metadata a condition holds of, `[P]`, ascending.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: the file is damaged.
        """
        with self.reading(deadline) as reading:
            return evaluate(condition, reading, deadline).positions()

    def has_field(self, path: FieldPath, deadline: Deadline = NEVER) -> bool:
        """Whether any key has a value at a path, or below it.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: the file is damaged.
        """
        with self.reading(deadline) as reading:
            return reading.has_term(exists_term(path))

    def positions_of_modality(self, modality: str, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Positions of the keys of a modality, `[P]`, ascending.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: the file is damaged.
        """
        with self.reading(deadline) as reading:
            return reading.with_any([modality_term(modality)]).positions()

    def positions_of_pool(self, pool: str, deadline: Deadline = NEVER) -> NDArray[np.int64]:
        """Positions of the keys in a pool, `[P]`, ascending; none if there is no such pool.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: the file is damaged.
        """
        with self.reading(deadline) as reading:
            return reading.with_any([pool_term(pool)]).positions()

    def close(self) -> None:
        """Closes the file; no thread may be reading. Repeating it is fine."""
        self._connections.close()

    @contextmanager
    def reading(self, deadline: Deadline = NEVER) -> Iterator["Reading"]:
        """Reads of one thread, for one answer, for the length of the block.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: the file is damaged.
        """
        with naming_damage(self.path), self._connections.lent(deadline) as db:
            reads = _FormerReading if self._is_former else Reading
            try:
                yield reads(self.path, db, deadline, self.num_positions, self._num_postings)
            except NoTermError as error:
                raise IndexCorruptError(self.path, str(error)) from error


class Reading:
    """Reads of one thread, for one answer."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, deadline: Deadline, num_positions: int, num_postings: int
    ) -> None:
        self._path = path
        self._db = db
        self._deadline = deadline
        self._num_positions = num_positions
        self._num_postings = num_postings

    def version(self) -> int:
        """The schema's."""
        return int(self._all("PRAGMA user_version")[0][0])

    def facts(self) -> tuple[int, int]:
        """Numbers of positions and of postings, which agree with the number of chunks."""
        match self._all("SELECT num_positions, num_postings, (SELECT max(number) FROM chunks) FROM facts"):
            case [(0, 0, None)]:
                return 0, 0
            case [(int(num_positions), int(num_postings), int(last))]:
                if 0 < num_positions <= num_postings and last == (num_postings - 1) // CHUNK:
                    return num_positions, num_postings
        raise IndexCorruptError(self._path, "expected the numbers of its positions and postings")

    def has_term(self, term: bytes) -> bool:
        """Whether any key has a term."""
        return bool(self._spans("term = ?", term))

    def with_any(self, terms: Sequence[bytes]) -> Selection:
        """The keys that have one of the terms."""
        spans: list[Span] = []
        for first in range(0, len(terms), TERMS_PER_QUERY):
            some = terms[first : first + TERMS_PER_QUERY]
            spans += self._spans(f"term IN ({', '.join('?' * len(some))})", *some)
        return self._read(spans)

    def between(self, bounds: Bounds) -> Selection:
        """The keys with a value between the bounds: those of all terms from one to another."""
        above, below = ">" if bounds.is_above else ">=", "<" if bounds.is_below else "<="
        first = self._spans(f"term {above} ? ORDER BY term LIMIT 1", bounds.low)
        last = self._spans(f"term {below} ? ORDER BY term DESC LIMIT 1", bounds.high)
        is_any = first and last and first <= last
        return self._read([(first[0][0], last[0][1])] if is_any else [])

    def counted(
        self, bounds: Bounds, is_in_N: NDArray[np.bool_]
    ) -> Iterator[tuple[Sequence[bytes], NDArray[np.int64]]]:
        """The values of the terms between two, ascending, and how many of some keys have each; some at a time."""
        above, below = ">" if bounds.is_above else ">=", "<" if bounds.is_below else "<="
        value = f"substr(term, {len(column_of(bounds.low)[0]) + 1})"
        query = f"SELECT {value}, start, stop FROM terms WHERE term {above} ? AND term {below} ? ORDER BY term"
        found = self._db.execute(query, (bounds.low, bounds.high))
        while rows := found.fetchmany(TERMS_AT_ONCE):
            values, starts, stops = zip(*rows, strict=True)
            if set(map(type, values)) != {bytes}:
                raise IndexCorruptError(self._path, "expected terms to be bytes")
            yield values, self._num_in(self._edges(starts, stops), is_in_N)

    def next_place(self, low: bytes) -> bytes | None:
        """What the first terms from one on begin with that are of a path of metadata; see `place_of`."""
        found = self._all("SELECT term FROM terms WHERE term >= ? ORDER BY term LIMIT 1", low)
        if not found:
            return None
        place = place_of(found[0][0]) if isinstance(found[0][0], bytes) else b""
        if place and behind_place(place) <= low:
            raise IndexCorruptError(self._path, "expected terms of a known kind")
        return place or None  # those of none are the last

    def _edges(self, starts: Sequence[Any], stops: Sequence[Any]) -> NDArray[np.int64]:
        """Where the slices of terms that follow each other begin, and the last one ends."""
        try:
            edges = np.array([*starts, stops[-1]], np.int64)
        except (TypeError, ValueError, OverflowError):
            edges = np.zeros(2, np.int64)
        is_whole = starts[1:] == stops[:-1] and bool(np.all(edges[1:] > edges[:-1]))
        if not is_whole or edges[0] < 0 or edges[-1] > self._num_postings:
            raise IndexCorruptError(self._path, f"expected slices of {self._num_postings} postings, side by side")
        return edges

    def _num_in(self, edges: NDArray[np.int64], is_in_N: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of some keys are in each of the slices between edges."""
        before = np.zeros(len(edges), np.int64)  # each edge
        place, num_before = int(edges[0]), 0
        for positions in self._slices([(place, int(edges[-1]))]):
            self._check_positions(positions)
            sums = np.cumsum(is_in_N[positions])
            first, last = np.searchsorted(edges, (place, place + len(positions)), side="right")
            before[first:last] = num_before + sums[edges[first:last] - place - 1]
            place, num_before = place + len(positions), num_before + int(sums[-1])
        return np.diff(before)

    def _spans(self, condition: str, *terms: bytes) -> list[Span]:
        """Where the postings of some terms are."""
        return list(map(self._checked, self._all(f"SELECT start, stop FROM terms WHERE {condition}", *terms)))

    def _checked(self, span: tuple[Any, Any]) -> Span:
        start, stop = span
        if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start < stop <= self._num_postings):
            raise IndexCorruptError(self._path, f"expected a slice of {self._num_postings} postings")
        return start, stop

    def _read(self, spans: Sequence[Span]) -> Selection:
        """The keys in slices of the array."""
        parts = list(self._slices(spans))
        found = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype="<u4"), *parts])
        self._check_positions(found)
        return select(found, self._num_positions)

    def _check_positions(self, found: NDArray[np.uint32]) -> None:
        if found.size and int(found.max()) >= self._num_positions:
            raise IndexCorruptError(self._path, f"expected positions below {self._num_positions}, got {found.max()}")

    def _slices(self, spans: Sequence[Span]) -> Iterator[NDArray[np.uint32]]:
        chunk, number_read = np.empty(0, dtype="<u4"), -1
        for start, stop in sorted(spans):
            for number in range(start // CHUNK, (stop - 1) // CHUNK + 1):
                if number != number_read:
                    chunk, number_read = self._chunk(number), number
                yield chunk[max(start - number * CHUNK, 0) : stop - number * CHUNK]

    def _chunk(self, number: int) -> NDArray[np.uint32]:
        self._deadline.check()
        expected = POSITION_BYTES * min(CHUNK, self._num_postings - number * CHUNK)
        match self._all("SELECT positions FROM chunks WHERE number = ?", number):
            case [(bytes(data),)] if len(data) == expected:
                return np.frombuffer(data, dtype="<u4")
        raise IndexCorruptError(self._path, f"expected {expected} bytes in chunk {number}")

    def _all(self, query: str, *parameters: bytes | int) -> list[tuple[Any, ...]]:
        return self._db.execute(query, parameters).fetchall()


class _FormerReading(Reading):
    """Reads of a file in which dates lie among the other strings: these are gone through term by term."""

    def with_any(self, terms: Sequence[bytes]) -> Selection:
        """The keys that have one of the terms."""
        moments = {term for term in terms if is_instant(term)}
        columns = {strings_beside(column_of(term)[0]) for term in moments}
        spans = [
            span
            for column in sorted(columns)
            for term, span in self._strings(Bounds.all_of(column))
            if moment_term(*column_of(term)) in moments
        ]
        return ~intersect([~super().with_any([term for term in terms if term not in moments]), ~self._read(spans)])

    def between(self, bounds: Bounds) -> Selection:
        """The keys with a value between the bounds."""
        column = column_of(bounds.low)[0]
        if is_dated(bounds.low):
            return self._read([])  # they are among the strings
        if is_instant(bounds.low):
            strings = self._strings(Bounds.all_of(strings_beside(column)))
            found = ((moment_term(*column_of(term)), span) for term, span in strings)
            return self._read([span for moment, span in found if moment is not None and bounds.hold(moment)])
        if bounds.leaves_out_dates:
            strings = self._strings(bounds)
            return self._read([span for term, span in strings if moment_term(*column_of(term)) is None])
        return super().between(bounds)

    def counted(
        self, bounds: Bounds, is_in_N: NDArray[np.bool_]
    ) -> Iterator[tuple[Sequence[bytes], NDArray[np.int64]]]:
        """The values of the terms between two, ascending, and how many of some keys have each; all dates at once."""
        name, _ = column_of(bounds.low)
        if is_string(bounds.low):
            for values, counts_V in super().counted(bounds, is_in_N):
                is_other_V = np.array([moment_term(name, value) is None for value in values])
                yield list(itertools.compress(values, is_other_V)), counts_V[is_other_V]
        elif is_instant(bounds.low):
            spans: dict[bytes, list[Span]] = {}
            for term, span in self._strings(Bounds.all_of(strings_beside(name))):
                moment = moment_term(*column_of(term))
                if moment is not None and bounds.hold(moment):
                    spans.setdefault(moment, []).append(span)
            moments = sorted(spans)
            counts = [np.count_nonzero(is_in_N[self._read(spans[moment]).found]) for moment in moments]
            yield [column_of(moment)[1] for moment in moments], np.array(counts, np.int64)
        else:
            yield from super().counted(bounds, is_in_N)

    def _strings(self, bounds: Bounds) -> Iterator[tuple[bytes, Span]]:
        """The terms between two, each with where its postings are."""
        above, below = ">" if bounds.is_above else ">=", "<" if bounds.is_below else "<="
        query = f"SELECT term, start, stop FROM terms WHERE term {above} ? AND term {below} ?"
        for number, (term, *span) in enumerate(self._db.execute(query, (bounds.low, bounds.high))):
            if number % CHUNK == 0:
                self._deadline.check()
            yield term, self._checked((span[0], span[1]))


class _Runs:
    """Postings on their way to the file: what memory holds is sorted and put on disk whenever it is enough, as a run.

    Attributes:
        path: A scratch file, deleted by `close`.
    """

    def __init__(self, path: Path, memory_bytes: int) -> None:
        path.unlink(missing_ok=True)
        self.path = path
        self._memory_bytes = memory_bytes
        self._db = _open_scratch(path)
        self._db.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, term BLOB NOT NULL, positions BLOB NOT NULL)")
        self._db.execute("BEGIN")
        self._ends = [0]
        self._held = _Held()

    def add(self, rows: Iterable[Posted]) -> int:
        """Takes the terms of the keys at positions 0, 1, 2, ...; gives the number of keys."""
        position = -1
        for position, row in enumerate(rows):
            terms = posted_terms(row)
            held = self._held
            for term in terms:
                held[term].append(position)
            held.num_bytes += POSITION_BYTES * len(terms)
            if held.num_bytes >= self._memory_bytes:
                self._write_run()
        return position + 1

    def merged(self) -> Iterator[tuple[bytes, int, bytes]]:
        """All there is: term, a number that rises, and positions; terms in order, positions ascending in each."""
        self._write_run()
        query = "SELECT term, id, positions FROM runs WHERE id > ? AND id <= ? ORDER BY id"
        return heapq.merge(*(self._db.execute(query, ends) for ends in itertools.pairwise(self._ends)))

    def close(self) -> None:
        """Deletes the scratch file."""
        self._db.close()
        self.path.unlink(missing_ok=True)

    def _write_run(self) -> None:
        """In pieces: what is written is copied several times on its way, and all keys may have a term."""
        written = self._db.executemany("INSERT INTO runs (term, positions) VALUES (?, ?)", self._held.pieces())
        self._ends.append(self._ends[-1] + written.rowcount)
        self._held = _Held()


class _Held(dict[bytes, "array[int]"]):
    """The positions of each term met so far, and about how many bytes that takes."""

    num_bytes = 0

    def __missing__(self, term: bytes) -> "array[int]":
        self.num_bytes += TERM_BYTES + len(term)
        positions = self[term] = array("I")
        return positions

    def pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """Terms in order, each with some of its positions at a time, ascending."""
        for term in sorted(self):
            for start in range(0, len(self[term]), CHUNK):
                yield term, self[term][start : start + CHUNK].tobytes()


class _Chunks:
    """The array of all postings, written as it grows."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.num_postings = 0
        self._db = db
        self._waiting = bytearray()
        self._num_written = 0

    def add(self, positions: bytes) -> None:
        self._waiting += positions
        self.num_postings += len(positions) // POSITION_BYTES
        while len(self._waiting) >= CHUNK_BYTES:
            self._write()

    def finish(self) -> None:
        if self._waiting:
            self._write()

    def _write(self) -> None:
        self._db.execute("INSERT INTO chunks VALUES (?, ?)", (self._num_written, self._waiting[:CHUNK_BYTES]))
        del self._waiting[:CHUNK_BYTES]
        self._num_written += 1


def _place(postings: Iterable[tuple[bytes, int, bytes]], chunks: _Chunks) -> Iterator[tuple[bytes, int, int]]:
    """Puts the postings into the array; gives each term's slice of it."""
    for term, parts in itertools.groupby(postings, key=itemgetter(0)):
        start = chunks.num_postings
        for _, _, part in parts:
            chunks.add(part)
        yield term, start, chunks.num_postings


def _open_scratch(path: Path) -> sqlite3.Connection:
    """A connection for writing a file that is worth nothing until it is complete."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    return db


def _open_read_only(path: Path) -> sqlite3.Connection:
    with naming_damage(path):
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        db = sqlite3.connect(uri, uri=True, check_same_thread=False)
        identity = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
    if identity != APPLICATION_ID or version not in (FORMER_VERSION, SCHEMA_VERSION):
        db.close()
        raise IndexCorruptError(path, f"expected postings of schema {SCHEMA_VERSION}, got {identity:#x}, {version}")
    return db
