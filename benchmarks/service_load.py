"""Requests at a given pace to any HTTP service, and what becomes of them.

A request is sent when it is due, whatever is under way, and its latency runs from that moment (see
`benchmark.load.open_loop`). The highest throughput is found by clients that ask again as soon as they are answered.
"""

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anykey.benchmark.load.arrivals import Schedule, at_once, poisson, uniform
from anykey.benchmark.load.connections import Connections, Reply
from anykey.benchmark.load.histogram import Histogram
from anykey.benchmark.load.open_loop import OpenLoop
from anykey.benchmark.load.tally import Tally
from anykey.benchmark.load.traffic import Request

MAX_IN_FLIGHT = 700
TIMEOUT_S = 30.0
WARM_UP_S = 0.5
REFUSALS = (429, 503)


@dataclass
class Outcome(Tally):
    """Counts and times of requests to a service whose answers are not looked into.

    Attributes:
        refusals: From when a request was due to the last byte of its refusal (429 or 503).
        cores: How many cores the client and, where that can be told, the service took, by name.
        bodies: The first answers, as many as were asked for.
        num_kept: How many of them are kept.
    """

    refusals: Histogram = field(default_factory=Histogram)
    cores: dict[str, float] = field(default_factory=dict)
    bodies: list[tuple[float, bytes]] = field(default_factory=list)
    num_kept: int = 0

    def take(self, reply: Reply, due_s: float) -> None:
        """Counts an answer to a request that was due at this moment of the event loop's clock."""
        latency_s = reply.received_s - due_s
        if reply.status == 200:
            self.answered += 1
            self.latency.add(latency_s)
            if len(self.bodies) < self.num_kept:
                self.bodies.append((latency_s, reply.body))
            return
        self.errors[str(reply.status)] += 1
        if reply.status in REFUSALS:
            self.refusals.add(latency_s)

    def facts(self) -> dict[str, Any]:
        """As it is recorded; times in milliseconds."""
        return {
            "rate": self.rate,
            "due": self.due,
            "answered": self.answered,
            "answered_per_s": round(self.answered_per_s, 2),
            "not_sent": self.not_sent,
            "sent": self.sent,
            "late": self.late,
            "errors": dict(self.errors),
            "latency_ms": percentiles_ms(self.latency),
            "refusal_ms": percentiles_ms(self.refusals),
            "cores": {name: round(cores, 3) for name, cores in self.cores.items()},
        }


def percentiles_ms(times: Histogram) -> dict[str, float]:
    """p50, p90, p99 and the longest; empty where there are none."""
    if not times.count:
        return {}
    found = {f"p{percent:g}": times.percentile_s(percent) for percent in (50, 90, 99)}
    return {name: round(1000 * seconds, 3) for name, seconds in {**found, "max": times.max_s}.items()}


@dataclass(frozen=True)
class Target:
    """One address of a running service, and what is sent there.

    Attributes:
        name: What the page calls it.
        url: Where the service listens.
        path: The address.
        bodies: What is sent, without an end.
        processor_s: Processor time that the service has taken so far; `None` where that cannot be told.
        headers: More of each request.
    """

    name: str
    url: str
    path: str
    bodies: Iterator[bytes]
    processor_s: Callable[[], float] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def at_rate(
    target: Target,
    rate: float,
    duration_s: float,
    *,
    is_even: bool = False,
    num_kept: int = 0,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> Outcome:
    """What becomes of requests that come at a rate; by users who know nothing of each other, or evenly.

    Raises:
        OSError: nothing listens there.
    """
    make = uniform if is_even else _poisson
    schedule = make(rate, duration_s, WARM_UP_S)
    return asyncio.run(_run(target, Outcome(rate, num_kept=num_kept), schedule, max_in_flight, waits=False))


def crowd(target: Target, num_clients: int, duration_s: float, *, num_kept: int = 0) -> Outcome:
    """What so many clients get who each ask again as soon as they are answered.

    Raises:
        OSError: nothing listens there.
    """
    outcome = Outcome(0.0, num_kept=num_kept)
    return asyncio.run(_run(target, outcome, at_once(duration_s), num_clients, waits=True))


def one_answer(target: Target) -> Any:
    """What the service answers to one request.

    Raises:
        RuntimeError: another status than 200.
        OSError: nothing listens there.
    """

    async def ask() -> Reply:
        async with Connections(target.url) as connections:
            return await connections.post(target.path, next(target.bodies))

    reply = asyncio.run(ask())
    if reply.status != 200:
        raise RuntimeError(f"{target.name} answered {reply.status} to {target.path}: {reply.body[:300]!r}")
    return json.loads(reply.body)


def _poisson(rate: float, duration_s: float, warm_up_s: float) -> Schedule:
    return poisson(rate, duration_s, warm_up_s, seed=0)


async def _run(target: Target, outcome: Outcome, schedule: Schedule, max_in_flight: int, *, waits: bool) -> Outcome:
    requests = (Request(lambda body=body: body, is_small=True, is_repeat=False) for body in target.bodies)  # type: ignore[misc]
    clocks = {"client": time.process_time}
    if target.processor_s is not None:
        clocks["service"] = target.processor_s
    gc.collect()
    gc.freeze()  # or the client would stop for what torch has made, and count that as the service's time
    async with Connections(target.url, target.headers) as connections:
        loop = OpenLoop(connections, requests, max_in_flight, TIMEOUT_S, target.path)
        began_s, before = time.monotonic(), {name: clock() for name, clock in clocks.items()}
        await loop.run(schedule, outcome, waits)
        seconds = time.monotonic() - began_s
        outcome.cores = {name: (clock() - before[name]) / seconds for name, clock in clocks.items()}
    return outcome
