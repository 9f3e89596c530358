"""What is run: one start a seed, and from it each variant, once for every fusion that its loss knows."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    variant: str
    seed: int
    fusions: tuple[StudyFusion, ...]
    settings: TrainSettings
    needs: Path | None = None

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


def make_plan(settings: StudySettings) -> list[Run]:
    """All runs, in an order in which every run comes after the one it needs.

    Raises:
        InvalidRecipeError: a run's settings are wrong, or a variant changes what the comparison holds equal.
    """
    chosen = [variant for variant in settings.variants if not settings.only or variant.name in settings.only]
    for name in ("common", "start", "fine_tune"):
        _refuse(f"[{name}]", getattr(settings, name), _DECIDED, "which the study decides")
    for variant in chosen:
        _refuse(f"variant '{variant.name}'", variant.settings, _DECIDED, "which the study decides")
        _refuse(f"variant '{variant.name}'", variant.settings, _EQUAL, "which the comparison holds equal")
    starts = {seed: _start(settings, seed) for seed in settings.seeds}
    tuned = [
        _tuned(settings, variant, fusion, starts[seed])
        for seed in settings.seeds
        for variant in chosen
        for fusion in (settings.fusions if variant.fusion_matters else [None])
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


def _tuned(settings: StudySettings, variant: Variant, fusion: StudyFusion | None, start: Run) -> Run:
    name = variant.name if fusion is None else f"{variant.name}/{fusion}"
    values = _values(settings, name, start.seed) | settings.common | settings.fine_tune | variant.settings
    values["start"] = str(start.checkpoint)
    if fusion not in (None, NATIVE):
        values["fusion"] = fusion
    measured_with = tuple(settings.fusions) if fusion is None else (fusion,)
    return Run(variant.name, start.seed, measured_with, run_settings(name, values), start.folder)


def _values(settings: StudySettings, name: str, seed: int) -> dict[str, Any]:
    return {
        "data": settings.data,
        "val_data": settings.val_data,
        "output": settings.output / "runs" / name / f"seed-{seed}",
        "feature_cache": settings.feature_cache or settings.output / "features",
        "device": settings.device,
        "seed": seed,
    }
