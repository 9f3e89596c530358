"""What a quality run leaves behind: results.json, results.md, and the table on the terminal."""

import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from anykey.benchmark.directory import read_manifest
from anykey.benchmark.mbeir import FASHION_HEADLINE_K, HEADLINE_K, TASK_NAMES
from anykey.benchmark.scoring import TaskResult, averages, mean_interval
from anykey.benchmark.settings import QualitySettings
from anykey.program.files import replace_file
from anykey.program.machine import release

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
CAPTION = (
    "success@k (S@k): a relevant key is among the first k; M-BEIR prints this as Recall@k and quotes "
    f"k = {HEADLINE_K}, or {FASHION_HEADLINE_K} for Fashion200K and FashionIQ. recall@k: share of the relevant keys. "
    "Local: the task's own pool; global: all pools together, images, texts and pages. "
    "Other (modality): share of the first 10 hits (or the largest k below) of a modality the task does not look for. "
    f"{PLUS_MINUS}: how far other queries of the same kind would move a number, 95 times of 100 (Wilson's interval)"
)


@dataclass(frozen=True)
class Report:
    """Everything one quality run found.

    Attributes:
        parameters: The run's settings.
        environment: Where and when the client ran.
        service: What GET /info said before the first query.
        dataset: The dataset's manifest, or None.
        results: One entry per task and pool.
        warnings: What the reader should know before believing the numbers.
        depth: Hits asked for per query; the reciprocal rank looks no further.
    """

    parameters: Mapping[str, Any]
    environment: Mapping[str, Any]
    service: Mapping[str, Any]
    dataset: Mapping[str, Any] | None
    results: Sequence[TaskResult]
    warnings: Sequence[str]
    depth: int

    @classmethod
    def of(
        cls,
        settings: QualitySettings,
        info: Mapping[str, Any],
        results: Sequence[TaskResult],
        warnings: Sequence[str],
        depth: int,
    ) -> "Report":
        """Puts a report together from a finished run."""
        parameters = settings.model_dump(mode="json", exclude={"config"})
        if settings.limit:
            warnings = [*warnings, f"only the first {settings.limit} queries of each task were sent"]
        manifest = read_manifest(settings.dataset)
        return cls(parameters, environment(), info, manifest, results, warnings, depth)

    def pools(self) -> Iterator[tuple[str, list[TaskResult]]]:
        """Results by pool, in the order they were measured."""
        for pool in dict.fromkeys(result.pool for result in self.results):
            yield pool, [result for result in self.results if result.pool == pool]


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
    replace_file(output / "results.json", f"{json.dumps(as_json(report), indent=2)}\n".encode())


def forget_report(output: Path) -> None:
    """Removes the results and run files of an earlier run: what a failing run leaves must not look like its own."""
    for path in (output / "results.md", output / "results.json", *(output / "runs").glob("*_run.txt")):
        path.unlink(missing_ok=True)


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "parameters": report.parameters,
        "environment": report.environment,
        "service": report.service,
        "dataset": report.dataset,
        "warnings": list(report.warnings),
        "depth": report.depth,
        "averages": {
            pool: {
                **averages(results),
                "over_tasks_intervals": {name: mean_interval(results, name) for name in results[0].metrics},
            }
            for pool, results in report.pools()
        },
        "results": [
            {**asdict(result), "task_name": TASK_NAMES[result.task.number], "headline_k": result.task.headline_k}
            for result in report.results
        ],
    }


