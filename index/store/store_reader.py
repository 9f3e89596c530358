"""Reads of a store, from several threads and processes at once, also while one writes.

Shape legend: R = keys read, D = width.
"""

import contextlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import IndexCorruptError, KeyCorruptError, KeyNotFoundError
from anykey.index.hits import Payload, StoredKey
from anykey.index.queries import MAX_NORM_ERROR, is_unicode
from anykey.index.store.manifest import Manifest
from anykey.index.store.records import (
    NewImage,
    TuningQueries,
    payload_checksum,
    payload_checksums,
    query_checksum,
    vector_checksum,
)
from anykey.index.store.store_file import (
    Connections,
    is_undecodable,
    naming_damage,
    open_read_only,
    read_meta,
    reading_any_text,
    stop_at,
    stopping_at,
    vector_dtype,
)
from anykey.index.vectors.calibration import MODALITIES
from anykey.index.vectors.structure_facts import VectorType

SCAN_PAGE = 256
MOST_PARAMETERS = 10_000  # of one statement
_PAYLOAD = "row, key, modality, text, metadata, pools, num_images, checksum"


@dataclass(frozen=True)
class Changes:
    """What came into a store after some number of its change sequence.

    Attributes:
        seq: The number of the last change.
        seqs_R: Numbers of the changes that stored new keys, ascending.
        vectors_RD: Their vectors.
        keys: Their keys with their payload.
        removed: Numbers of those that stored what is no longer there.
        unsound: What is wrong with damaged records, by their numbers in `seqs_R`.
    """

    seq: int
    seqs_R: NDArray[np.int64]
    vectors_RD: NDArray[np.float32]
    keys: list[StoredKey]
    removed: NDArray[np.int64]
    unsound: dict[int, "Unsound"] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsound:
    """What is wrong with the record of one new key.

    Attributes:
        error: The damage; raised by every answer that the key is in.
        has_payload: Whether it can be told what filters ask for.
        has_vector: Whether its vector points where it did, as far as can be told.
    """

    error: KeyCorruptError
    has_payload: bool
    has_vector: bool


