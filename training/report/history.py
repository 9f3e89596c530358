"""What a run's `metrics.jsonl` holds, as curves."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_POINTS = 600
# Where a point is, not what was measured there.
_POSITIONS = {"step", "pairs"}

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]


def read_history(path: Path) -> dict[str, Curve]:
    """Steps and values of every number, by name, in the order of the steps.

    A step that a resumed run repeated counts as it was last. A line that is no JSON object, as the last one of a run
    that was killed may be, is passed over; so is a missing file.

    Raises:
        OSError: the file is there and cannot be read.
    """
    values: dict[str, dict[int, float]] = {}
    for row in _rows(path):
        for name, value in row.items():
            if name not in _POSITIONS and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(name, {})[row["step"]] = float(value)
    return {name: _curve(points) for name, points in values.items()}


def thinned(curve: Curve) -> Curve:
    """At most about `MAX_POINTS` points: the means of as many neighbours as it takes."""
    stride = math.ceil(len(curve[0]) / MAX_POINTS)
    if stride <= 1:
        return curve
    starts = np.arange(0, len(curve[0]), stride)
    sizes = np.diff(np.append(starts, len(curve[0])))
    steps, values = (np.add.reduceat(numbers, starts) / sizes for numbers in curve)
    return steps, values


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def _curve(points: dict[int, float]) -> Curve:
    steps = sorted(points)
    return np.array(steps, dtype=np.float64), np.array([points[step] for step in steps])
