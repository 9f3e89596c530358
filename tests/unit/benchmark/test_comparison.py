"""Runs are compared query by query, and a gate is closed by numbers that are too low or fell."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anykey.benchmark.__main__ import main
from anykey.benchmark.comparison import Run, compared, randomisation


def report(values: dict[str, list[float]], path: Path) -> Path:
    """A run's directory: tasks and each query's success@5."""
    rows = [
        {
            "task": {"name": name, "title": name, "aliases": [], "candidates": "local", "headline": "success@5"},
            "exact": False,
            "num_queries": len(each),
            "metrics": {"success@5": sum(each) / len(each)},
            "values": {"success@5": each},
            "ranks": {f"q{number}": [] for number in range(len(each))},
        }
        for name, each in values.items()
    ]
    mean = sum(row["metrics"]["success@5"] for row in rows) / len(rows)  # type: ignore[index]
    means = [{"name": "mean over tasks", "table": "Local pool", "metrics": {"success@5": mean, "headline": mean}}]
    path.mkdir()
    content = {"results": rows, "means": means if len(rows) > 1 else []}
    (path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def shares(seed: int, size: int, truth: float) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < truth) for _ in range(size)]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that differ by chance alone in task a, and by much in task b; a third that is the first again."""
    first = {"a": shares(1, 200, 0.5), "b": shares(2, 200, 0.3)}
    second = {"a": shares(3, 200, 0.5), "b": shares(4, 200, 0.6)}
    return [report(each, tmp_path / name) for name, each in (("old", first), ("new", second), ("same", first))]


def test_only_what_chance_did_not_make_is_significant(runs: list[Path]) -> None:
    a, b, mean = compared([Run.read(path) for path in runs])
    assert [line.title for line in (a, b, mean)] == ["a", "b", "mean over tasks"]
    assert [line.differences[0].is_significant for line in (a, b, mean)] == [False, True, True]
    assert [line.differences[1].is_significant for line in (a, b, mean)] == [False, False, False]
    assert b.differences[0].value == pytest.approx(b.values[1] - b.values[0])
    assert b.differences[0].low < b.differences[0].value < b.differences[0].high
    assert mean.values[0] == pytest.approx((a.values[0] + b.values[0]) / 2)
    assert {line.differences[1].p for line in (a, b, mean)} == {1.0}


def test_p_values_are_those_of_all_assignments_of_signs() -> None:
    differences = np.array([1.0, 1, 1, -1, 0, 1, 0.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    means = np.abs(signs.T @ np.abs(differences)) / len(differences)
    exact = float((means >= abs(differences.mean()) - 1e-12).mean())
    assert randomisation([differences]) == pytest.approx(exact, abs=0.02)


def test_without_a_difference_few_are_called_significant() -> None:
    rng = np.random.default_rng(0)
    found = [randomisation([rng.choice([-1.0, 0.0, 1.0], size=50)], seed=number) for number in range(200)]
    assert 0.01 <= sum(p <= 0.05 for p in found) / 200 <= 0.09


def test_many_tasks_are_corrected_for(tmp_path: Path) -> None:
    """Of forty tasks without a difference two would be called significant by chance; none is."""
    first, second = ({f"t{n}": shares(n + 100 * side, 60, 0.5) for n in range(40)} for side in (1, 2))
    lines = compared([Run.read(report(first, tmp_path / "x")), Run.read(report(second, tmp_path / "y"))])
    assert min(line.differences[0].p for line in lines) < 0.05
    assert not any(line.differences[0].is_significant for line in lines)


def test_the_command_writes_a_table_and_a_picture(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--runs", ",".join(map(str, runs)), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "# old beside new, same" in page
    for text in (said, page):
        assert "*)" in text
        assert "(+0.0000)" in text
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [line["differences"][0]["is_significant"] for line in written["lines"]] == [False, True, True]
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", "missing does not exist: expected the output of anykey-bench quality"),
        ("other", "have no task in common"),
        ("fewer", "asked other queries of a: 200 and 3"),
        ("broken", "is no report of this version"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    runs: list[Path], tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / change
    if change == "other":
        report({"z": [1.0]}, other)
    elif change == "fewer":
        report({"a": [1.0, 0.0, 1.0]}, other)
    elif change == "broken":
        other.mkdir()
        (other / "results.json").write_text('{"results": [{}]}')
    assert main(["compare", "--runs", f"{runs[0]},{other}", "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_an_unknown_metric_is_refused_with_those_there_are(runs: list[Path], tmp_path: Path, capsys: Any) -> None:
    assert (
        main(["compare", "--runs", f"{runs[0]},{runs[1]}", "--metric", "speed", "--output", str(tmp_path / "o")]) == 2
    )
    assert "has no metric 'speed', it has: success@5" in capsys.readouterr().err.replace("\n", " ")
