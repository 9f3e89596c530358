"""The commands `anykey-bench compare` and `gate`: which runs differ, and whether one is good enough.

Two runs are compared query by query. Whether a difference may be chance is told by a randomisation test: where nothing
differs, each query's difference could as well have had the other sign (Smucker, Allan and Carterette, CIKM 2007). With
many tasks some differ by chance; Holm's correction (1979) keeps the probability that any of them is called
significant at 5 %.

Shape legend: Q = queries, R = random assignments of signs, U = different sizes of a difference.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from anykey.benchmark.answers import REPORT
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import ReportError
from anykey.benchmark.metrics import resampled
from anykey.benchmark.scoring import metrics_of
from anykey.benchmark.settings import CompareSettings, GateSettings, parse_bounds
from anykey.program.files import replace_file
from anykey.program.settings import plain_console

HEADLINE = "headline"
ASSIGNMENTS = 10_000
LEVEL = 0.05
FAILED = 3  # exit code of a gate that is closed

Row = tuple[str, str, bool]  # task, candidates, whether every key was compared


@dataclass(frozen=True)
class Run:
    """What one run of `anykey-bench quality` measured.

    Attributes:
        name: What tables call it: its directory's name.
        report: Its results.json.
    """

    name: str
    report: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Reads a run's directory, or its results.json.

        Raises:
            ReportError: there is no such report.
        """
        file = path / REPORT if path.is_dir() else path
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            rows = report["results"]
            assert all("values" in row and "task" in row for row in rows)
        except FileNotFoundError:
            raise ReportError(f"{file} does not exist: expected the output of anykey-bench quality") from None
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise ReportError(f"{file} is no report of this version of anykey-bench quality: {error!r}") from error
        return cls(file.resolve().parent.name if file.name == REPORT else file.stem, report)

    def rows(self) -> dict[Row, Mapping[str, Any]]:
        """Its results by task, candidates and way of search."""
        return {(row["task"]["name"], row["task"]["candidates"], row["exact"]): row for row in self.report["results"]}


