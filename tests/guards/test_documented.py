"""Every metric, log event and setting is documented, with what it means and what to do about it."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from anykey.service.logs import LogEvent
from anykey.service.operations.metrics import METRICS, OF_PROCESS, Metric
from anykey.service.settings import ServiceSettings
from tests.guards.checkout import ROOT

FEWEST_CHARS = 4  # of a meaning or an advice


def rows_of(page: Path) -> dict[str, list[str]]:
    """The cells of each row of the page's tables, by each name in its first cell."""
    rows = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows |= {name: cells for name in re.findall(r"`([^`]+)`", cells[0])}
    return rows


OPERATIONS = rows_of(ROOT / "docs" / "operations.md")
METRIC_ROWS = rows_of(ROOT / "docs" / "metrics.md")
ALL_METRICS = {**METRICS, **OF_PROCESS}


@dataclass(frozen=True)
class Wanted:
    """A row that must be there.

    Attributes:
        rows: Of which page.
        name: What its first cell names.
        cells: What it must have, by the number of the cell.
    """

    rows: dict[str, list[str]]
    name: str
    cells: dict[int, str]


def of_setting(name: str) -> Wanted:
    field = ServiceSettings.model_fields[name]
    return Wanted(
        OPERATIONS, f"--{name.replace('_', '-')}", {1: f"`ANYKEY_{name.upper()}`", 3: field.description or "?"}
    )


def of_metric(metric: Metric) -> Wanted:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return Wanted(METRIC_ROWS, metric.name, {1: f"{metric.kind}: {labels}" if labels else metric.kind})


WANTED = [
    *map(of_setting, ServiceSettings.model_fields),
    *(Wanted(OPERATIONS, str(event), {}) for event in LogEvent),
    *map(of_metric, ALL_METRICS.values()),
]


def missing_of(wanted: Wanted) -> str:
    """What the row lacks; empty where it lacks nothing."""
    row = wanted.rows.get(wanted.name)
    if row is None or len(row) != 4:
        return "a row of four cells"
    for number, cell in wanted.cells.items():
        if row[number] != cell:
            return f"cell {number + 1} to be {cell}"
    return "" if min(len(row[2]), len(row[3])) >= FEWEST_CHARS or wanted.cells.get(3) else "a meaning and an advice"


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_it_is_documented(wanted: Wanted) -> None:
    assert missing_of(wanted) == ""


def test_no_metric_is_documented_that_there_is_not() -> None:
    assert METRIC_ROWS.keys() == ALL_METRICS.keys()


@pytest.mark.parametrize(
    ("row", "is_enough"),
    [
        ("| `x` | counter: `a` | what it is | what to do |", True),
        ("| `x` | counter: `b` | what it is | what to do |", False),
        ("| `x` | counter: `a` | what it is | - |", False),
        ("| `x` | counter: `a` | what it is |", False),
        ("| `y` | counter: `a` | what it is | what to do |", False),
    ],
)
def test_the_guard_sees_what_is_missing(row: str, is_enough: bool, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(row)
    wanted = Wanted(rows_of(tmp_path / "page.md"), "x", {1: "counter: `a`"})
    assert (missing_of(wanted) == "") is is_enough
