"""What a load run leaves behind: load.json, load.md, load.html, latency.png, and the table on the terminal."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich import box
from rich.table import Table
from rich.text import Text

from anykey.benchmark.load.ceiling import SHARE
from anykey.benchmark.load.histogram import MIN_BEYOND, Histogram
from anykey.benchmark.load.picture import draw
from anykey.benchmark.load.saturation import MOST_FAILED, Saturation
from anykey.benchmark.load.tally import LATE_S, Tally
from anykey.program.files import replace_file
from anykey.program.page import render_page, shown

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
COLUMNS = ("rate/s", "answers/s", "sent", "errors", "not sent", *(f"p{percent:g}" for percent in PERCENTILES), "known")
WIDE = 110  # columns of a terminal
DASH = "-"
PICTURE, PAGE, DATA, HTML = "latency.png", "load.md", "load.json", "load.html"
Grid = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # what a table is called, its header, its rows
LOCAL = ("127.0.0.1", "localhost", "::1")
CAPTION = (
    "rate: requests due in a second; answers: those that came in a second, until the last. Latencies are in ms, from "
    "when a request was due, not from when it was sent, to the last byte of its answer; in brackets, where there is "
    f"room, how many requests lie beyond; with fewer than {MIN_BEYOND}, a percentile says nothing and is a dash. Only "
    "answered requests have one. errors: got another answer, or none; nothing is tried again. not sent: found too many "
    "under way. known: answered with a vector that the service had"
)


@dataclass(frozen=True)
class LoadReport:
    """Everything one load run found.

    Attributes:
        parameters: The run's settings.
        environment: Where and when the client ran.
        service: What GET /info said before the first request.
        traffic: What was sent.
        ceiling_per_s: Requests in a second that the client gets answered where the service takes no time; None where
            that was not measured.
        tallies: What became of the requests, a tally for each rate, in the order of the measurements.
        saturation: Where the service gave way; None where nobody asked.
        is_stopped: Whether the run was interrupted.
    """

    parameters: Mapping[str, Any]
    environment: Mapping[str, Any]
    service: Mapping[str, Any]
    traffic: Mapping[str, Any]
    ceiling_per_s: float | None
    tallies: Sequence[Tally]
    saturation: Saturation | None
    is_stopped: bool

    def limits_of_client(self, tally: Tally) -> list[str]:
        """Why a rate tells of the client as much as of the service; nothing where it does not."""
        reasons = []
        if self.ceiling_per_s and tally.rate > SHARE * self.ceiling_per_s:
            reasons.append(f"above {SHARE:.0%} of the client's ceiling")
        if tally.share(tally.late) > MOST_FAILED:
            reasons.append(f"{tally.share(tally.late):.1%} sent more than {1000 * LATE_S:g} ms late")
        return reasons

    def findings(self) -> list[str]:
        """What the run says beside the table, a sentence each."""
        said = []
        if self.ceiling_per_s:
            said.append(
                f"The client's ceiling is {self.ceiling_per_s:,.0f} answers/s, where the service takes no time."
            )
        if self.saturation is not None:
            said.append(_of_saturation(self.saturation, self.parameters))
        if self.is_stopped:
            said.append("Stopped before the end: what is here was measured until then.")
        return said

    @property
    def by_rate(self) -> list[Tally]:
        """The tallies in ascending order of their rates."""
        return sorted(self.tallies, key=lambda tally: tally.rate)

    @property
    def has_picture(self) -> bool:
        """Whether any percentile says something."""
        return any(tally.latency.told_s(PERCENTILES[0]) is not None for tally in self.tallies)

    @property
    def warnings(self) -> list[str]:
        """What the reader should know before believing the numbers."""
        said = []
        if urlsplit(self.parameters["url"]).hostname in LOCAL:
            said.append("the client ran on the machine of the service and took processor time from it")
        answered, known = (sum(getattr(tally, name) for tally in self.tallies) for name in ("answered", "cached"))
        if answered and known / answered > self.parameters["repeat_share"] + MOST_FAILED:
            said.append(
                f"for {known / answered:.0%} of the answers the service knew the query's vector, as it was asked "
                f"before (of {self.traffic['num_queries']} different queries): new ones take longer"
            )
        for tally in self.by_rate:
            said += [f"{_rate(tally)}/s is limited by the client: {why}" for why in self.limits_of_client(tally)]
        return said


def write_load_report(output: Path, report: LoadReport) -> None:
    """Writes latency.png, load.html, load.md and then load.json, each complete or not at all."""
    output.mkdir(parents=True, exist_ok=True)
    picture = None
    if report.has_picture:
        picture = draw(report.by_rate, PERCENTILES, _limit_ms(report), _client_limit(report))
        replace_file(output / PICTURE, picture)
    replace_file(output / HTML, page(report, picture).encode())
    replace_file(output / PAGE, markdown(report).encode())
    replace_file(output / DATA, f"{json.dumps(as_json(report))}\n".encode())


def forget_load_report(output: Path) -> None:
    """Removes the report of an earlier run: what a failing run leaves must not look like its own."""
    for name in (PICTURE, HTML, PAGE, DATA):
        (output / name).unlink(missing_ok=True)


def as_json(report: LoadReport) -> dict[str, Any]:
    """The report as plain data."""
    found = report.saturation
    return {
        "parameters": report.parameters,
        "environment": report.environment,
        "service": report.service,
        "traffic": report.traffic,
        "ceiling_per_s": report.ceiling_per_s,
        "warnings": report.warnings,
        "is_stopped": report.is_stopped,
        "saturation": found and {"held": found.held, "gave_way": found.gave_way, "reasons": list(found.reasons)},
        "rates": [_row(tally, report.limits_of_client(tally)) for tally in report.tallies],
    }


def table(report: LoadReport, width: int) -> Table:
    """The table for a terminal of so many columns; only a wide one has room for how many requests lie beyond."""
    caption = f"{CAPTION}. *: limited by the client"
    grid = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, caption=caption, caption_justify="left")
    for column in COLUMNS:
        grid.add_column(column, justify="right", no_wrap=True)
    for tally in report.by_rate:
        rate, *cells = _cells(tally, has_counts=width >= WIDE)
        mark = "*" if report.limits_of_client(tally) else " "
        grid.add_row(Text.assemble(rate, (mark, "bold yellow")), *map(Text, cells))
    return grid


def markdown(report: LoadReport) -> str:
    """The report as Markdown."""
    rates, *others = _grids(report)
    lines = [
        f"# Load on {report.parameters['url']}",
        "",
        *(f"- {fact}" for fact in _facts(report)),
        *(f"- {sentence}" for sentence in report.findings()),
        *(f"- warning: {warning}" for warning in report.warnings),
        "",
        *_lines(*rates[1:]),
        "",
    ]
    for title, header, rows in others:
        lines += [f"{title}:", "", *_lines(header, rows), ""]
    if report.has_picture:
        lines += [f"![Latency over rate]({PICTURE})", ""]
    return "\n".join([*lines, CAPTION, ""])


def page(report: LoadReport, picture: bytes | None) -> str:
    """The report as a page that needs no network and no other file.

    Args:
        report: The report.
        picture: The curves, a PNG; None where there are none.
    """
    return render_page(
        (files("anykey.benchmark.page") / "load.html").read_text(encoding="utf-8"),
        {"shown": shown},
        report=report,
        findings=report.findings(),
        facts=_facts(report),
        tables=_grids(report),
        caption=CAPTION,
        picture=picture and base64.b64encode(picture).decode("ascii"),
    )


def _facts(report: LoadReport) -> list[str]:
    """What was measured, where and how, a phrase each."""
    parameters, where = report.parameters, report.environment
    model, index = report.service.get("model", {}), report.service["index"]
    kinds = ", ".join(f"{count} {modality}" for modality, count in report.traffic["modalities"].items())
    return [
        f"measured {where['time_utc']} with anykey {where['anykey']}, Python {where['python']}, {where['platform']}, "
        f"{where['num_cpus']} CPUs",
        f"model {model.get('name')}, fingerprint `{model.get('fingerprint')}`",
        f"index version {index.get('version')}, {index.get('num_keys')} keys",
        f"queries: {kinds}, of {parameters['log'] or parameters['dataset']}; k {parameters['num_hits']}, "
        f"{parameters['search']} search",
        f"{_pace(report)}; at most {parameters['max_in_flight']} under way, {parameters['timeout_s']:g} s for each",
    ]


def _grids(report: LoadReport) -> list[Grid]:
    """The rates, and where there is something to tell, errors by class and the service's own timings."""
    rates = ("Rates", [*COLUMNS, *_marks(report)], [_marked(tally, report) for tally in report.by_rate])
    return [rates, *_errors(report.by_rate), *_stages(report.by_rate)]