def table(report: Report) -> Table:
    """The table for the terminal: every task, pool by pool, with success@k, MRR and nDCG."""
    names = [name for name in report.results[0].metrics if not name.startswith("recall@")]
    several = len({result.task.dataset for result in report.results}) > 1
    grid = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, caption=CAPTION, caption_justify="left")
    grid.title = f"Quality at {report.parameters['url']}"
    for column in ("task", "pool"):
        grid.add_column(column, no_wrap=True)
    for column in ("keys", "queries", *names, PLUS_MINUS, "other"):
        heading = column.replace("success", "S")
        grid.add_column(heading, justify="right", no_wrap=True, min_width=max(5, len(heading)))
    for pool, results in report.pools():
        for result in results:
            numbers = [f"{result.metrics[name]:.3f}" for name in names]
            numbers.append(_widest(result.metrics, result.intervals, names))
            label = _label(result) if several else _label(result).partition(" ")[2]
            grid.add_row(label, pool, str(result.num_keys), str(result.num_queries), *numbers, _other(result))
        means = averages(results)["over_tasks"]
        intervals = {name: mean_interval(results, name) for name in names}
        numbers = [*(f"{means[name]:.3f}" for name in names), _widest(means, intervals, names)]
        num_queries = str(sum(result.num_queries for result in results))
        grid.add_row("mean over tasks", pool, "", num_queries, *numbers, "", style="bold")
        grid.add_section()
    return grid


def markdown(report: Report) -> str:
    """The report as a Markdown page: one table per pool, and where the numbers come from."""
    model, index = report.service.get("model", {}), report.service["index"]
    lines = [
        f"# Quality of {report.parameters['dataset']} at {report.parameters['url']}",
        "",
        f"- measured {report.environment['time_utc']} with anykey {report.environment['anykey']}, Python "
        f"{report.environment['python']}, {report.environment['platform']}, {report.environment['num_cpus']} CPUs",
        f"- model {model.get('name')}, fusion {model.get('fusion')}, fingerprint `{model.get('fingerprint')}`",
        f"- index version {index.get('version')}, {index.get('num_keys')} keys: {_counts(index.get('modalities'))}",
        f"- first {report.depth} hits of each query; reference images excluded: "
        f"{'yes' if report.parameters['exclude_reference'] else 'no'}; "
        f"instructions: {'yes' if report.parameters['instructions'] else 'no'}",
        *(f"- warning: {warning}" for warning in report.warnings),
    ]
    for pool, results in report.pools():
        lines += ["", f"## {pool.capitalize()} pool", "", *_markdown_table(results)]
    lines += ["", CAPTION, ""]
    return "\n".join(lines)


def _markdown_table(results: Sequence[TaskResult]) -> list[str]:
    """One pool's table, with the mean over tasks last."""
    names = list(results[0].metrics)
    header = ["task", "keys", "queries", *names, "other modality", "p50 ms", "p99 ms"]
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    for result in results:
        latency = result.serving["latency_ms"]
        cells = [_label(result), str(result.num_keys), str(result.num_queries)]
        cells += [_with_half(result.metrics[name], result.intervals[name]) for name in names]
        cells += [_other(result), f"{latency['p50']:.1f}", f"{latency['p99']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    means = averages(results)["over_tasks"]
    halves = [_with_half(means[name], mean_interval(results, name)) for name in names]
    num_queries = str(sum(result.num_queries for result in results))
    mean_cells = ["mean over tasks", "", num_queries, *halves, "", "", ""]
    return [*lines, f"| {' | '.join(mean_cells)} |"]


def _with_half(value: float, ends: tuple[float, float]) -> str:
    """A number, and how far its interval reaches to the wider side."""
    return f"{value:.4f} {PLUS_MINUS}{_reach(value, ends)}"


def _widest(values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], names: Sequence[str]) -> str:
    """The farthest that any of a row's intervals reaches: a table on a terminal has no room for all."""
    return max((_reach(values[name], intervals[name]) for name in names), key=float)


def _reach(value: float, ends: tuple[float, float]) -> str:
    return f"{max(value - ends[0], ends[1] - value):.3f}".removeprefix("0")


def _label(result: TaskResult) -> str:
    """Task as a reader knows it: "shapesworld 0 text -> image"."""
    return f"{result.task.dataset} {result.task.number} {TASK_NAMES[result.task.number]}"


def _other(result: TaskResult) -> str:
    """Share of other modalities among the first ten hits, or at the largest cut-off below ten."""
    cutoffs = [int(k) for k in result.wrong_modality]
    chosen = max((k for k in cutoffs if k <= 10), default=min(cutoffs))
    return f"{result.wrong_modality[str(chosen)]:.0%}"


def _counts(modalities: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} {modality}" for modality, count in (modalities or {}).items()) or "unknown"
