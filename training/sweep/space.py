"""From a search space to Optuna's distributions, and from what Optuna proposes to a run's settings."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from anykey.training.errors import InvalidRecipeError
from anykey.training.run_settings import run_settings
from anykey.training.settings import TrainSettings
from anykey.training.sweep.settings import Choices, Range, SweepSettings

_DECIDED = ("config", "data", "val_data", "output", "feature_cache", "device", "seed")


def distributions(settings: SweepSettings) -> dict[str, BaseDistribution]:
    """What Optuna draws from, by name."""
    return {name: _distribution(values) for name, values in settings.searched.items()}


def trial_settings(settings: SweepSettings, params: Mapping[str, Any], output: Path) -> TrainSettings:
    """Settings of the trial that Optuna proposes `params` for.

    Raises:
        InvalidRecipeError: the base cannot be read, or it and the proposal make no run.
    """
    values = base_values(settings)
    values |= proposed_values(settings, params, values)
    values |= {
        "data": settings.data,
        "val_data": settings.val_data,
        "output": output,
        "feature_cache": settings.feature_cache or settings.output / "features",
        "device": settings.device,
        "seed": settings.seed,
    }
    return run_settings("a trial", values)


def proposed_values(settings: SweepSettings, params: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a proposal makes of the base: settings by name; an entry of a list setting comes after the base's."""
    values: dict[str, Any] = {}
    for name, proposed in params.items():
        choices = settings.searched[name]
        value = _choice(choices, proposed) if isinstance(choices, list) else proposed
        field, _, entry = name.partition(".")
        if entry:
            values[field] = [*values.get(field, base.get(field, [])), f"{entry}={value}"]
        else:
            values[field] = value
    return values


def base_values(settings: SweepSettings) -> dict[str, Any]:
    """What every trial is told beside its proposal.

    Raises:
        InvalidRecipeError: the base is no TOML file, or the space searches what the sweep decides.
    """
    if decided := sorted({name.partition(".")[0] for name in settings.searched} & {*_DECIDED}):
        raise InvalidRecipeError(f"the space holds {', '.join(decided)}, which the sweep decides")
    values: dict[str, Any] = {}
    if settings.base is not None:
        try:
            values = tomllib.loads(settings.base.read_text())
        except (OSError, ValueError) as error:
            raise InvalidRecipeError(f"cannot read the settings of {settings.base}: {error}") from error
    own = {"start": settings.start, "image_weights": settings.image_weights}
    values |= {name: value for name, value in own.items() if value is not None}
    return {name: value for name, value in values.items() if name not in _DECIDED}


def _distribution(values: Range | Choices) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution([_label(value) for value in values])
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _label(value: Any) -> str:
    """A choice as Optuna keeps it: text, since lists and tables are choices too."""
    return value if isinstance(value, str) else json.dumps(value)


def _choice(choices: Choices, label: str) -> Any:
    return next(value for value in choices if _label(value) == label)
