"""What is noted of a request while it is answered, from which all that operators are told is made afterwards."""

import random
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anykey.service.answers.schemas import SearchResponse
    from anykey.service.queries.query import Query
    from anykey.service.searching.searcher import HowFound

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 1
MOST_BATCHES = 100  # that are noted of a request: a stream of keys goes on for hours


class BatchRecord:
    """A batch that a model computed.

    Attributes:
        model: Its name.
        started_s: When it began, by the monotonic clock.
        ended_s: When it was done.
        num_items: How many items were in it.
        num_tokens: How many tokens.
        members: The requests of which it had items, and when the first item of each joined the queue.
        context: What names its span, once there is one.
    """

    __slots__ = ("context", "ended_s", "members", "model", "num_items", "num_tokens", "started_s")

    def __init__(self, model: str, started_s: float, num_items: int, num_tokens: int) -> None:
        self.model = model
        self.started_s = self.ended_s = started_s
        self.num_items = num_items
        self.num_tokens = num_tokens
        self.members: dict[RequestRecord, float] = {}
        self.context: Any = None


class QueryRecord:
    """One query of a request that was answered.

    Attributes:
        query: The query.
        fields: Its answer but for the hits and facets.
        hits: These, as JSON, where they are written down; else nothing.
        num_hits: How many.
        how: How the index found them; `None` for an answer that was kept.
        num_together: How many searches shared the call of the index.
        ended_s: When it was answered, by the monotonic clock.
        write_s: How long writing its hits took, which the answer counts as part of the search.
    """

    __slots__ = ("ended_s", "fields", "hits", "how", "num_hits", "num_together", "query", "write_s")

    def __init__(
        self,
        query: "Query",
        fields: "SearchResponse",
        hits: bytes,
        num_hits: int,
        how: "HowFound | None",
        num_together: int,
        ended_s: float,
        write_s: float,
    ) -> None:
        self.query = query
        self.fields = fields
        self.hits = hits
        self.num_hits = num_hits
        self.how = how
        self.num_together = num_together
        self.ended_s = ended_s
        self.write_s = write_s


class Trace:
    """Where a request belongs among those of other programs, as W3C's `traceparent` says it.

    Attributes:
        trace_id: Of all of them together.
        span_id: Of this request.
        parent_id: Of what it is a part of; `None` where it is the first.
        flags: Of the trace; `SAMPLED` where it is recorded.
    """

    __slots__ = ("flags", "parent_id", "span_id", "trace_id")

    def __init__(self, trace_id: int, parent_id: int | None, flags: int) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.flags = flags
        self.span_id = random.getrandbits(64) or 1

    @classmethod
    def begun(cls) -> "Trace":
        """A new one, of which this request is the first part."""
        return cls(random.getrandbits(128) or 1, None, SAMPLED)

    @classmethod
    def read(cls, header: bytes) -> "Trace | None":
        """The one that a header names; `None` where it is no `traceparent`."""
        found = _TRACEPARENT.fullmatch(header)
        if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
            return None
        trace_id, parent_id = int(found[2], 16), int(found[3], 16)
        return cls(trace_id, parent_id, int(found[4], 16)) if trace_id and parent_id else None

    @property
    def trace(self) -> str:
        """The trace's id, as logs and other programs show it."""
        return f"{self.trace_id:032x}"

    @property
    def header(self) -> str:
        """What tells others that they are part of this request."""
        return f"00-{self.trace}-{self.span_id:016x}-{self.flags & SAMPLED:02x}"


class RequestRecord:
    """One request, from its first line to the end of its answer; filled in by whoever knows.

    Attributes:
        request_id: Its id.
        trace: Where it belongs; `None` where nobody traces it.
        started_s: When it came, by the monotonic clock, as the two that follow.
        answered_s: When its answer began; 0 before that.
        ended_s: When all of its answer had been handed to the connection.
        read_s: How long its body took to arrive and to be parsed; 0 for one without.
        index: Name of the index that answered; empty where none was asked.
        method: As it was asked; `other` for one that is not of HTTP.
        route: Template of its address; `unknown` for one that is not ours.
        status: Of its answer; 0 where there was none.
        error_type: What went wrong; empty where nothing did.
        key_name: Name of the API key that it came with; empty where it came with none.
        address: Of the machine that sent it, as far as it is known; empty where it is not.
        queries: Those that were answered.
        batches: The first batches that models computed for it, as many as `MOST_BATCHES`.
        is_logged: Whether its queries are written down with their hits.
    """

    __slots__ = (
        "address",
        "answered_s",
        "batches",
        "ended_s",
        "error_type",
        "index",
        "is_logged",
        "key_name",
        "method",
        "queries",
        "read_s",
        "request_id",
        "route",
        "started_s",
        "status",
        "trace",
    )

    def __init__(self, request_id: str, started_s: float, trace: Trace | None = None) -> None:
        self.request_id = request_id
        self.trace = trace
        self.started_s = started_s
        self.answered_s = self.ended_s = self.read_s = 0.0
        self.index = self.method = self.route = self.error_type = self.key_name = self.address = ""
        self.status = 0
        self.is_logged = False
        self.queries: list[QueryRecord] = []
        self.batches: list[BatchRecord] = []


CURRENT: ContextVar[RequestRecord | None] = ContextVar("record", default=None)
"""The record of the request that this code answers; `None` outside of any, as while a release is warmed."""