@dataclass(frozen=True)
class Difference:
    """How one run differs from the first in one task, or in a mean over tasks.

    Attributes:
        value: By how much it is better.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: How probable so large a difference is where nothing differs.
        is_significant: Whether it is, after the correction for all differences that were tested.
    """

    value: float
    low: float
    high: float
    p: float
    is_significant: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a comparison.

    Attributes:
        title: The task, or the mean.
        candidates: What it was searched among.
        metric: The metric that is compared.
        num_queries: How many queries.
        values: Each run's value.
        differences: Each further run's difference from the first.
    """

    title: str
    candidates: str
    metric: str
    num_queries: int
    values: tuple[float, ...]
    differences: tuple[Difference, ...]


def run_compare(settings: CompareSettings) -> int:
    """The command `compare`: prints one table, and writes it with a picture.

    Returns:
        The exit code, 0.

    Raises:
        ReportError: a run is none, or the runs did not ask the same queries.
    """
    runs = [Run.read(path) for path in settings.runs]
    lines = compared(runs, settings.metric)
    out = plain_console()
    if not out.is_terminal:
        out.width = 140
    out.print(_table(runs, lines))
    settings.output.mkdir(parents=True, exist_ok=True)
    replace_file(settings.output / "comparison.md", markdown(runs, lines).encode())
    replace_file(settings.output / "comparison.json", f"{json.dumps(_as_json(runs, lines), indent=2)}\n".encode())
    _draw(runs, lines, settings.output / "comparison.png")
    out.print(f"The table, all p values and a picture: {settings.output}", soft_wrap=True)
    return 0


def run_gate(settings: GateSettings) -> int:
    """The command `gate`: measures, then says whether the numbers are high enough.

    Returns:
        The exit code: 0 where the gate is open, 3 where it is closed.

    Raises:
        DatasetError: as for `anykey-bench quality`, or the baseline asked other queries.
        EndpointError: as for `anykey-bench quality`.
    """
    from anykey.benchmark.quality import run

    baseline, bounds = Run.read(settings.against) if settings.against else None, parse_bounds(settings.at_least)
    check_names(settings, bounds, baseline)
    run(settings)
    measured = Run.read(settings.output)
    reasons = too_low(measured, bounds)
    if baseline is not None:
        reasons += worse(baseline, measured)
    out = plain_console()
    for reason in reasons:
        out.print(Text.assemble(("gate closed:", "bold red"), f" {reason}"), soft_wrap=True)
    if not reasons:
        out.print(Text("gate open", "bold green"))
    return FAILED if reasons else 0


def check_names(settings: GateSettings, bounds: Mapping[str, float], baseline: Run | None) -> None:
    """Makes sure that what will be measured has the names that the gate asks for, before it takes its time.

    Raises:
        DatasetError: the dataset is wrong, or a named task is not in it.
        ReportError: a bound is of no number of these tasks, or the baseline has none of them.
    """
    from anykey.benchmark.quality import chosen_tasks

    dataset = open_dataset(settings.dataset, settings.format, settings.split, settings.options)
    tasks = chosen_tasks(dataset.tasks(), settings.tasks, settings.pools)
    for name in bounds:
        wanted, _, metric = name.rpartition(" ")
        among = [task for task in tasks if not wanted or wanted in (task.name, task.title, *task.aliases)]
        if not any(metric in (HEADLINE, *metrics_of(task, settings.cutoffs)) for task in among):
            raise ReportError(f"nothing that would be measured is called '{name}'")
    if baseline and not {(task.name, task.candidates) for task in tasks} & {row[:2] for row in baseline.rows()}:
        raise ReportError(f"{settings.against} has none of the tasks that would be measured")


def compared(runs: Sequence[Run], metric: str = HEADLINE) -> list[Line]:
    """Every task that all runs measured, and behind the tasks of one table their mean.

    Args:
        runs: At least two; the others are compared with the first.
        metric: The metric; "headline" is each task's own.

    Raises:
        ReportError: the runs have no task in common, did not ask the same queries, or a task lacks the metric.
    """
    tables = [run.rows() for run in runs]
    common = [row for row in tables[0] if all(row in table for table in tables)]
    if not common:
        raise ReportError(f"{' and '.join(run.name for run in runs)} have no task in common")
    lines: list[Line] = []
    for candidates, exact in dict.fromkeys((row[1], row[2]) for row in common):
        members = [row for row in common if row[1:] == (candidates, exact)]
        values = [
            [_values(run, table, row, metric) for row in members] for run, table in zip(runs, tables, strict=True)
        ]
        for number, row in enumerate(members):
            _check_queries(runs, [table[row] for table in tables])
            first = tables[0][row]
            chosen = first["task"]["headline"] if metric == HEADLINE else metric
            own = [[parts[number]] for parts in values]
            lines.append(_line(first["task"]["title"], _candidates(candidates, exact), chosen, own))
        if len(members) > 1:
            lines.append(_line("mean over tasks", _candidates(candidates, exact), metric, values))
    return _corrected(lines)


def too_low(run: Run, bounds: Mapping[str, float]) -> list[str]:
    """Which numbers are below their bound.

    A bound's name is a metric, of every table's mean over tasks (of its only task, where it has one), or
    "TASK METRIC" of one task, wherever it is searched.

    Raises:
        ReportError: nothing of that name was measured.
    """
    reasons = []
    for name, bound in bounds.items():
        task, _, metric = name.rpartition(" ")
        found = list(_named(run, task, metric))
        if not found:
            raise ReportError(f"nothing that was measured is called '{name}'")
        reasons += [f"{what} {metric} is {value:.4f}, below {bound:g}" for what, value in found if value < bound]
    return reasons


def worse(baseline: Run, run: Run) -> list[str]:
    """Where a run is significantly worse than the baseline, by the headlines."""
    reasons = []
    for line in compared([baseline, run]):
        (change,) = line.differences
        if change.is_significant and change.value < 0:
            before, after = line.values
            reasons.append(
                f"{line.title} ({line.candidates}) {line.metric} fell from {before:.4f} to {after:.4f} "
                f"(p = {change.p:.4f})"
            )
    return reasons


def randomisation(parts: Sequence[NDArray[np.float64]], seed: int = 0) -> float:
    """How probable it is that random signs give as large a mean difference as the one there is.

    Args:
        parts: The differences `[Q]` of each task; their means count alike.
        seed: Of the random signs.

    Returns:
        The p value, two-sided, from 1 / (R + 1) to 1.
    """
    rng = np.random.default_rng(seed)
    drawn_R = np.zeros(ASSIGNMENTS)
    for difference_Q in parts:
        # Equal sizes are told apart by how many of them are positive, which is binomial.
        size_U, count_U = np.unique(np.abs(difference_Q), return_counts=True)
        positive_RU = rng.binomial(count_U, 0.5, size=(ASSIGNMENTS, len(count_U)))
        drawn_R += (2 * positive_RU - count_U) @ size_U / len(difference_Q)
    found = abs(sum(float(difference_Q.mean()) for difference_Q in parts))
    return float((1 + (np.abs(drawn_R) >= found - 1e-12).sum()) / (1 + ASSIGNMENTS))


def markdown(runs: Sequence[Run], lines: Sequence[Line]) -> str:
    """The comparison as a Markdown page."""
    header = ["task", "candidates", "queries", "metric", *(run.name for run in runs)]
    rows = [f"| {' | '.join(header)} |", f"|---|---|---:|---|{'---:|' * len(runs)}"]
    for line in lines:
        cells = [line.title, line.candidates, str(line.num_queries), line.metric, *_cells(line)]
        rows.append(f"| {' | '.join(cells)} |")
    title = f"# {runs[0].name} beside {', '.join(run.name for run in runs[1:])}"
    return "\n".join([title, "", *rows, "", _caption(runs), ""])


def _values(run: Run, table: Mapping[Row, Mapping[str, Any]], row: Row, metric: str) -> NDArray[np.float64]:
    result = table[row]
    chosen = result["task"]["headline"] if metric == HEADLINE else metric
    if chosen not in result["values"]:
        known = ", ".join(result["values"])
        raise ReportError(f"run {run.name}: {row[0]} has no metric '{chosen}', it has: {known}")
    return np.asarray(result["values"][chosen], dtype=np.float64)


def _check_queries(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> None:
    for run, result in zip(runs[1:], results[1:], strict=True):
        if list(result["ranks"]) != list(results[0]["ranks"]):
            raise ReportError(
                f"runs {runs[0].name} and {run.name} asked other queries of {result['task']['name']}: "
                f"{results[0]['num_queries']} and {result['num_queries']}"
            )


def _line(title: str, candidates: str, metric: str, values: Sequence[Sequence[NDArray[np.float64]]]) -> Line:
    """A task, or the mean of several; `values` are of each run and task."""
    first = values[0]
    differences = []
    for other in values[1:]:
        parts = [theirs_Q - ours_Q for theirs_Q, ours_Q in zip(other, first, strict=True)]
        drawn_B = np.mean([resampled(part_Q, seed=number) for number, part_Q in enumerate(parts)], axis=0)
        low, high = np.percentile(drawn_B, [2.5, 97.5])
        value = float(np.mean([part_Q.mean() for part_Q in parts]))
        differences.append(Difference(value, float(low), float(high), randomisation(parts)))
    means = tuple(float(np.mean([part_Q.mean() for part_Q in parts])) for parts in values)
    return Line(title, candidates, metric, sum(map(len, first)), means, tuple(differences))


def _corrected(lines: Sequence[Line]) -> list[Line]:
    """The lines with Holm's verdict on every difference."""
    all_p = sorted(change.p for line in lines for change in line.differences)
    accepted = 0
    for rank, p in enumerate(all_p):
        if p > LEVEL / (len(all_p) - rank):
            break
        accepted = rank + 1
    bound = all_p[accepted - 1] if accepted else -1.0
    return [
        replace(line, differences=tuple(replace(each, is_significant=each.p <= bound) for each in line.differences))
        for line in lines
    ]


