"""What a quality run leaves behind: results.json, results.md, and the tables on the terminal."""

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from anykey.benchmark.answers import REPORT
from anykey.benchmark.dataset import MODALITIES, Dataset, Mean
from anykey.benchmark.directory import read_manifest
from anykey.benchmark.losses import Loss
from anykey.benchmark.page.worst import Worst
from anykey.benchmark.scoring import FIRST_HITS, Number, TaskResult, mean_number, published_number, summary_number
from anykey.benchmark.settings import QualitySettings
from anykey.program.files import replace_file
from anykey.program.machine import release

PAGE = "report.html"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
CAPTION = (
    "success@k (S@k): a relevant key is among the first k; papers on images and texts, and M-BEIR, print this as "
    "Recall@k. recall@k: share of the relevant keys. headline: the number that papers quote of the task. "
    "Other (modality): share of the first 10 hits (or the largest k below) of a modality the task does not look for. "
    f"{PLUS_MINUS}: how far other queries of the same kind would move a number, 95 times of 100 (bootstrap)"
)


@dataclass(frozen=True)
class Section:
    """Results that stand in one table: the same kind of candidates, searched in the same way, by the same metrics.

    Attributes:
        title: What the table is called.
        results: Its rows.
        means: The means over them that papers print.
    """

    title: str
    results: Sequence[TaskResult]
    means: Sequence[Mean]

    @property
    def has_sources(self) -> bool:
        """Whether any hits come from another source dataset than their query."""
        return any(share for result in self.results for share in result.wrong["source"].values())

    @property
    def names(self) -> list[str]:
        """The metrics."""
        return list(self.results[0].numbers)

    def num_queries(self, mean: Mean) -> int:
        """How many queries one of the means is over."""
        return sum(len(result.queries) for result in self.results if result.task in mean.weights)

    def mean(self, mean: Mean, metric: str | None) -> Number | None:
        """One of the means; of the headlines where no metric is named."""
        return mean_number(mean, {result.task: result for result in self.results}, metric)


@dataclass(frozen=True)
class Report:
    """Everything one quality run found.

    Attributes:
        parameters: The run's settings.
        environment: Where and when the client ran.
        service: What GET /info said before the first query.
        dataset: Its name, split and, where there is one, its manifest.
        sections: The results, table by table.
        summaries: Means over several tables, by name.
        files: Names of the files that the benchmark's own tools read.
        warnings: What the reader should know before believing the numbers.
        losses: What the index's structure loses, where tasks were searched in both ways.
        worst: The worst queries of each task.
        unread: Why the keys of the worst queries could not all be read; empty where they could.
    """

    parameters: Mapping[str, Any]
    environment: Mapping[str, Any]
    service: Mapping[str, Any]
    dataset: Mapping[str, Any]
    sections: Sequence[Section]
    summaries: Mapping[str, Number]
    files: Sequence[str]
    warnings: Sequence[str]
    losses: Sequence[Loss] = ()
    worst: Sequence[Worst] = ()
    unread: str = ""

    @classmethod
    def of(
        cls,
        settings: QualitySettings,
        dataset: Dataset,
        info: Mapping[str, Any],
        results: Sequence[TaskResult],
        warnings: Sequence[str],
        files: Sequence[str] = (),
    ) -> "Report":
        """Puts a report together from a finished run."""
        parameters = settings.model_dump(mode="json", exclude={"config"})
        if settings.limit:
            warnings = [*warnings, f"only the first {settings.limit} queries of each task were sent"]
        facts = {
            "name": dataset.name,
            "split": dataset.split,
            "options": dataset.options,
            "manifest": read_manifest(settings.dataset),
        }
        tables: dict[tuple[Any, ...], list[TaskResult]] = {}
        for result in results:
            tables.setdefault((result.task.candidates, result.exact, *result.numbers), []).append(result)
        sections = [
            Section(_title(rows[0]), rows, dataset.means([row.task for row in rows])) for rows in tables.values()
        ]
        summaries = _summaries(dataset, results)
        return cls(parameters, environment(), info, facts, sections, summaries, files, warnings)


