"""The query log: what was asked and answered, and what users thought of it, for whoever measures and judges later.

It holds what users sent, unlike all other logs, so that it is off unless somebody turns it on.
"""

import hashlib
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anykey.program.files import replace_file
from anykey.service.logs import LogEvent
from anykey.service.operations.json_lines import PRIVATE, JsonLines
from anykey.service.operations.records import QueryRecord, RequestRecord
from anykey.service.queries.body import body_of

QUERIES, FEEDBACK, IMAGES = "queries.jsonl", "feedback.jsonl", "images"
NUM_FILES = 20  # of queries; the oldest goes as a whole
FEEDBACK_SHARE = 10  # feedback has this part of the room
DAY_S = 86_400.0

logger = logging.getLogger(__name__)


class QueryLog:
    """A folder with `queries.jsonl`, `feedback.jsonl`, older ones of each, and images.

    A line of `queries.jsonl` is a body of `POST /search`, with `at_s` and, under `logged`, what was answered: so that
    `anykey-bench load --log` sends it again. Records come in the watcher's thread, feedback in any.

    Attributes:
        num_written: Queries written.
        num_lost: Queries and feedback that could not be.
        feedback: How many judgements of each kind came.
    """

    def __init__(self, folder: Path, *, share: float, days: float, max_bytes: int, image_bytes: int) -> None:
        """Opens the files; the folder is made.

        Args:
            folder: Where they are.
            share: Of the requests.
            days: How long a line is kept, at least; a file goes when all of it is older.
            max_bytes: Room for lines.
            image_bytes: Room for images; 0 keeps none, and only names them by their hash.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._share = share
        self._keep_s = days * DAY_S
        self._image_bytes = image_bytes
        self._images = folder / IMAGES
        if image_bytes:
            self._images.mkdir(exist_ok=True, mode=0o700)
        each = max(1, max_bytes // NUM_FILES)
        self._queries = JsonLines(folder / QUERIES, max_bytes=each, num_files=NUM_FILES)
        self._feedback = JsonLines(folder / FEEDBACK, max_bytes=max(1, max_bytes // FEEDBACK_SHARE // 2), num_files=2)
        self._last_s = 0.0
        self._is_failing = False
        self._lock = threading.Lock()
        self.num_written = self.num_lost = 0
        self.feedback: Counter[str] = Counter()

    def wants_next(self) -> bool:
        """Whether the next request is one of those that are written down."""
        return random.random() < self._share

    def __call__(self, records: Iterable[RequestRecord]) -> None:
        """Writes down the queries of requests that are wanted."""
        rows = [self._row(record, query) for record in records for query in record.queries if query.fields.query_id]
        self._write(self._queries, rows)

    def judge(self, query_id: str, key: str, judgement: str, record: RequestRecord | None) -> bool:
        """Writes down what somebody thought of a hit; gives whether it could be written.

        Args:
            query_id: Of the answer.
            key: Of the hit.
            judgement: `good` or `bad`.
            record: Of the request that says so.
        """
        who = None if record is None else record.key_name or None
        row = {"query_id": query_id, "key": key, "judgement": judgement, "key_name": who, "time": _now()}
        is_written = self._write(self._feedback, [row])
        self.feedback[judgement] += is_written
        return is_written

    def tidy(self) -> None:
        """Lets go of what is too old, and of images that there is no room for."""
        oldest_s = time.time() - self._keep_s
        self._queries.forget_before(oldest_s, self._keep_s / NUM_FILES)
        self._feedback.forget_before(oldest_s, self._keep_s / 2)
        if self._image_bytes:
            self._tidy_images(oldest_s)

    def close(self) -> None:
        """Closes the files."""
        self._queries.close()
        self._feedback.close()

    def _write(self, lines: JsonLines, rows: Sequence[dict[str, Any]]) -> bool:
        """Writes lines; what cannot be written is counted, and told once until it can be again."""
        if not rows:
            return True
        with self._lock:
            try:
                lines.write(rows)
            except OSError as error:
                self.num_lost += len(rows)
                if not self._is_failing:
                    fields = {"event": LogEvent.QUERY_LOG_FAILED, "reason": error.strerror}
                    logger.error("the query log cannot be written; searches go on", extra=fields)
                self._is_failing = True
                return False
            self._is_failing = False
            if lines is self._queries:
                self.num_written += len(rows)
            return True

    def _row(self, record: RequestRecord, query: QueryRecord) -> dict[str, Any]:
        fields = query.fields
        # Never before the line above, whatever the clock does: who sends it again goes by it.
        self._last_s = max(self._last_s, time.time() - (time.monotonic() - record.ended_s))
        hits = json.loads(b"[" + query.hits + b"]")
        logged = {
            "query_id": fields.query_id,
            "time": datetime.fromtimestamp(self._last_s, UTC).isoformat(timespec="milliseconds"),
            "request_id": record.request_id,
            "key_name": record.key_name or None,
            "index": record.index,
            "route": record.route,
            "release": fields.release,
            "index_version": fields.index_version,
            "index_seq": fields.index_seq,
            "model_fingerprint": fields.model_fingerprint,
            "total_ms": round((record.ended_s - record.started_s) * 1000, 3),
            "hits": [[hit["key"], hit["score"]] for hit in hits],
        }
        return {"at_s": round(self._last_s, 3), "logged": logged, **body_of(query.query, self._image)}

    def _image(self, data: bytes) -> str:
        """How an image is named; it is kept where there is room for images."""
        name = hashlib.sha256(data).hexdigest()
        path = self._images / name
        if 0 < len(data) <= self._image_bytes:
            with suppress(OSError):  # the line tells its name in any case
                if path.exists():
                    path.touch()  # it came again: it is as new as this line
                else:
                    replace_file(path, data, mode=PRIVATE)
        return f"sha256:{name}"

    def _tidy_images(self, oldest_s: float) -> None:
        images = sorted(((file.stat().st_mtime, file) for file in self._images.iterdir()), reverse=True)
        room_bytes = self._image_bytes
        for written_s, file in images:
            room_bytes -= file.stat().st_size
            if room_bytes < 0 or written_s < oldest_s:
                file.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
