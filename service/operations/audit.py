"""The audit log: who changed which keys, how and when."""

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anykey.index.changes import Applied, Change, Delete, Outcome, Patch, PutBack, Status
from anykey.index.key_index import Scope
from anykey.service.logs import LogEvent
from anykey.service.operations.json_lines import JsonLines
from anykey.service.operations.records import RequestRecord
from anykey.service.queries.body import scope_json

MADE = frozenset({Status.STORED, Status.DELETED})
ANONYMOUS = "anonymous"

logger = logging.getLogger(__name__)


class AuditLog:
    """A file with a line for each change of a key that was made, by all indexes of a process.

    A line is on the disk before the request that it is about is answered, and is written by the thread that made the
    change durable. What cannot be written is counted and told in the log; the change has been made by then, and stands.
    Any thread may use it.

    Attributes:
        num_written: Lines written.
        num_lost: Lines that could not be.
    """

    def __init__(self, path: Path, *, max_bytes: int, num_files: int) -> None:
        """Opens the file.

        Args:
            path: The file.
            max_bytes: Most bytes of one file.
            num_files: Most files.

        Raises:
            OSError: it cannot be written.
        """
        self._lines = JsonLines(path, max_bytes=max_bytes, num_files=num_files, is_durable=True)
        self._lock = threading.Lock()
        self._is_failing = False
        self.num_written = self.num_lost = 0

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes lines, or tells that they are lost."""
        if not rows:
            return
        with self._lock:
            try:
                self._lines.write(rows)
            except OSError as error:
                self.num_lost += len(rows)
                if not self._is_failing:
                    fields = {"event": LogEvent.AUDIT_FAILED, "reason": error.strerror}
                    logger.error("changes are made, and cannot be written to the audit log", extra=fields)
                self._is_failing = True
            else:
                self.num_written += len(rows)
                if self._is_failing:
                    told = {"event": LogEvent.AUDIT_RESUMED, "num_lost": self.num_lost}
                    logger.warning("the audit log is written again; lines are missing", extra=told)
                self._is_failing = False

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


class IndexAudit:
    """What is written of the changes of one index."""

    def __init__(self, log: AuditLog, index: str, release: str | None) -> None:
        """Takes what all its lines say.

        Args:
            log: Where they go.
            index: The index's name.
            release: What is changed; `None` where there are no releases.
        """
        self._log = log
        self._facts = {"index": index, "release": release}

    def note(self, asked: Sequence[tuple[RequestRecord | None, Sequence[Change]]], applied: Applied) -> None:
        """Writes down changes that were made together.

        Args:
            asked: The changes of each request, in the order of the outcomes.
            applied: What became of them.
        """
        if applied.is_repeat:
            return
        changes = [(record, change) for record, of_request in asked for change in of_request]
        pairs = zip(changes, applied.outcomes, strict=True)
        self._log.write(
            [
                self._row(record, _operation_of(change, outcome), key=outcome.key, seq=outcome.seq)
                for (record, change), outcome in pairs
                if outcome.status in MADE
            ]
        )

    def note_scope(self, record: RequestRecord | None, scope: Scope, applied: Applied, *, is_whole: bool) -> None:
        """Writes down that the keys of a scope were deleted.

        Args:
            record: Of who asked.
            scope: Which keys.
            applied: How many they were.
            is_whole: Whether all of them were, or it broke off.
        """
        if applied.num_deleted and not applied.is_repeat:
            facts = {"scope": scope_json(scope), "num_keys": applied.num_deleted, "is_whole": is_whole}
            self._log.write([self._row(record, "delete_scope", seq=applied.seq, **facts)])

    def _row(self, record: RequestRecord | None, operation: str, **facts: Any) -> dict[str, Any]:
        who: dict[str, Any] = {"who": ANONYMOUS, "address": None, "request_id": None}
        if record is not None:
            who["who"] = record.key_name or ANONYMOUS
            who["address"] = record.address or None
            who["request_id"] = record.request_id
            if record.trace is not None:
                who["trace_id"] = record.trace.trace
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"time": time, **who, **self._facts, "operation": operation, **facts}


def _operation_of(change: Change, outcome: Outcome) -> str:
    if isinstance(change, PutBack):
        return "undo"
    if isinstance(change, Patch):
        return "patch"
    return "delete" if isinstance(change, Delete) or outcome.status is Status.DELETED else "put"