def environment() -> dict[str, Any]:
    """The machine and versions the client ran with, and the time."""
    return {
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "anykey": release(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
    }


def write_report(output: Path, report: Report) -> None:
    """Writes results.md and then results.json, each complete or not at all."""
    output.mkdir(parents=True, exist_ok=True)
    replace_file(output / "results.md", markdown(report).encode())
    replace_file(output / REPORT, f"{json.dumps(as_json(report))}\n".encode())


def forget_report(output: Path) -> None:
    """Removes the results and files of an earlier run: what a failing run leaves must not look like its own."""
    try:
        named = json.loads((output / REPORT).read_bytes())["files"]
        earlier = [output / Path(name).name for name in named]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = []
    for path in earlier:
        path.unlink(missing_ok=True)
    for path in (output / PAGE, output / "results.md", output / REPORT, *(output / "runs").glob("*_run.txt")):
        path.unlink(missing_ok=True)


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "parameters": report.parameters,
        "environment": report.environment,
        "service": report.service,
        "dataset": report.dataset,
        "warnings": list(report.warnings),
        "means": [
            {"name": mean.name, "table": section.title, **_means_of(section, mean)}
            for section in report.sections
            for mean in section.means
        ],
        "summaries": [
            {"name": name, "value": number.value, "interval": [number.low, number.high]}
            for name, number in report.summaries.items()
        ],
        "files": list(report.files),
        "results": [_result(result) for section in report.sections for result in section.results],
        "losses": [_loss(loss) for loss in report.losses],
    }


def tables(report: Report) -> list[Table]:
    """The tables for the terminal: every task with success@k, MRR and nDCG."""
    grids = [_grid(section) for section in report.sections]
    if grids:
        grids[-1].caption, grids[-1].caption_justify = CAPTION, "left"
    return grids


def markdown(report: Report) -> str:
    """The report as a Markdown page: a table for each kind of candidates, and where the numbers come from."""
    model, index = report.service.get("model", {}), report.service["index"]
    parameters = report.parameters
    excluded = {None: "as the benchmark's rules say", True: "yes", False: "no"}[parameters["exclude_reference"]]
    lines = [
        f"# Quality of {parameters['dataset']} at {parameters['url']}",
        "",
        f"- {report.dataset['name']}, split {report.dataset['split']}",
        f"- measured {report.environment['time_utc']} with anykey {report.environment['anykey']}, Python "
        f"{report.environment['python']}, {report.environment['platform']}, {report.environment['num_cpus']} CPUs",
        f"- model {model.get('name')}, fusion {model.get('fusion')}, fingerprint `{model.get('fingerprint')}`",
        f"- index version {index.get('version')}, {index.get('num_keys')} keys: {_counts(index.get('modalities'))}",
        f"- reference images excluded: {excluded}; instructions: {parameters['instructions']}",
        *(f"- {name}: {value}" for name, value in report.dataset["options"].items()),
        *(f"- for the benchmark's own tools: `{name}`" for name in report.files),
        *(f"- warning: {warning}" for warning in report.warnings),
    ]
    for section in report.sections:
        lines += ["", f"## {section.title}", "", *_markdown_table(section)]
        if any(result.task.ties_lose for result in section.results):
            lines += ["", "A relevant key that scores like others counts as behind them."]
        lines += _published(section)
    if report.summaries:
        lines += ["", "## Over these tables", "", *(f"- {line}" for line in summary_lines(report))]
    lines += ["", CAPTION if report.sections else "Nothing was scored.", ""]
    return "\n".join(lines)


def summary_lines(report: Report) -> list[str]:
    """The means over several tables, each in a line."""
    return [f"{name}: {_with_half(number)}" for name, number in report.summaries.items()]


def _summaries(dataset: Dataset, results: Sequence[TaskResult]) -> dict[str, Number]:
    found = {}
    for exact in dict.fromkeys(result.exact for result in results):
        by_task = {result.task: result for result in results if result.exact == exact}
        for summary in dataset.summaries(list(by_task)):
            found[f"{summary.name}{', every key compared' if exact else ''}"] = summary_number(summary, by_task)
    return found


def _title(result: TaskResult) -> str:
    words = {"local": "Local pool", "global": "Global pool"}
    title = words.get(result.task.candidates, result.task.candidates.capitalize())
    return f"{title}, every key compared" if result.exact else title


def _result(result: TaskResult) -> dict[str, Any]:
    """One row as plain data."""
    task = result.task
    return {
        "task": {
            "name": task.name,
            "title": task.title,
            "aliases": list(task.aliases),
            "candidates": task.candidates,
            "headline": task.headline,
        },
        "pool": task.pool,
        "exact": result.exact,
        "num_keys": result.num_keys,
        "num_queries": len(result.queries),
        "metrics": {name: number.value for name, number in result.numbers.items()},
        "intervals": {name: [number.low, number.high] for name, number in result.numbers.items()},
        "wrong": {kind: {str(k): share for k, share in shares.items()} for kind, shares in result.wrong.items()},
        "modalities": result.modalities,
        "published": [
            {"metric": each.metric, "rule": each.rule, "value": number.value, "interval": [number.low, number.high]}
            for each, number in ((each, published_number(each)) for each in result.published)
        ],
        "serving": result.serving,
        "ranks": {query: list(ranks) for query, ranks in zip(result.queries, result.ranks, strict=True)},
        "values": {name: [round(value, 6) for value in v_Q.tolist()] for name, v_Q in result.values.items()},
    }


