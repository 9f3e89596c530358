"""Keeping a store's write-ahead log small, though it is read without a pause.

SQLite begins the log anew only in a moment in which nobody reads from it, and does not wait for one. Readers of several
threads or processes overlap, so that there may never be such a moment, and the log grows as long as there are changes.
"""

import logging
import sqlite3
from pathlib import Path

LARGE_BYTES = 64 * 2**20
PATIENCE_MS = 1_000  # for the reads under way; later ones read the main file alone
logger = logging.getLogger(__name__)


class WriteAheadLog:
    """The log beside a store that is open for writing; for the one thread that writes."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path.with_name(f"{path.name}-wal")
        self._limit_bytes = LARGE_BYTES

    def keep_small(self) -> None:
        """Empties the log if it has become large, once the reads under way have ended.

        Where one goes on for longer, it is waited for again when the log is twice as large. Nothing depends on it: what
        was committed is on disk.
        """
        size_bytes = self._size_bytes()
        if size_bytes < self._limit_bytes:
            return
        is_empty = self._empty()
        self._limit_bytes = LARGE_BYTES if is_empty else max(self._limit_bytes, 2 * size_bytes)

    def _size_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _empty(self) -> bool:
        (usual_ms,) = self._db.execute("PRAGMA busy_timeout").fetchone()
        self._db.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")
        try:
            (is_busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not is_busy
        except sqlite3.DatabaseError as error:
            logger.warning("%s cannot be emptied, and grows: %s", self._path, error)
            return False
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {usual_ms}")
