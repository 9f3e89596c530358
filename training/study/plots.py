"""A study's pictures, as PNG; colours of Okabe and Ito, told apart by the colour-blind, and never by colour alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from anykey.training.report.projection import Plane
from anykey.training.study.evaluation import Trial
from anykey.training.study.measures import GR_CLIP, PLAIN, POOLS
from anykey.training.study.results import Results
from anykey.training.study.settings import StudyFusion
from anykey.training.validation import MODALITIES, HeldOut

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
_SKY, _BLACK, _GREY = "#56B4E9", "#000000", "#777777"
_COLOURS = (_BLACK, _BLUE, _SKY, _PURPLE, _ORANGE, _RED, _GREEN, _GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_DPI = 130
LOCAL, MIXED, GAP = "local/mean/success@10", "mixed/mean/success@10", "gap/i-t"


def plot_bars(results: Results, path: Path) -> None:
    """Success@10 by variant: local pools, mixed pool, mixed pool after centring; a panel for each fusion."""
    bars = (
        ("local pools", PLAIN, LOCAL, _BLUE, ""),
        ("mixed pool", PLAIN, MIXED, _ORANGE, "//"),
        ("mixed pool, centred", GR_CLIP, MIXED, _GREEN, ".."),
    )
    figure = Figure(
        figsize=(4.6 * len(results.fusions) + 1.2, 0.55 * len(results.variants) + 1.6), layout="constrained"
    )
    axes = figure.subplots(1, len(results.fusions), sharex=True, sharey=True, squeeze=False)[0]
    for axis, fusion in zip(axes, results.fusions, strict=True):
        for place, (label, centring, name, colour, hatch) in enumerate(bars):
            _bars(axis, results, fusion, centring, name, place, label=label, color=colour, hatch=hatch)
        axis.set(title=f"{fusion} fusion", xlabel="success@10, mean of five combinations")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks([row + 0.26 for row in range(len(results.variants))], results.variants)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=_DPI)


def plot_front(results: Results, path: Path) -> None:
    """Success@10 in the local pools against the mixed pool: each variant's mean, and its deviation over the seeds."""
    figure = Figure(figsize=(5.2 * len(results.fusions) + 1.2, 4.6), layout="constrained")
    axes = figure.subplots(1, len(results.fusions), sharex=True, sharey=True, squeeze=False)[0]
    for axis, fusion in zip(axes, results.fusions, strict=True):
        for place, variant in enumerate(results.variants):
            local, mixed = (results.spread(variant, fusion, PLAIN, name) for name in (LOCAL, MIXED))
            if local is None or mixed is None:
                continue
            style = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
            errors = {"xerr": local.deviation or 0.0, "yerr": mixed.deviation or 0.0}
            axis.errorbar(
                local.mean, mixed.mean, **errors, label=variant, linestyle="", capsize=2, markersize=8, **style
            )
        axis.set(title=f"{fusion} fusion", xlabel="local pools, success@10")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="mixed pool, success@10")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=_DPI)


def plot_search(trials: Sequence[Trial], setting: str, path: Path) -> None:
    """Success@10 on the validation pairs by a setting of the search: each variant's best over the other settings."""
    values = list(dict.fromkeys(trial.run.point[setting] for trial in trials))
    figure = Figure(figsize=(5.2 * len(POOLS) + 1.2, 4.2), layout="constrained")
    axes = figure.subplots(1, len(POOLS), squeeze=False)[0]
    for place, variant in enumerate(dict.fromkeys(trial.run.variant for trial in trials)):
        of_variant = [trial for trial in trials if trial.run.variant == variant]
        best = [
            max((t for t in of_variant if t.run.point[setting] == value), key=lambda t: t.value) for value in values
        ]
        style = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
        for axis, pool in zip(axes, POOLS, strict=True):
            axis.plot([trial.scores[pool] for trial in best], label=variant, alpha=0.8, **style)
    for axis, pool in zip(axes, POOLS, strict=True):
        axis.set(title=f"{pool} pool{'s' * (pool == 'local')}", xlabel=setting.replace("_", " "))
        axis.set_xticks(range(len(values)), [str(value) for value in values])
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="success@10, validation pairs")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=_DPI)


def plot_gap(results: Results, path: Path) -> None:
    """Distance of the image and text centroids against success@10 in the mixed pool: a mark for each seed."""
    figure = Figure(figsize=(4.6 * len(results.fusions) + 1.2, 4.4), layout="constrained")
    axes = figure.subplots(1, len(results.fusions), sharex=True, sharey=True, squeeze=False)[0]
    for axis, fusion in zip(axes, results.fusions, strict=True):
        for place, variant in enumerate(results.variants):
            gap, mixed = (results.spread(variant, fusion, PLAIN, name) for name in (GAP, MIXED))
            if gap is None or mixed is None:
                continue
            style = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
            axis.scatter([*gap.values.values()], [*mixed.values.values()], label=variant, alpha=0.8, **style)
        axis.set(title=f"{fusion} fusion", xlabel="centroid gap, image to text")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="mixed pool, success@10", ylim=(0, None))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=_DPI)


def plot_spaces(encoders: Mapping[str, HeldOut], path: Path) -> None:
    """The keys of the three modalities on the first two principal components, a panel for each encoder."""
    figure = Figure(figsize=(4.4 * len(encoders) + 0.6, 4.4), layout="constrained")
    axes = figure.subplots(1, len(encoders), squeeze=False)[0]
    names = {"i": "image", "t": "text", "it": "image and text"}
    styles = {"i": (_BLUE, "o"), "t": (_ORANGE, "^"), "it": (_GREEN, "s")}
    for axis, (title, held_out) in zip(axes, encoders.items(), strict=True):
        keys = {name: held_out.keys[name].float().cpu().numpy() for name in MODALITIES}
        plane = Plane.fit(np.concatenate([*keys.values()]))
        for name, rows in keys.items():
            colour, marker = styles[name]
            axis.scatter(*plane.points(rows).T, s=5, alpha=0.5, color=colour, marker=marker, label=names[name])
        axis.set(title=title, xlabel=f"two components: {plane.share:.0%} of the variance", aspect="equal")
    axes[0].legend(markerscale=3)
    figure.savefig(path, dpi=_DPI)


def _bars(axis: Any, results: Results, fusion: StudyFusion, centring: str, name: str, place: int, **style: Any) -> None:
    spreads = [results.spread(variant, fusion, centring, name) for variant in results.variants]
    rows = [row + 0.26 * place for row, spread in enumerate(spreads) if spread]
    means = [spread.mean for spread in spreads if spread]
    errors = [spread.deviation or 0.0 for spread in spreads if spread]
    axis.barh(rows, means, 0.24, xerr=errors, edgecolor="white", error_kw={"capsize": 2}, **style)
