"""The highest rate that a service holds: doubled until it gives way, then narrowed down."""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from anykey.benchmark.load.histogram import MIN_BEYOND
from anykey.benchmark.load.tally import LATE_S, Tally

MOST_FAILED = 0.01  # share of what was due
NEAR = 1.1  # rates that differ by less than this factor are not told apart
LOWEST = 0.5  # requests in a second, below which no rate is tried


@dataclass(frozen=True)
class Saturation:
    """Where a service gives way.

    Attributes:
        held: The highest rate that held, in requests per second; None where none did.
        gave_way: The lowest rate above it that did not; None where the client can measure no higher rate.
        reasons: What gave way there, a sentence each.
    """

    held: float | None
    gave_way: float | None
    reasons: tuple[str, ...]


async def find_saturation(
    measure: Callable[[float], Awaitable[Tally]], first: float, highest: float, limit_s: float
) -> Saturation:
    """Doubles the rate while it holds, or halves it until it does, and then the gap, until that is 10 %.

    Args:
        measure: Measures one rate.
        first: The rate to begin with.
        highest: The highest rate that is tried.
        limit_s: What the 99th percentile of the latencies may be.
    """
    tried: dict[float, list[str]] = {}
    rate: float | None = min(first, highest)
    while rate is not None:
        tried[rate] = await _reasons_at(rate, measure, limit_s)
        rate = _next(tried, highest)
    held, gave_way = _bracket(tried)
    return Saturation(held, gave_way, tuple(tried[gave_way]) if gave_way is not None else ())


def reasons_against(tally: Tally, limit_s: float) -> list[str]:
    """Why a rate does not count as held; nothing where it does.

    Args:
        tally: What became of its requests.
        limit_s: What the 99th percentile of the latencies may be.
    """
    reasons = []
    if tally.latency.count and (p99_s := tally.latency.percentile_s(99)) > limit_s:
        reasons.append(f"p99 was {1000 * p99_s:.0f} ms, the limit is {1000 * limit_s:g} ms")
    failed = {
        "got an error or no answer": tally.errors.total(),
        "found too many under way and were not sent": tally.not_sent,
        f"were sent more than {1000 * LATE_S:g} ms late by the client": tally.late,
    }
    for what, count in failed.items():
        if tally.share(count) > MOST_FAILED:
            classes = ", ".join(f"{name} {n}" for name, n in tally.errors.most_common()) if "error" in what else ""
            reasons.append(f"{tally.share(count):.1%} {what}{f' ({classes})' if classes else ''}")
    return reasons


async def _reasons_at(rate: float, measure: Callable[[float], Awaitable[Tally]], limit_s: float) -> list[str]:
    """Measures a rate; once more where so few requests lie beyond p99 that one hiccup decides."""
    tally = await measure(rate)
    reasons = reasons_against(tally, limit_s)
    if reasons and tally.latency.beyond(99) < MIN_BEYOND:
        reasons = reasons_against(await measure(rate), limit_s)
    return reasons


def _bracket(tried: Mapping[float, list[str]]) -> tuple[float | None, float | None]:
    """The highest rate that held, and the lowest above it that did not."""
    held = max((rate for rate, reasons in tried.items() if not reasons), default=None)
    return held, min((rate for rate, reasons in tried.items() if reasons and rate > (held or 0.0)), default=None)


def _next(tried: Mapping[float, list[str]], highest: float) -> float | None:
    """The rate to try next, or None where all is known."""
    held, gave_way = _bracket(tried)
    if gave_way is None:
        assert held is not None
        return min(2 * held, highest) if held < highest else None
    if held is None:
        return gave_way / 2 if gave_way / 2 >= LOWEST else None
    return math.sqrt(held * gave_way) if gave_way / held > NEAR else None