def _named(run: Run, task: str, metric: str) -> Iterable[tuple[str, float]]:
    """Numbers of a name: of a task, or of every table."""
    for row in run.report["results"]:
        names = {row["task"]["name"], row["task"]["title"], *row["task"].get("aliases", [])}
        chosen = row["task"]["headline"] if metric == HEADLINE else metric
        if task in names and chosen in row["metrics"]:
            yield f"{row['task']['title']} ({row['task']['candidates']})", row["metrics"][chosen]
    if task:
        return
    means = [mean for mean in run.report["means"] if mean["name"] == "mean over tasks"]
    for mean in means:
        if metric in mean["metrics"]:
            yield f"{mean['table']}, mean over tasks,", mean["metrics"][metric]
    if not means:
        for row in run.report["results"]:
            chosen = row["task"]["headline"] if metric == HEADLINE else metric
            if chosen in row["metrics"]:
                yield f"{row['task']['title']} ({row['task']['candidates']})", row["metrics"][chosen]


def _candidates(candidates: str, exact: bool) -> str:
    return f"{candidates}, exact" if exact else candidates


def _cells(line: Line) -> list[str]:
    """The first run's value, then each other's with its difference, marked where it is significant."""
    first, *others = line.values
    cells = [f"{first:.4f}"]
    for value, change in zip(others, line.differences, strict=True):
        mark = "*" if change.is_significant else ""
        cells.append(f"{value:.4f} ({change.value:+.4f}{mark})")
    return cells