def _row(tally: Tally, limits: Sequence[str]) -> dict[str, Any]:
    """One rate as plain data."""
    counts = {name: getattr(tally, name) for name in ("due", "not_sent", "sent", "answered", "unfinished", "late")}
    answered = tally.answered
    return {
        "rate": tally.rate,
        "duration_s": tally.end_s - tally.start_s,
        **counts,
        "errors": dict(tally.errors),
        "answered_per_s": tally.answered_per_s,
        "cached_share": tally.cached / answered if answered else None,
        "repeat_share": tally.repeats / tally.sent if tally.sent else None,
        "latency_ms": _summary(tally.latency),
        "lag_ms": _summary(tally.lag),
        "stages_ms": {stage: _summary(times) for stage, times in tally.stages.items()},
        "histogram_ms": [[round(1000 * end_s, 4), count] for end_s, count in tally.latency.bins()],
        "limited_by_client": list(limits),
    }


def _summary(times: Histogram) -> dict[str, Any] | None:
    """Mean, maximum and percentiles in milliseconds; a percentile that says nothing is null."""
    if not times.count:
        return None
    told = {f"p{percent:g}": times.told_s(percent) for percent in PERCENTILES}
    return {
        "mean": round(1000 * times.mean_s, 3),
        "max": round(1000 * times.max_s, 3),
        **{name: None if value_s is None else round(1000 * value_s, 3) for name, value_s in told.items()},
        "beyond": {f"p{percent:g}": times.beyond(percent) for percent in PERCENTILES},
    }