def _loss(loss: Loss) -> dict[str, Any]:
    """What the structure loses in one task, as plain data."""
    task = loss.approximate.task
    return {
        "task": task.name,
        "candidates": task.candidates,
        "metric": task.headline,
        "lost": loss.lost.value,
        "interval": [loss.lost.low, loss.lost.high],
        f"kept@{FIRST_HITS}": loss.kept,
    }


def _means_of(section: Section, mean: Mean) -> dict[str, Any]:
    numbers = {name: section.mean(mean, name) for name in section.names} | {"headline": section.mean(mean, None)}
    known = {name: number for name, number in numbers.items() if number is not None}
    return {
        "metrics": {name: number.value for name, number in known.items()},
        "intervals": {name: [number.low, number.high] for name, number in known.items()},
    }


def _grid(section: Section) -> Table:
    names = [name for name in section.names if not name.startswith("recall@") and name != "mrr"]
    words = {result.task.title.partition(" ")[0] for result in section.results}
    shared = f"{words.pop()} " if len(words) == 1 else ""  # a dataset's name before every task says nothing
    grid = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, title=section.title, title_justify="left")
    grid.add_column("task", no_wrap=True)
    for column in ("keys", "queries", *names, PLUS_MINUS, "other"):
        heading = column.replace("success", "S")
        grid.add_column(heading, justify="right", no_wrap=True, min_width=max(5, len(heading)))
    for result in section.results:
        numbers = [result.numbers[name] for name in names]
        cells = [f"{number.value:.3f}" for number in numbers]
        grid.add_row(
            result.task.title.removeprefix(shared) or result.task.title,
            *(str(result.num_keys), str(len(result.queries)), *cells, _widest(numbers), other_share(result)),
        )
    for mean in section.means:
        means = [section.mean(mean, name) for name in names]
        cells = [f"{number.value:.3f}" if number else "" for number in means]
        widest = _widest([number for number in means if number])
        grid.add_row(mean.name, "", str(section.num_queries(mean)), *cells, widest, "", style="bold")
    return grid


def _markdown_table(section: Section) -> list[str]:
    """One table, with the means last."""
    names = section.names
    sources = section.has_sources
    mixed = any(result.task.key_modality is None for result in section.results)
    header = ["task", "keys", "queries", "headline", *names, "other modality", *(["other source"] if sources else [])]
    header += [*(["first 10 hits: text, image, fused"] if mixed else []), "p50 ms", "p99 ms"]
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    for result in section.results:
        latency = result.serving["latency_ms"]
        cells = [result.task.title, str(result.num_keys), str(len(result.queries))]
        cells += [f"{result.task.headline} {_with_half(result.headline)}"]
        cells += [_with_half(result.numbers[name]) for name in names]
        cells += [other_share(result), *([other_share(result, "source")] if sources else [])]
        cells += [", ".join(f"{result.modalities[each]:.0%}" for each in MODALITIES)] if mixed else []
        cells += [f"{latency['p50']:.1f}", f"{latency['p99']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for mean in section.means:
        means = [section.mean(mean, name) for name in (None, *names)]
        cells = [
            mean.name,
            "",
            str(section.num_queries(mean)),
            *(_with_half(number) if number else "" for number in means),
        ]
        cells += [""] * (len(header) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _published(section: Section) -> list[str]:
    """Numbers by other rules, for comparison with papers."""
    rows = [(result.task.title, each) for result in section.results for each in result.published]
    if not rows:
        return []
    lines = ["", "By the rules of published code, for comparison with papers:", ""]
    lines += ["| task | number | value | rule |", "|---|---|---:|---|"]
    for title, each in rows:
        lines.append(f"| {title} | {each.metric} | {_with_half(published_number(each))} | {each.rule} |")
    return lines


def _with_half(number: Number) -> str:
    """A number, and how far its interval reaches to the wider side."""
    return f"{number.value:.4f} {PLUS_MINUS}{_reach(number)}"


def _widest(numbers: Sequence[Number]) -> str:
    """The farthest that any of a row's intervals reaches: a table on a terminal has no room for all."""
    return max((_reach(number) for number in numbers), key=float)


def _reach(number: Number) -> str:
    return f"{max(number.value - number.low, number.high - number.value):.3f}".removeprefix("0")


def other_share(result: TaskResult, kind: str = "modality") -> str:
    """Share of wrong keys of one kind among the first ten hits, or at the largest cut-off below ten.

    Where a task looks for all modalities, none of them is wrong, and there is no such share.
    """
    if kind == "modality" and result.task.key_modality is None:
        return ""
    shares = result.wrong[kind]
    return f"{shares[max((k for k in shares if k <= 10), default=min(shares))]:.0%}"


def _counts(modalities: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} {modality}" for modality, count in (modalities or {}).items()) or "unknown"
