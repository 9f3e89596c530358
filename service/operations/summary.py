"""Where time goes, as a table for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from anykey.service.operations.histogram import quantile
from anykey.service.operations.stage_times import RECENT_S, STAGES, TOTAL, Place, StageTimes, Times

SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}


def summary_of(times: StageTimes) -> dict[str, Any]:
    """The stages of each index and route, since the start and lately; those that nothing came through are left out."""
    return {
        "recent_s": RECENT_S,
        "since_start": _tables(times.since_start()),
        "recent": _tables(times.lately()),
    }


def written(summary: Mapping[str, Any]) -> str:
    """The same as tables to read in a terminal."""
    lines: list[str] = []
    for title, name in (
        (f"the last {summary['recent_s'] / 60:g} minutes", "recent"),
        ("since the start", "since_start"),
    ):
        lines += [f"WHERE TIME GOES: {title}", ""]
        lines += _lines(summary[name]) or ["nothing was asked", ""]
    lines.append("share: of the time of all requests to that route; stages of queries overlap")
    return "\n".join(lines) + "\n"


def _tables(times: Mapping[Place, Times]) -> list[dict[str, Any]]:
    """A table for each index and route, those first that took most time."""
    by_time = sorted(times.items(), key=lambda item: -item[1].total_S[TOTAL])
    return [{"index": index, "route": route, "stages": _stages(of_place)} for (index, route), of_place in by_time]


def _stages(times: Times) -> list[dict[str, Any]]:
    rows = []
    for number, name in enumerate(STAGES):
        counts_B = times.counts_SB[number]
        num_times = int(counts_B.sum())
        if num_times:
            quantiles = {label: round(1000 * quantile(counts_B, share), 3) for label, share in SHARES.items()}
            share = times.total_S[number] / max(times.total_S[TOTAL], 1e-9)
            rows.append({"stage": name, "count": num_times, **quantiles, "share": round(float(share), 4)})
    return rows


def _lines(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for table in tables:
        lines.append(f"{table['route']}  ({table['index'] or 'no index'})")
        lines.append(f"  {'stage':<8}{'count':>10}{'p50 ms':>12}{'p90 ms':>12}{'p99 ms':>12}{'share':>8}")
        for row in table["stages"]:
            times = "".join(f"{row[label]:>12.3f}" for label in SHARES)
            lines.append(f"  {row['stage']:<8}{row['count']:>10}{times}{100 * row['share']:>7.1f}%")
        lines.append("")
    return lines
