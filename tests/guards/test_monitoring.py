"""Alerts and the dashboard ask for metrics that there are, with labels that they have, and each alert has its row."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from anykey.service.logs import LogEvent
from anykey.service.operations.metrics import METRICS, OF_PROCESS
from anykey.service.operations.stage_times import STAGES
from tests.guards.checkout import ROOT
from tests.guards.test_documented import rows_of

FOLDER = ROOT / "docker" / "monitoring"
KNOWN = {**METRICS, **OF_PROCESS}
BY_PROMETHEUS = {"up", "job", "instance", "le"}
NAME = re.compile(r"\b((?:anykey|process)_\w+|up)\b\s*(\{[^}]*\})?")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|ignoring|on|without) \(([^)]*)\)")
ROWS = rows_of(ROOT / "docs" / "runbook.md")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and each expression."""
    yield from ((rule["alert"], rule["expr"]) for rule in rules())
    for panel in panels():
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def metric_of(name: str) -> str:
    """The metric that a name in an expression is of."""
    bare = re.sub(r"_(bucket|count|sum)$", "", name)
    return name if name in KNOWN else bare


def faults_of(expression: str) -> list[str]:
    """What an expression asks for that there is not."""
    faults, labels = [], set(BY_PROMETHEUS)
    for name, selector in NAME.findall(expression):
        if name in BY_PROMETHEUS:
            continue
        metric = KNOWN.get(metric_of(name))
        if metric is None or (metric.kind == "histogram") is not (name != metric.name):
            faults.append(name)
            continue
        labels |= set(metric.labels)
        for label, value in LABEL.findall(selector):
            if label not in (*metric.labels, *BY_PROMETHEUS):
                faults.append(f"{name}: {label}")
            elif label == "event" and not set(value.split("|")) <= set(map(str, LogEvent)):
                faults.append(f"{name}: event {value}")
            elif label == "stage" and value not in STAGES:
                faults.append(f"{name}: stage {value}")
    grouped = {label.strip() for group in GROUPED.findall(expression) for label in group.split(",")}
    return faults + [f"by {label}" for label in sorted(grouped - labels)]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_asks_for_what_there_is(where: str, expression: str) -> None:
    assert NAME.search(expression), f"{where} asks for nothing of ours"
    assert faults_of(expression) == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_has_a_row_and_says_what_is_wrong(rule: dict[str, Any]) -> None:
    row = ROWS.get(rule["alert"])
    assert row is not None, "docs/runbook.md says what to look at and what to do"
    assert len(row) == 3
    assert min(map(len, row)) > 8
    assert rule["labels"]["severity"] in ("page", "warn")
    assert rule["annotations"]["summary"]


def test_there_is_no_row_of_an_alert_that_there_is_not() -> None:
    assert {name for name in ROWS if name.startswith("AnyKey")} == {rule["alert"] for rule in rules()}


def test_panels_lie_beside_each_other() -> None:
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.parametrize(
    ("expression", "faults"),
    [
        ('anykey_index_ready{index="a"} == 0', []),
        ("rate(anykey_index_gone[5m])", ["anykey_index_gone"]),
        ("rate(anykey_stage_seconds[5m])", ["anykey_stage_seconds"]),
        ('anykey_index_ready{route="a"}', ["anykey_index_ready: route"]),
        ('anykey_log_events_total{event="nothing"}', ["anykey_log_events_total: event nothing"]),
        ("sum by (key) (anykey_index_ready)", ["by key"]),
    ],
)
def test_the_guard_sees_what_there_is_not(expression: str, faults: list[str]) -> None:
    assert faults_of(expression) == faults
    assert Path(FOLDER).is_dir()
