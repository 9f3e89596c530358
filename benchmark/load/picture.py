"""The curves of latency over rate."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from anykey.benchmark.load.histogram import Histogram
from anykey.benchmark.load.tally import Tally

FAILURES: Sequence[tuple[str, str, Callable[[Tally], int]]] = (
    ("errors", "s", lambda tally: tally.errors.total()),
    ("not sent", "^", lambda tally: tally.not_sent),
    ("sent late by the client", "v", lambda tally: tally.late),
)


def draw(
    tallies: Sequence[Tally], percents: Sequence[float], limit_ms: float | None, client_limit: float | None
) -> bytes:
    """A PNG: percentiles of the latency over the rate, and below, the shares of requests that went wrong.

    Args:
        tallies: What was measured, in ascending order of the rates; one that was measured twice has two marks.
        percents: Which percentiles; one that says nothing at a rate has no mark there.
        limit_ms: What p99 may be at a rate that holds; None where nobody asked.
        client_limit: The rate in requests per second above which the client is measured; None where that is unknown.
    """
    from matplotlib.figure import Figure

    rates = [tally.rate for tally in tallies]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    latency, failed = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for number, percent in enumerate(percents):
        points_ms = [_point_ms(tally.latency, percent) for tally in tallies]
        if not all(map(math.isnan, points_ms)):
            latency.plot(rates, points_ms, "o-", color=f"C{number}", markersize=4, label=f"p{percent:g}")
    if limit_ms is not None:
        latency.axhline(limit_ms, color="0.4", linestyle="--", linewidth=1, label=f"limit of p99, {limit_ms:g} ms")
    for number, (what, mark, count) in enumerate(FAILURES):
        shares = [100 * tally.share(count(tally)) for tally in tallies]
        failed.plot(rates, shares, f"{mark}-", color=f"C{number + len(percents)}", markersize=4, label=what)
    for axes in (latency, failed):
        if client_limit is not None and client_limit < 1.5 * rates[-1]:
            axes.axvline(client_limit, color="C1", linestyle=":", label="the client's limit")
        axes.grid(color="0.9")
        axes.legend(loc="upper left", fontsize="small")
    _label(latency, failed)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _label(latency: Any, failed: Any) -> None:
    """Scales with plain numbers, and what they count."""
    from matplotlib.ticker import LogLocator, NullFormatter

    latency.set_title("Latency from when a request was due, of answered requests", fontsize="medium")
    latency.set_ylabel("latency in ms")
    latency.set_yscale("log")
    latency.set_xscale("log")
    failed.set_ylabel("% of those due")
    failed.set_ylim(-3, max(10.0, 1.15 * failed.get_ylim()[1]))
    failed.set_xlabel("requests due in a second")
    for axis, low_high in ((latency.yaxis, latency.set_ylim), (failed.xaxis, failed.set_xlim)):
        low, high = low_high()
        low_high(low / 1.3, high * 1.3)  # room for a label at least, also where there is but one point
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _point_ms(times: Histogram, percent: float) -> float:
    value_s = times.told_s(percent)
    return math.nan if value_s is None else 1000 * value_s
