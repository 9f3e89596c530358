"""Log lines: one JSON object each, no contents of user data."""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_ENCODER = json.JSONEncoder(default=str)


class LogEvent(StrEnum):
    """Every event the service logs by name; `docs/operations.md` says what to do about each."""

    STARTING = "starting"
    LISTENING = "listening"
    READY = "ready"
    START_FAILED = "start_failed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    REQUEST = "request"
    REQUEST_FAILED = "request_failed"
    BATCH_FAILED = "batch_failed"
    WORKER_DIED = "worker_died"
    CACHE_PAUSED = "cache_paused"
    CACHE_RESUMED = "cache_resumed"
    IMAGE_UNAVAILABLE = "image_unavailable"
    RELEASE_SWITCHED = "release_switched"
    RELEASE_SWITCHING = "release_switching"
    RELEASE_FAILED = "release_failed"
    RELEASE_WAITS = "release_waits"
    CHANGES_LEFT = "changes_left"
    INDEX_FAILED = "index_failed"
    INDEX_UNAVAILABLE = "index_unavailable"
    INDEX_AVAILABLE = "index_available"
    API_KEYS_CHANGED = "api_keys_changed"
    API_KEYS_UNREADABLE = "api_keys_unreadable"
    API_KEYS_NONE = "api_keys_none"
    TOKEN_KEYS_CHANGED = "token_keys_changed"
    TOKEN_KEYS_UNREADABLE = "token_keys_unreadable"
    LIMITS_ALONE = "limits_alone"
    LIMITS_SHARED = "limits_shared"
    TLS_RENEWED = "tls_renewed"
    TLS_UNREADABLE = "tls_unreadable"
    ANONYMOUS_ALLOWED = "anonymous_allowed"
    WRITER_READY = "writer_ready"
    WRITER_WAITS = "writer_waits"
    CONNECTIONS_FULL = "connections_full"
    FEW_OPEN_FILES = "few_open_files"
    METRICS_LISTENING = "metrics_listening"
    RECORDS_LOST = "records_lost"
    SLOW_QUERY = "slow_query"
    AUDIT_FAILED = "audit_failed"
    QUERY_LOG_FAILED = "query_log_failed"
    AUDIT_RESUMED = "audit_resumed"


class EventCounts(logging.Handler):
    """Counts the lines of the service that have an event, but for those of requests, which are counted elsewhere.

    Attributes:
        counts: How many there were of each event.
    """

    def __init__(self) -> None:
        """Begins with none."""
        super().__init__()
        self.counts = {event: 0 for event in LogEvent if event is not LogEvent.REQUEST}

    def handle(self, record: logging.LogRecord) -> bool:
        """Counts a line."""
        event = getattr(record, "event", None)
        if event in self.counts:
            self.counts[event] += 1
        return True


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time, level, event, message, and the record's `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def configure_logging(level: str) -> None:
    """Sends the log of the whole process to stderr as JSON lines, from `level` up."""
    # No line tells where in the code it was written, nor by which thread, so that nobody needs to look it up for each.
    logging._srcfile = None  # the documented way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    # What is wrong with a form is told whoever sent it; these lines would quote it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    # FAISS tells at INFO which builds of itself it looked for and is without, as if something were broken.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
