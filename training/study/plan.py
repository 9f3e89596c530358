"""What is run: one start a seed, and from it each variant, once for every fusion that its loss knows."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anykey.training.errors import InvalidRecipeError
from anykey.training.run_settings import run_settings
from anykey.training.settings import TrainSettings
from anykey.training.study.settings import NATIVE, START, StudyFusion, StudySettings, Variant

# What the study decides, and what a comparison holds equal.
_DECIDED = {"data", "val_data", "output", "start", "image_weights", "feature_cache", "device", "seed", "fusion"}
_EQUAL = {"batch_size", "num_epochs"}


@dataclass(frozen=True)
class Run:
    """One training run of the plan.

    Attributes:
        variant: Name of its variant, or `start`.
        seed: Its seed.
        fusions: The fusions that its checkpoint is measured with: its own, or all where its loss knows none.
        settings: What the trainer is told.
        needs: Folder of the run it starts from.
        point: The settings of the plan's search that it runs with.
        share: Where on the line from its start to what it leaves it is measured; runs that differ in it alone are one
            training.
    """

    variant: str
    seed: int
    fusions: tuple[StudyFusion, ...]
    settings: TrainSettings
    needs: Path | None = None
    point: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.settings.output

    @property
    def checkpoint(self) -> Path:
        """What it leaves.

        Its last weights, not its best: all variants are compared after equally many steps, and a best taken by
        the mixed pool's score would choose among steps by what is reported.
        """
        return self.folder / "last"


def make_plan(settings: StudySettings, chosen: Mapping[str, Mapping[str, Any]] | None = None) -> list[Run]:
    """All runs, in an order in which every run comes after the one it needs.

    Args:
        settings: The study.
        chosen: By variant, what its search chose. Variants without an entry run as the plan has them.

    Raises:
        InvalidRecipeError: a run's settings are wrong, or a variant changes what the comparison holds equal.
    """
    points = {name: [point] for name, point in (chosen or {}).items()}
    return _make_plan(settings, settings.seeds, _chosen_variants(settings), points)


def make_search(settings: StudySettings) -> list[Run]:
    """What is tried to choose each variant's settings: every point of the search, on the first seed.

    A point that is chosen needs no second run on that seed: it has the folder that it has in the plan.

    Raises:
        InvalidRecipeError: as of `make_plan`.
    """
    values = itertools.product(*settings.search.values())
    tried: list[Mapping[str, Any]] = [dict(zip(settings.search, each, strict=True)) for each in values]
    trained = {variant.of or variant.name for variant in _chosen_variants(settings)}
    variants = [variant for variant in settings.variants if variant.name in trained]
    return _make_plan(settings, settings.seeds[:1], variants, {variant.name: tried for variant in variants})


def _chosen_variants(settings: StudySettings) -> list[Variant]:
    return [variant for variant in settings.variants if not settings.only or variant.name in settings.only]


def _make_plan(
    settings: StudySettings, seeds: list[int], chosen: list[Variant], points: Mapping[str, list[Mapping[str, Any]]]
) -> list[Run]:
    _refuse("[search]", settings.search, _DECIDED, "which the study decides")
    _refuse("[search]", settings.search, _EQUAL, "which the comparison holds equal")
    for name in ("common", "start", "fine_tune"):
        _refuse(f"[{name}]", getattr(settings, name), _DECIDED, "which the study decides")
    for variant in chosen:
        _refuse(f"variant '{variant.name}'", variant.settings, _DECIDED, "which the study decides")
        _refuse(f"variant '{variant.name}'", variant.settings, _EQUAL, "which the comparison holds equal")
    starts = {seed: _start(settings, seed) for seed in seeds}
    by_name = {variant.name: variant for variant in settings.variants}
    tuned = [
        replace(_tuned(settings, trained, point, fusion, starts[seed]), variant=variant.name, share=variant.share)
        for seed in seeds
        for variant in chosen
        for trained in [by_name[variant.of or variant.name]]
        for point in points.get(trained.name, [{}])
        for fusion in (settings.fusions if trained.fusion_matters else [None])
    ]
    return [*starts.values(), *tuned]


def _refuse(where: str, values: Mapping[str, Any], names: set[str], reason: str) -> None:
    if given := sorted(names & values.keys()):
        raise InvalidRecipeError(f"{where} of the plan sets {', '.join(given)}, {reason}")


def _start(settings: StudySettings, seed: int) -> Run:
    values = _values(settings, START, seed) | settings.common | settings.start
    if settings.image_weights is not None:
        values["image_weights"] = settings.image_weights
    return Run(START, seed, tuple(settings.fusions), run_settings(f"{START}, seed {seed}", values))


def _tuned(
    settings: StudySettings, variant: Variant, point: Mapping[str, Any], fusion: StudyFusion | None, start: Run
) -> Run:
    name = variant.name if fusion is None else f"{variant.name}/{fusion}"
    if point:
        name += f"/{in_words(point)}"
    values = _values(settings, name, start.seed) | settings.common | settings.fine_tune | variant.settings | dict(point)
    values["start"] = str(start.checkpoint)
    if fusion not in (None, NATIVE):
        values["fusion"] = fusion
    measured_with = tuple(settings.fusions) if fusion is None else (fusion,)
    return Run(variant.name, start.seed, measured_with, run_settings(name, values), start.folder, point)


def in_words(point: Mapping[str, Any]) -> str:
    """A point of the search, as its folder is called.

    >>> in_words({"temperature": 0.01, "learning_rate": 0.002})
    'temperature=0.01,learning_rate=0.002'
    """
    return ",".join(f"{name}={value}" for name, value in point.items())


def _values(settings: StudySettings, name: str, seed: int) -> dict[str, Any]:
    return {
        "data": settings.data,
        "val_data": settings.val_data,
        "output": settings.output / "runs" / name / f"seed-{seed}",
        "feature_cache": settings.feature_cache or settings.output / "features",
        "device": settings.device,
        "seed": seed,
    }