class ReadTransaction:
    """Reads of a store as it is at one moment, over a connection of the thread that asked for it.

    Attributes:
        seq: Number of the last change in it.
        heir: Who is handed the moment, still open, when the block that it was made for ends without an error.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, deadline: Deadline = NEVER) -> None:
        self._db = db
        self._path = path
        self._deadline = deadline
        self.heir: Callable[[OpenMoment], None] | None = None
        found = self._all("SELECT value FROM meta WHERE name = 'seq'")
        if not found or not isinstance(found[0][0], int):
            raise IndexCorruptError(path, "it does not tell its last change")
        self.seq: int = found[0][0]

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Lets the block's reads go on beyond the deadline, for it is work that serves others too."""
        stop_at(self._db, NEVER)
        try:
            yield
        finally:
            stop_at(self._db, self._deadline)

    def seqs_of_keys(self, keys: Collection[str]) -> NDArray[np.int64]:
        """Change numbers of those keys that exist, ascending."""
        names = [key for key in dict.fromkeys(keys) if is_unicode(key)]
        found = [np.empty(0, np.int64)]
        for start in range(0, len(names), MOST_PARAMETERS):
            part = names[start : start + MOST_PARAMETERS]  # no JSON list: SQLite cuts its strings at a NUL
            found.append(self._seqs(f"SELECT row FROM keys WHERE key IN ({', '.join('?' * len(part))})", *part))
        return np.sort(np.concatenate(found))

    def records(self, seqs: Iterable[int]) -> dict[int, StoredKey]:
        """Keys by their change numbers, in one query.

        Raises:
            IndexCorruptError: one of them is not there, or differs from its checksum.
        """
        asked = set(seqs)
        query = f"SELECT {_PAYLOAD} FROM keys WHERE row IN (SELECT value FROM json_each(?))"
        found = self._all(query, json.dumps(sorted(asked)))
        if missing := asked.difference(payload[0] for payload in found):
            raise IndexCorruptError(self._path, f"no key has row {min(missing)}, which a version covers")
        checksums = payload_checksums(payload[:-1] for payload in found)
        return {line[0]: self._stored_key(line, checksum) for line, checksum in zip(found, checksums, strict=True)}

    def matches(self, expression: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Change numbers `[M]` of the keys that an expression of FTS5 finds, in no order, and their BM25 scores `[M]`.

        Raises:
            WordsUnavailableError: the store has no words, or is ahead of them.
        """
        from anykey.index.store.word_table import matches  # which most searches do not need

        return matches(self._db, expression, self.seq)

    def changes_since(self, seq: int) -> Changes:
        """What came after change number `seq`; a record that is damaged is told, and does not keep out the others."""
        meta = self.meta()
        query = (
            "SELECT row, key, modality, text, metadata, pools, num_images, keys.checksum, vector, vectors.checksum"
            " FROM keys LEFT JOIN vectors USING (id) WHERE row > ? ORDER BY row"
        )
        dtype, width = vector_dtype(meta), meta["width"]
        seqs: list[int] = []
        vectors, keys, unsound = [], list[StoredKey](), dict[int, Unsound]()
        for number, key, *payload, vector, checksum in self._all(query, seq):
            try:
                keys.append(self._stored_key((number, key, *payload)))
                vectors.append(self._checked_vector(key, vector, checksum))
            except KeyCorruptError as error:
                has_payload, has_vector = len(keys) > len(seqs), _is_usable(vector, dtype, width)
                unsound[number] = Unsound(error, has_payload, has_vector)
                if not has_payload:
                    keys.append(StoredKey(str(key), Modality.TEXT, Payload(None, {}, 0), ()))
                vectors.append(vector if has_vector else bytes(width * dtype.itemsize))
            seqs.append(number)
        removed = self.removed_since(seq)
        vectors_RD = np.frombuffer(b"".join(vectors), dtype).astype(np.float32).reshape(len(seqs), width)
        return Changes(self.seq, np.array(seqs, np.int64), vectors_RD, keys, removed, unsound)

    def removed_since(self, seq: int) -> NDArray[np.int64]:
        """Change numbers of what went after change number `seq`."""
        return self._seqs("SELECT row FROM removals WHERE seq > ?", seq)

    def get(self, key: str) -> StoredKey:
        """One key as it is stored.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        return self._stored_key(self._find(key, _PAYLOAD))

    def vector(self, key: str) -> NDArray[np.float32]:
        """The vector `[D]` of a key.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        (identity,) = self._find(key, "id")
        found = self._all("SELECT vector, checksum FROM vectors WHERE id = ?", identity) or [(None, None)]
        return np.frombuffer(self._checked_vector(key, *found[0]), vector_dtype(self.meta())).astype(np.float32)

    def vectors_of(self, seqs: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """Vectors `[D]` of keys by their change numbers, in one query.

        Raises:
            IndexCorruptError: one of them is missing or differs from its checksum.
        """
        dtype = vector_dtype(self.meta())
        query = (
            "SELECT row, key, vector, vectors.checksum FROM keys LEFT JOIN vectors USING (id)"
            " WHERE row IN (SELECT value FROM json_each(?))"
        )
        found = self._all(query, json.dumps(sorted(set(seqs))))
        return {
            seq: np.frombuffer(self._checked_vector(key, vector, checksum), dtype).astype(np.float32)
            for seq, key, vector, checksum in found
        }

    def image(self, key: str, position: int) -> NewImage:
        """One image of a key as it is stored: its bytes, or where they are.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
        """
        identity, num_images = self._find(key, "id, num_images")
        if not 0 <= position < num_images:
            raise KeyNotFoundError(f"key '{key}' has {num_images} images, there is none at position {position}")
        query = "SELECT media_type, path, data, checksum FROM images WHERE id = ? AND position = ?"
        found = self._all(query, identity, position)
        if not found:
            raise KeyCorruptError(self._path, key, f"image {position} of key {key!r} is missing")
        media_type, path, data, checksum = found[0]
        image = NewImage(media_type, path, data)
        if image.checksum(key, position) != checksum:
            raise KeyCorruptError(self._path, key, f"image {position} of key {key!r} differs from its checksum")
        return image

    def meta(self) -> dict[str, Any]:
        """What was noted about the whole store."""
        return read_meta(self._db)

    def seqs(self) -> NDArray[np.int64]:
        """Change numbers of all keys, ascending."""
        return np.concatenate([np.empty(0, np.int64), *self.seq_batches(MOST_PARAMETERS)])

    def seq_batches(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Change numbers of all keys, ascending, `[B]` at a time."""
        cursor = self._db.execute("SELECT row FROM keys ORDER BY row")
        while batch := cursor.fetchmany(batch_size):
            yield np.fromiter(chain.from_iterable(batch), np.int64, len(batch))

    def vectors(self, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """All vectors in the order of their change numbers, `[B, D]` at a time.

        Raises:
            IndexCorruptError: one of them is missing or differs from its checksum.
        """
        return (vectors_BD for vectors_BD, _ in self.vectors_by_modality(batch_size))

    def vectors_by_modality(self, batch_size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """All vectors in the order of their change numbers, with their modalities' positions in `MODALITIES`, `[B]`.

        Raises:
            IndexCorruptError: one of them is missing or differs from its checksum.
        """
        dtype = vector_dtype(self.meta())
        codes = {modality.value: code for code, modality in enumerate(MODALITIES)}
        query = "SELECT key, vector, vectors.checksum, modality FROM keys LEFT JOIN vectors USING (id) ORDER BY row"
        cursor = self._db.execute(query)
        while batch := cursor.fetchmany(batch_size):
            for key, vector, checksum, _ in batch:
                if vector is None or vector_checksum(key, vector) != checksum:
                    raise self._damaged_vector(key, vector)
            data = b"".join([vector for _, vector, *_ in batch])
            codes_B = np.array([codes[modality] for *_, modality in batch], np.uint8)
            yield np.frombuffer(data, dtype).astype(np.float32).reshape(len(batch), -1), codes_B

    def tuning_queries(self) -> TuningQueries | None:
        """Real queries to measure search structures with, if there are any.

        Raises:
            IndexCorruptError: one of them differs from its checksum.
        """
        if not self._all("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'queries'"):
            return None  # a store made before there were any
        found = self._all("SELECT position, modality, vector, checksum FROM queries ORDER BY position")
        for number, (position, code, vector, checksum) in enumerate(found):
            if position != number or query_checksum(position, code, vector) != checksum:
                raise IndexCorruptError(self._path, f"query {number} for tuning differs from its checksum")
        if not found:
            return None
        vectors_QD = np.frombuffer(b"".join(row[2] for row in found), "<f4").reshape(len(found), -1)
        return TuningQueries(vectors_QD.astype(np.float32), np.array([row[1] for row in found], np.uint8))

    def deleted(self) -> Iterator[str]:
        """Keys that were deleted live and have not been stored since.

        Raises:
            IndexCorruptError: one of them differs from its checksum.
        """
        from anykey.index.store.deletions import read_deleted  # searches do not ask

        with naming_damage(self._path):
            yield from read_deleted(self._db)

    def attributes(self) -> Iterator[list[tuple[str, list[str], dict[str, Any]]]]:
        """Modality, pools and metadata of all keys in the order of their change numbers, some at a time.

        Raises:
            IndexCorruptError: one of them differs from its checksum.
        """
        query = f"SELECT {_PAYLOAD} FROM keys WHERE row > ? ORDER BY row LIMIT {SCAN_PAGE}"
        last = -1
        with naming_damage(self._path):  # and nothing that happens where they are used
            while page := self._all(query, last):
                found = []
                checksums = payload_checksums([line[:-1] for line in page])
                for (_, key, modality, _, metadata, pools, _, noted), checksum in zip(page, checksums, strict=True):
                    if checksum != noted:
                        raise self._damaged_payload(key)
                    named = [] if pools == "[]" else json.loads(pools)  # as of most keys
                    found.append((modality, named, {} if metadata == "{}" else json.loads(metadata)))
                yield found
                last = page[-1][0]

    def page(self, after: str | None, limit: int = SCAN_PAGE) -> list[StoredKey]:
        """The next keys by name, at most `limit`; `after` is Unicode."""
        condition, parameters = ("", []) if after is None else ("WHERE key > ?", [after])
        found = self._all(f"SELECT {_PAYLOAD} FROM keys {condition} ORDER BY key LIMIT {limit:d}", *parameters)
        keys: list[StoredKey] = []
        try:
            for payload in found:
                keys.append(self._stored_key(payload))
        except KeyCorruptError:
            if not keys:  # those before it are given first
                raise
        return keys

    def names(self, seqs: NDArray[np.int64]) -> list[str]:
        """Names of keys, by their change numbers."""
        return [key for key, _ in self.named(seqs)]

    def named(self, seqs: NDArray[np.int64]) -> list[tuple[str, int]]:
        """Names of keys, by their change numbers, each with its number."""
        found: list[tuple[str, int]] = []
        for start in range(0, len(seqs), MOST_PARAMETERS):
            part = json.dumps(seqs[start : start + MOST_PARAMETERS].tolist())
            query = "SELECT keys.key, keys.row FROM json_each(?) CROSS JOIN keys ON keys.row = value"
            found.extend(self._all(query, part))
        return found

    def page_within(self, after: str | None, limit: int, seqs: NDArray[np.int64]) -> list[StoredKey]:
        """The next of some keys, given by their change numbers, ascending, in the order of their names.

        Either their names are sorted, or all keys are walked in the order of their names until enough are found,
        whichever is less work.
        """
        if not len(seqs):
            return []
        if len(seqs) ** 2 <= limit * self.num_keys():
            names = sorted(name for name in self.names(seqs) if after is None or name > after)[:limit]
            chosen = self.records(self.seqs_of_keys(names).tolist())
            return sorted(chosen.values(), key=lambda key: key.key)
        return self._walk(after, limit, seqs)

    def _walk(self, after: str | None, limit: int, seqs: NDArray[np.int64]) -> list[StoredKey]:
        found: list[StoredKey] = []
        try:
            while len(found) < limit and (page := self.page(after)):
                numbers = np.array([key.seq for key in page], np.int64)
                places = np.minimum(np.searchsorted(seqs, numbers), len(seqs) - 1)
                found.extend(key for key, is_in in zip(page, seqs[places] == numbers, strict=True) if is_in)
                after = page[-1].key
        except KeyCorruptError:
            if not found:  # those before it are given first
                raise
        return found[:limit]

    def sample(self, most: int) -> list[StoredKey]:
        """Some keys beside each other, from a random place on."""
        start = secrets.randbelow(self.seq + 1)  # of no state that others share
        return [
            self._stored_key(payload)
            for payload in self._all(f"SELECT {_PAYLOAD} FROM keys WHERE row >= ? ORDER BY row LIMIT {most}", start)
        ]

    def num_keys(self) -> int:
        """Number of keys."""
        return int(self._all("SELECT count(*) FROM keys")[0][0])

    def count_by_modality(self) -> dict[Modality, int]:
        """Number of keys per modality; all three are there."""
        counts = dict(self._all("SELECT modality, count(*) FROM keys GROUP BY modality"))
        return {modality: counts.get(modality, 0) for modality in Modality}

    def _stored_key(self, payload: Sequence[Any], checksum: int | None = None) -> StoredKey:
        """A key from what `_PAYLOAD` selects; its checksum where it has been reckoned with those of others."""
        seq, key, modality, text, metadata, pools, num_images, noted = payload
        if noted != (payload_checksum(*payload[:-1]) if checksum is None else checksum):
            raise self._damaged_payload(key)
        named = () if pools == "[]" else tuple(json.loads(pools))
        fields = {} if metadata == "{}" else json.loads(metadata)
        return StoredKey(key, Modality(modality), Payload(text, fields, num_images), named, seq=seq)

    def _checked_vector(self, key: str, vector: bytes | None, checksum: int | None) -> bytes:
        if vector is None or vector_checksum(key, vector) != checksum:
            raise self._damaged_vector(key, vector)
        return vector

    def _damaged_payload(self, key: str) -> KeyCorruptError:
        return KeyCorruptError(self._path, str(key), f"the payload of key {key!r} differs from its checksum")

    def _damaged_vector(self, key: str, vector: bytes | None) -> KeyCorruptError:
        if vector is None:
            return KeyCorruptError(self._path, str(key), f"key {key!r} has no vector")
        return KeyCorruptError(self._path, str(key), f"the vector of key {key!r} differs from its checksum")

    def _find(self, key: str, columns: str) -> tuple[Any, ...]:
        found = self._all(f"SELECT {columns} FROM keys WHERE key = ?", key) if is_unicode(key) else []
        if not found:
            raise KeyNotFoundError(f"no key {key!r} in the index")
        return found[0]

    def _seqs(self, query: str, *parameters: str | int) -> NDArray[np.int64]:
        found = self._all(query, *parameters)
        return np.fromiter((seq for (seq,) in found), dtype=np.int64, count=len(found))

    def _all(self, query: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if not is_undecodable(error):
                raise
        with reading_any_text(self._db):  # its checksum tells whose it is
            return self._db.execute(query, parameters).fetchall()


class OpenMoment:
    """A store at one moment, which can be read again until it is closed, by one thread at a time.

    Meanwhile the store can be changed; only its write-ahead log cannot be begun anew.

    Attributes:
        path: The store.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, connections: Connections) -> None:
        """Takes over a connection in the middle of a transaction."""
        self.path = path
        self._db = db
        self._connections = connections
        self._turn = threading.Lock()
        stop_at(db, NEVER)

    @contextmanager
    def reading(self, deadline: Deadline = NEVER) -> Iterator[ReadTransaction]:
        """The store at that moment, for the length of the block.

        Raises:
            DeadlineExceededError: the answer is no longer wanted, or another thread reads for so long.
            IndexCorruptError: the file turns out to be damaged.
        """
        with naming_damage(self.path), deadline.held(self._turn):
            try:
                with stopping_at(self._db, deadline):
                    yield ReadTransaction(self._db, self.path, deadline)
            finally:
                stop_at(self._db, NEVER)

    def close(self) -> None:
        """Ends it; no thread may be reading."""
        self._db.execute("COMMIT")
        self._connections.give_back(self._db)


class StoreReader:
    """A store, read-only; safe for use from several threads, which are lent a bounded number of connections."""

    def __init__(self, path: Path) -> None:
        """Opens the store.

        Raises:
            IndexCorruptError: the file is no store.
        """
        self.path = path
        self._here = threading.local()  # what this thread is in the middle of
        self._connections = Connections(lambda: open_read_only(path))
        self._unwaiting: sqlite3.Connection | None = None
        with naming_damage(path), self._connections.lent():
            pass

    def check(self, manifest: Manifest) -> None:
        """Makes sure that a version may be used with this store.

        Raises:
            IndexCorruptError: it is another store, or an older state of the one that the version is derived from.
        """
        with self.transaction() as transaction:
            seq, meta = transaction.seq, transaction.meta()
        if meta.get("store_id") != manifest.store_id:
            raise IndexCorruptError(self.path, f"it is not the store that version {manifest.version} names")
        encoder = manifest.encoder
        if (meta.get("fingerprint"), meta.get("width")) != (encoder.fingerprint, encoder.width):
            raise IndexCorruptError(self.path, f"it is of another encoder than version {manifest.version}")
        if meta.get("vector_type") not in get_args(VectorType):
            raise IndexCorruptError(self.path, f"it keeps vectors as {meta.get('vector_type')!r}")
        if seq < manifest.seq:
            raise IndexCorruptError(
                self.path,
                f"it ends with change {seq}, version {manifest.version} was made after change {manifest.seq}: "
                "is it an older copy?",
            )

    @contextmanager
    def transaction(self, deadline: Deadline = NEVER) -> Iterator[ReadTransaction]:
        """The store as it is now, unchanged until the end of the block, whatever is written meanwhile.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexCorruptError: the file turns out to be damaged.
        """
        outer: ReadTransaction | None = getattr(self._here, "transaction", None)
        with naming_damage(self.path):
            if outer is not None:  # a block within a block of the same thread sees what that one sees
                yield outer
                return
            with self._connections.lent(deadline) as db:
                db.execute("BEGIN")
                transaction = None
                try:
                    self._here.transaction = transaction = ReadTransaction(db, self.path, deadline)
                    yield transaction
                except BaseException:
                    transaction = None  # nobody inherits what failed
                    raise
                finally:
                    self._here.transaction = None
                    if transaction is None or transaction.heir is None:
                        db.execute("COMMIT")
                    else:
                        self._connections.keep(db)
            if transaction.heir is not None:  # once it is nobody else's, for the heir may give it back at once
                transaction.heir(OpenMoment(db, self.path, self._connections))

    def seq_at_once(self) -> int | None:
        """Number of the last change, where nobody has to be waited for to learn it, else `None`; for one thread."""
        try:
            if self._unwaiting is None:
                self._unwaiting = open_read_only(self.path)
                self._unwaiting.execute("PRAGMA busy_timeout = 0")
            found = self._unwaiting.execute("SELECT value FROM meta WHERE name = 'seq'").fetchall()
        except (sqlite3.Error, IndexCorruptError, OSError):
            return None
        return found[0][0] if found and isinstance(found[0][0], int) else None

    def close(self) -> None:
        """Closes the connections; no thread may be reading."""
        if self._unwaiting is not None:
            self._unwaiting.close()
        self._connections.close()


def check_store(path: Path, manifest: Manifest | None) -> None:
    """Makes sure, without changing it, that a file is a store that may be opened for writing.

    Args:
        path: The file.
        manifest: Of the version that is derived from it, if that can be told.

    Raises:
        IndexCorruptError: it is missing, no store, or not the version's.
    """
    with contextlib.closing(StoreReader(path)) as reader:
        if manifest is not None:
            reader.check(manifest)


def _is_usable(vector: object, dtype: np.dtype[Any], width: int) -> bool:
    """Whether a damaged vector can still be compared: it is one, of length 1, so that little of it can have changed."""
    if not isinstance(vector, bytes) or len(vector) != width * dtype.itemsize:
        return False
    norm = float(np.linalg.norm(np.frombuffer(vector, dtype).astype(np.float64)))
    return abs(norm - 1) <= MAX_NORM_ERROR