def _cells(tally: Tally, has_counts: bool = True) -> list[str]:
    known = f"{tally.cached / tally.answered:.0%}" if tally.answered else DASH
    counts = [str(tally.sent), str(tally.errors.total()), str(tally.not_sent)]
    percentiles = [_percentile(tally.latency, percent, has_counts) for percent in PERCENTILES]
    return [_rate(tally), _per_s(tally.answered_per_s), *counts, *percentiles, known]


def _percentile(times: Histogram, percent: float, has_count: bool) -> str:
    """Milliseconds, and how many requests lie beyond; a dash where too few do."""
    value_s = times.told_s(percent)
    if value_s is None:
        return DASH
    return f"{_ms(value_s)} ({times.beyond(percent)})" if has_count else _ms(value_s)


def _ms(value_s: float) -> str:
    value_ms = 1000 * value_s
    return f"{value_ms:.1f}" if value_ms < 100 else f"{value_ms:,.0f}"


def _rate(tally: Tally) -> str:
    return _per_s(tally.rate)


def _per_s(rate: float) -> str:
    """A rate without an exponent."""
    return f"{rate:.4g}" if rate < 1000 else f"{rate:.0f}"


def _marks(report: LoadReport) -> list[str]:
    """The heading of the marks, where any rate has one."""
    return ["limited by"] if any(map(report.limits_of_client, report.tallies)) else []


def _marked(tally: Tally, report: LoadReport) -> list[str]:
    return [*_cells(tally), *("client" if report.limits_of_client(tally) else "" for _ in _marks(report))]


def _errors(tallies: Sequence[Tally]) -> Iterator[Grid]:
    """A table of errors by class, where there were any."""
    rows = [[_rate(tally), name, str(count)] for tally in tallies for name, count in tally.errors.most_common()]
    if rows:
        yield "Errors by class", ["rate/s", "error", "requests"], rows


def _stages(tallies: Sequence[Tally]) -> Iterator[Grid]:
    """A table of the service's own timings: p50 and p99 of each stage, in milliseconds."""
    stages = list(dict.fromkeys(stage for tally in tallies for stage in tally.stages))
    rows = [[_rate(tally), *(_stage(tally.stages.get(stage)) for stage in stages)] for tally in tallies]
    if stages:
        heading = (
            "Stages as the service tells them, p50 / p99 in ms; what the total lacks of a latency is network and queues"
        )
        yield heading, ["rate/s", *stages], rows


def _stage(times: Histogram | None) -> str:
    if times is None or not times.count:
        return DASH
    p99_s = times.told_s(99)
    return f"{_ms(times.percentile_s(50))} / {DASH if p99_s is None else _ms(p99_s)}"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def _pace(report: LoadReport) -> str:
    parameters = report.parameters
    if (
        parameters["log"]
        and not parameters["rates"]
        and report.saturation is None
        and not parameters["find_saturation"]
    ):
        return f"the log's pace, {parameters['speed']:g} times as fast"
    return (
        f"{parameters['arrivals']} arrivals, {parameters['duration_s']:g} s a rate after {parameters['warm_up_s']:g} s"
    )


def _of_saturation(found: Saturation, parameters: Mapping[str, Any]) -> str:
    what = f"p99 up to {parameters['limit_ms']:g} ms, and up to {MOST_FAILED:.0%} errors and late sends"
    held = (
        f"The highest rate that held ({what}) is {_per_s(found.held)}/s." if found.held else f"No rate held ({what})."
    )
    if found.gave_way is None:
        return f"{held} The client can measure no higher one."
    return f"{held} At {_per_s(found.gave_way)}/s, {'; '.join(found.reasons)}."


def _limit_ms(report: LoadReport) -> float | None:
    return report.parameters["limit_ms"] if report.parameters["find_saturation"] else None


def _client_limit(report: LoadReport) -> float | None:
    return SHARE * report.ceiling_per_s if report.ceiling_per_s else None
