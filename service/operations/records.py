"""What is noted of a request while it is answered, from which all that operators are told is made afterwards."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any


class QueryRecord:
    """One query of a request that was answered.

    Attributes:
        timings_ms: How long its stages took, as its answer says.
        write_s: How long writing its hits took, which the answer counts as part of the search.
        facts: What a line of the log may say of it: no content of the query or of hits.
    """

    __slots__ = ("facts", "timings_ms", "write_s")

    def __init__(self, timings_ms: Any, write_s: float, facts: Mapping[str, Any]) -> None:
        self.timings_ms = timings_ms
        self.write_s = write_s
        self.facts = facts


class RequestRecord:
    """One request, from its first line to the end of its answer; filled in by whoever knows.

    Attributes:
        request_id: Its id.
        started_s: When it came, by the monotonic clock, as the two that follow.
        answered_s: When its answer began; 0 before that.
        ended_s: When all of its answer had been handed to the connection.
        read_s: How long its body took to arrive and to be parsed; 0 for one without.
        index: Name of the index that answered; empty where none was asked.
        method: As it was asked; `other` for one that is not of HTTP.
        route: Template of its address; `unknown` for one that is not ours.
        status: Of its answer; 0 where there was none.
        error_type: What went wrong; empty where nothing did.
        queries: Those that were answered.
    """

    __slots__ = (
        "answered_s",
        "ended_s",
        "error_type",
        "index",
        "method",
        "queries",
        "read_s",
        "request_id",
        "route",
        "started_s",
        "status",
    )

    def __init__(self, request_id: str, started_s: float) -> None:
        self.request_id = request_id
        self.started_s = started_s
        self.answered_s = self.ended_s = self.read_s = 0.0
        self.index = self.method = self.route = self.error_type = ""
        self.status = 0
        self.queries: list[QueryRecord] = []


CURRENT: ContextVar[RequestRecord | None] = ContextVar("record", default=None)
"""The record of the request that this code answers; `None` outside of any, as while a release is warmed."""
