"""The report's pictures: SVG that takes its colours from the page, so that it fits light, dark and print.

matplotlib is used without pyplot and without changing its settings for anybody else.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anykey.training.report.history import Curve
from anykey.training.report.projection import Plane
from anykey.training.report.snapshot import BIN_EDGES, Snapshot
from anykey.training.validation import MODALITIES

MODALITY_NAMES = {"i": "image", "t": "text", "it": "fused"}
# Colours drawn with, and what the page makes of them.
_INK, _FAINT = "#010101", "#020202"
_SERIES = ("#030303", "#040404", "#050505", "#060606")
_PAGE_COLOURS = {
    _INK: "var(--ink-soft)",
    _FAINT: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "anykey",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_HISTOGRAM_NAMES = {
    "true_cross": "one photo, different modality",
    "true_same": "one photo, both texts",
    "random_same": "two photos, same modality",
    "random_cross": "two photos, different modality",
}
# Room around the axes in inches: at the left for numbers and a name, at the right for half a number, and so on.
# A layout that matplotlib works out by itself draws every picture twice.
_LEFT, _RIGHT, _BETWEEN, _BOTTOM, _TOP = 0.62, 0.18, 0.42, 0.46, 0.12
_TITLE, _LEGEND_LINE = 0.2, 0.22
_LINKED_PHOTOS = 25
_MAX_PX_PER_INCH = 125


def draw_curves(name: str, title: str, curves: Mapping[str, Curve], percent: bool = False) -> Markup:
    """One small chart of values over steps.

    Args:
        name: A word for the chart, unique on the page.
        title: What it shows.
        curves: By label, at most four of them; a single one needs no legend.
        percent: Whether values are shares, shown in percent.
    """
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(4.6, 2.7, 1)
        for colour, (label, (steps, values)) in zip(_SERIES, curves.items(), strict=False):
            marker = "o" if len(steps) <= 30 else None
            axes.plot(steps, values, color=colour, linewidth=1.5, marker=marker, markersize=3, label=label)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(curves) > 1:
            axes.legend(loc="best", fontsize=8)
        return _svg(figure, name, title)


def common_plane(states: Mapping[str, Snapshot]) -> Plane:
    """The principal components of all modalities in all states together; they are of one width."""
    return Plane.fit(np.concatenate([rows for state in states.values() for rows in state.vectors.values()]))


def draw_planes(plane: Plane, states: Mapping[str, Snapshot]) -> Markup:
    """The three modalities of every state, on the same axes.

    Args:
        plane: What they are drawn on, of `common_plane`.
        states: Snapshots by name; the points of one photo lie in the same row of each modality.
    """
    with mpl.rc_context(_STYLE):
        figure, panels = _figure(4.6 * len(states), 4.3, len(states), share_y=True, above=_TITLE)
        for axes, (name, state) in zip(panels, states.items(), strict=True):
            _draw_plane(axes, plane, state)
            axes.set_title(name)
            axes.set_xlabel("first principal component")
        panels[0].set_ylabel("second principal component")
        panels[0].legend(loc="best", markerscale=2, handletextpad=0.2)
        label = f"Principal components of image, text and fused vectors ({' and '.join(states)})"
        return _svg(figure, "planes", label)


def draw_histograms(states: Mapping[str, Snapshot]) -> Markup:
    """How alike the vectors of one photo and of different photos are, in every state.

    Args:
        states: Snapshots by name.
    """
    with mpl.rc_context(_STYLE):
        columns = 2 if len(states) == 1 else 4
        legend = -(-len(_HISTOGRAM_NAMES) // columns) * _LEGEND_LINE
        figure, panels = _figure(4.6 * len(states), 3.0, len(states), above=_TITLE, below=legend)
        for axes, (name, state) in zip(panels, states.items(), strict=True):
            for colour, (kind, label) in zip(_SERIES, _HISTOGRAM_NAMES.items(), strict=True):
                counts = state.histograms[kind]
                if counts.sum():
                    share = counts / counts.sum()
                    axes.stairs(share, BIN_EDGES, color=colour, fill=True, alpha=0.15)
                    line = "--" if kind == "random_cross" else "-"
                    axes.stairs(share, BIN_EDGES, color=colour, linewidth=1.4, linestyle=line, label=label)
            axes.set_title(name)
            axes.set_xlabel("cosine")
            axes.set_xlim(*_shown_range(states))
        panels[0].set_ylabel("share of the pairs")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=8, borderaxespad=0.2)
        return _svg(figure, "histograms", f"Histograms of cosines ({' and '.join(states)})")


def _draw_plane(axes: Axes, plane: Plane, state: Snapshot) -> None:
    points = {name: plane.points(state.vectors[name]) for name in MODALITIES}
    for image, text in zip(points["i"][:_LINKED_PHOTOS], points["t"][:_LINKED_PHOTOS], strict=True):
        axes.plot([image[0], text[0]], [image[1], text[1]], color=_INK, linewidth=0.5, alpha=0.35, zorder=1)
    for colour, (name, of_photos) in zip(_SERIES, points.items(), strict=False):
        label = MODALITY_NAMES[name]
        axes.scatter(
            of_photos[:, 0], of_photos[:, 1], s=9, color=colour, alpha=0.65, linewidths=0, label=label, zorder=2
        )
    axes.set_aspect("equal", adjustable="box")


def _shown_range(states: Mapping[str, Snapshot]) -> tuple[float, float]:
    """The part of [-1, 1] in which there is anything, with a little room."""
    used = np.sum([counts for state in states.values() for counts in state.histograms.values()], axis=0) > 0
    if not used.any():
        return -1.0, 1.0
    return float(BIN_EDGES[:-1][used].min()) - 0.05, float(BIN_EDGES[1:][used].max()) + 0.05


def _figure(
    width: float, height: float, columns: int, share_y: bool = False, above: float = 0.0, below: float = 0.0
) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, and more room above and below them if titles or a legend need it."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, columns, squeeze=False, sharex=True, sharey=share_y)
    between = _RIGHT if share_y else _BETWEEN
    panel = (width - _LEFT - _RIGHT - (columns - 1) * between) / columns
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        bottom=(_BOTTOM + below) / height,
        top=1 - (_TOP + above) / height,
        wspace=between / panel,
    )
    return figure, panels[0]


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The drawing as an element of the page: its colours, and ids that no other picture has."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, replacement in _PAGE_COLOURS.items():
        text = text.replace(colour, replacement)
    text = re.sub(r'id="', f'id="{name}-', text)
    text = re.sub(r"(url\(|href=\")#", rf"\1#{name}-", text)
    text = re.sub(r'(<svg .*?)width="[^"]*"', r"\1", text, count=1, flags=re.DOTALL)
    text = re.sub(r'height="[^"]*pt"', "", text, count=1)
    described = Markup('<svg role="img" aria-label="{}" style="max-width: {:.0f}px"')
    described = described.format(label, figure.get_figwidth() * _MAX_PX_PER_INCH)
    return Markup(text.replace("<svg", described, 1))