def _caption(runs: Sequence[Run]) -> str:
    return (
        f"In brackets: the difference from {runs[0].name}, query by query. *: significant at 5 % over all differences "
        "of the table together (randomisation test, Holm's correction). Without a mark, chance may have made it."
    )


def _table(runs: Sequence[Run], lines: Sequence[Line]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=_caption(runs), caption_justify="left")
    for column in ("task", "candidates"):
        grid.add_column(column, no_wrap=True)
    for column in ("queries", "metric", *(run.name for run in runs)):
        grid.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        style = "bold" if line.title == "mean over tasks" else None
        cells = [line.title, line.candidates, str(line.num_queries), line.metric, *_cells(line)]
        grid.add_row(*map(Text, cells), style=style)
    return grid


def _as_json(runs: Sequence[Run], lines: Sequence[Line]) -> dict[str, Any]:
    return {"runs": [run.name for run in runs], "level": LEVEL, "lines": [asdict(line) for line in lines]}


def _draw(runs: Sequence[Run], lines: Sequence[Line], path: Path) -> None:
    """Differences from the first run with their intervals; filled marks are significant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * len(lines) * max(1, len(runs) - 1)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=1)
    for number, run in enumerate(runs[1:]):
        shift = 0.6 * (number - (len(runs) - 2) / 2) / max(1, len(runs) - 1)
        for place, line in enumerate(lines):
            change = line.differences[number]
            label = run.name if place == 0 else None
            axes.plot([change.low, change.high], [place + shift] * 2, color=f"C{number}", linewidth=1.5)
            fill = f"C{number}" if change.is_significant else "white"
            axes.plot(change.value, place + shift, "o", color=f"C{number}", markerfacecolor=fill, label=label)
    axes.set_yticks(range(len(lines)), [f"{line.title} ({line.candidates})" for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel(f"difference from {runs[0].name}; bars: 95 % intervals; filled: significant")
    axes.legend(loc="best")
    figure.savefig(path, dpi=120)
