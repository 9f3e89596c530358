"""What became of the requests that were due at one rate."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from anykey.benchmark.load.connections import Reply
from anykey.benchmark.load.histogram import Histogram

LATE_S = 0.010  # behind its time, at which a request was sent late
MOST_LETTERS = 60  # of an error type, which comes from a server


@dataclass
class Tally:
    """Counts and times of the requests that were due at one rate.

    Attributes:
        rate: Requests due in a second.
        start_s: When the first may have been due, by the clock of the event loop.
        end_s: When no more were due and the last answer had come.
        due: How many were due.
        not_sent: Of these, those that found as many under way as may be.
        sent: The others.
        answered: Of these, those with a search's answer.
        errors: The others by class, such as "429 overloaded" or "timeout".
        late: Of those sent, those that the client sent more than `LATE_S` behind their time.
        repeats: Of those sent, those that were sent before.
        cached: Of those answered, those whose vector the service had.
        latency: From when an answered request was due to the last byte of its answer.
        lag: From when a request was due to when the client sent it.
        stages: The service's own timings, by stage.
    """

    rate: float
    start_s: float = 0.0
    end_s: float = 0.0
    due: int = 0
    not_sent: int = 0
    sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    late: int = 0
    repeats: int = 0
    cached: int = 0
    latency: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    stages: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))

    @property
    def answered_per_s(self) -> float:
        """Answers in a second, until the last of them came."""
        return self.answered / max(self.end_s - self.start_s, 1e-9)

    @property
    def unfinished(self) -> int:
        """How many were under way when the run was stopped."""
        return self.sent - self.answered - self.errors.total()

    def send(self, lag_s: float, is_repeat: bool) -> None:
        """Counts a request that is sent now, so long behind its time."""
        self.sent += 1
        self.repeats += is_repeat
        self.late += lag_s > LATE_S
        self.lag.add(lag_s)

    def take(self, reply: Reply, due_s: float) -> None:
        """Counts an answer to a request that was due at this moment of the event loop's clock."""
        body = _parsed(reply.body)
        if reply.status != 200:
            self.errors[f"{reply.status} {_type(body)}".strip()] += 1
            return
        try:
            is_cached, timings_ms, _ = bool(body["cached"]), dict(body["timings_ms"]), list(body["hits"])
            stages_s = {str(stage): float(duration_ms) / 1000 for stage, duration_ms in timings_ms.items()}
        except (KeyError, TypeError, ValueError):
            self.errors["200 without a search's answer"] += 1
            return
        self.answered += 1
        self.cached += is_cached
        self.latency.add(reply.received_s - due_s)
        for stage, duration_s in stages_s.items():
            self.stages[stage].add(duration_s)

    def share(self, count: int) -> float:
        """A count as a share of all that were due."""
        return count / self.due if self.due else 0.0


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _type(body: Any) -> str:
    """The error's type, where the body has the documented shape."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("type"))[:MOST_LETTERS] if isinstance(error, dict) else ""
