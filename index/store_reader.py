"""Reads of a published store, from several threads at once.

Shape legend: N = keys in the index.
"""

import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.item import Modality
from index.errors import ImageUnavailableError, IndexCorruptError, KeyNotFoundError
from index.files import reason_of
from index.hits import Payload, StoredImage, StoredKey
from index.images import read_image
from index.locations import describe
from index.store import naming_damage, open_read_only

MODALITIES = tuple(Modality)  # a key's modality is kept as its position here


@dataclass(frozen=True)
class RowRecord:
    """What a hit shows of one row."""

    key: str
    modality: Modality
    payload: Payload


class StoreReader:
    """A published store, read-only; every thread gets a connection of its own, closed by `close`."""

    def __init__(self, path: Path) -> None:
        """Opens the store.

        Raises:
            IndexCorruptError: the file is no store.
        """
        self.path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._connection()

    def modalities(self, num_keys: int) -> NDArray[np.uint8]:
        """Each row's modality as a position in `MODALITIES`, `[N]`.

        Raises:
            IndexCorruptError: the rows are not 0, 1, ... `num_keys - 1`.
        """
        rows = self._all("SELECT row, modality FROM keys ORDER BY row")
        if len(rows) != num_keys or any(row != position for position, (row, _) in enumerate(rows)):
            raise IndexCorruptError(self.path, f"expected rows 0 to {num_keys - 1}, got {len(rows)} others")
        codes = {modality.value: code for code, modality in enumerate(MODALITIES)}
        return np.fromiter((codes[modality] for _, modality in rows), dtype=np.uint8, count=num_keys)

    def rows_of_pool(self, pool: str) -> NDArray[np.int64]:
        """Rows of the keys in a pool, ascending."""
        rows = self._all("SELECT row FROM pools JOIN keys USING (id) WHERE pool = ? ORDER BY row", pool)
        return np.fromiter((row for (row,) in rows), dtype=np.int64, count=len(rows))

    def rows_of_keys(self, keys: Collection[str]) -> NDArray[np.int64]:
        """Rows of those keys that exist."""
        query = "SELECT row FROM keys WHERE key IN (SELECT value FROM json_each(?))"
        rows = self._all(query, json.dumps([key for key in keys if _is_encodable(key)]))
        return np.fromiter((row for (row,) in rows), dtype=np.int64, count=len(rows))

    def records(self, rows: Iterable[int]) -> Mapping[int, RowRecord]:
        """What hits show of rows, in one query."""
        found = self._all(
            "SELECT row, key, modality, text, metadata, num_images FROM keys"
            " WHERE row IN (SELECT value FROM json_each(?))",
            json.dumps(sorted(set(rows))),
        )
        return {row: RowRecord(key, Modality(modality), _payload(*rest)) for row, key, modality, *rest in found}

    def get(self, key: str) -> StoredKey:
        """One key as it is stored.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        identity, modality, *payload = self._find(key, "id, modality, text, metadata, num_images")
        pools = self._all("SELECT pool FROM pools WHERE id = ? ORDER BY pool", identity)
        return StoredKey(key, Modality(modality), _payload(*payload), tuple(pool for (pool,) in pools))

    def image(self, key: str, position: int) -> StoredImage:
        """One image of a key.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
            ImageUnavailableError: the index holds only the path, and the file cannot be read.
        """
        identity, num_images = self._find(key, "id, num_images")
        if not 0 <= position < num_images:
            raise KeyNotFoundError(f"key '{key}' has {num_images} images, there is none at position {position}")
        query = "SELECT media_type, path, data FROM images WHERE id = ? AND position = ?"
        found = self._all(query, identity, position)
        if not found:
            raise IndexCorruptError(self.path, "an image of a key is missing")
        media_type, path, data = found[0]
        return StoredImage(_read_file(path, key) if data is None else data, media_type)

    def close(self) -> None:
        """Closes every thread's connection; no thread may be reading."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _find(self, key: str, columns: str) -> tuple[Any, ...]:
        found = self._all(f"SELECT {columns} FROM keys WHERE key = ?", key) if _is_encodable(key) else []
        if not found:
            raise KeyNotFoundError(f"no key {key!r} in the index")
        return found[0]

    def _all(self, query: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        with naming_damage(self.path):
            return self._connection().execute(query, parameters).fetchall()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_read_only(self.path)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection


def _payload(text: str | None, metadata: str, num_images: int) -> Payload:
    return Payload(text, json.loads(metadata), num_images)


def _read_file(path: str, key: str) -> bytes:
    try:
        return read_image(path)
    except OSError as error:
        raise ImageUnavailableError(
            f"the index refers to the image of key '{key}' at {describe(path)}, "
            f"which cannot be read: {reason_of(error)}"
        ) from error


def _is_encodable(key: str) -> bool:
    """Whether the key is Unicode that a store can hold: half a surrogate pair is not."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
