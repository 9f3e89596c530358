"""One self-contained page about a run: `report.html` needs no network and no other file."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from anykey.program.files import replace_file
from anykey.program.page import arrow, render_page, shown
from anykey.training.report.about import About
from anykey.training.report.examples import example_lists
from anykey.training.report.history import Curve, read_history, thinned
from anykey.training.report.pictures import MODALITY_NAMES, common_plane, draw_curves, draw_histograms, draw_planes
from anykey.training.report.snapshot import MAX_PHOTOS, Snapshot
from anykey.training.report.tables import gap_tables, headline_tables, success_grids, success_tables


@dataclass(frozen=True)
class _Chart:
    """One chart of the curves: what it shows, and under which names `metrics.jsonl` has it."""

    title: str
    curves: Mapping[str, str]
    percent: bool = False


_CHARTS = (
    _Chart("Loss", {"loss": "train/loss"}),
    _Chart("Temperature", {"temperature": "train/temperature"}),
    _Chart("Gradient norm, before clipping", {"gradient norm": "train/gradient_norm"}),
    _Chart("Learning rate", {"learning rate": "train/learning_rate"}),
    _Chart("Pairs per second", {"rate": "train/pairs_per_s"}),
    _Chart(
        "Held-out success@10, means",
        {"local pools": "val/local/mean/success@10", "mixed pool": "val/mixed/mean/success@10"},
        percent=True,
    ),
    _Chart(
        "Distance of mean vectors",
        {
            "image - text": "val/gap/i-t",
            "image - fused": "val/gap/i-it",
            "text - fused": "val/gap/t-it",
            "image - text, batch": "train/gap",
        },
    ),
)


def write_report(
    path: Path,
    run_name: str,
    about: About,
    metrics_jsonl: Path,
    before: Snapshot | None,
    after: Snapshot | None,
) -> None:
    """Writes the page, aside and then renamed.

    Args:
        path: Where to, in the run folder: the page names the checkpoint `best` beside it.
        run_name: What the run is called.
        about: What the run says of itself.
        metrics_jsonl: The run's measurements; may be missing, or end in half a line.
        before: The start on the held-out pairs; `None` without held-out pairs.
        after: The checkpoint `best` on them.

    Raises:
        OSError: the page cannot be written, or the measurements not read.
    """
    states = {name: state for name, state in (("before", before), ("after", after)) if state is not None}
    page = render_page(
        (files("anykey.training.report") / "template.html").read_text(encoding="utf-8"),
        {"arrow": partial(arrow, between=" > ")},
        run_name=run_name,
        about=about,
        settings=[(name, shown(value)) for name, value in about.settings.items()],
        charts=_charts(read_history(metrics_jsonl)),
        states=list(states),
        checkpoint=shlex.quote(str(path.parent / "best")),
        **(_held_out(states, about) if states else {}),
    )
    replace_file(path, page.encode())


def _held_out(states: Mapping[str, Snapshot], about: About) -> dict[str, Any]:
    """What the page says about the held-out pairs."""
    plane = common_plane(states)
    last = list(states.values())[-1]
    return {
        "num_pairs": last.num_pairs,
        "num_asked": last.num_asked,
        "examples": example_lists(states, about.pairs),
        "num_photos": min(last.num_pairs, MAX_PHOTOS),
        "modalities": list(MODALITY_NAMES.values()),
        "headlines": headline_tables(states),
        "grids": success_grids(states),
        "success": success_tables(states),
        "gaps": gap_tables(states),
        "planes": draw_planes(plane, states),
        "plane_share": plane.share,
        "histograms": draw_histograms(states),
    }


def _charts(history: Mapping[str, Curve]) -> Sequence[tuple[str, Markup]]:
    """A chart for each kind of number there is; one nobody planned for gets its own."""
    planned = {name for chart in _CHARTS for name in chart.curves.values()}
    others = [_Chart(name, {name: name}) for name in history if name.startswith("train/") and name not in planned]
    drawn = []
    for number, chart in enumerate([*_CHARTS, *others]):
        curves = {label: thinned(history[name]) for label, name in chart.curves.items() if name in history}
        if curves:
            drawn.append((chart.title, draw_curves(f"curve{number}", chart.title, curves, chart.percent)))
    return drawn
