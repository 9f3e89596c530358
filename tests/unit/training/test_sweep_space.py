"""A space becomes proposals, and a proposal the settings of a run; what makes no sense is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from anykey.training.errors import InvalidRecipeError
from anykey.training.sweep.settings import SweepSettings
from anykey.training.sweep.space import distributions, proposed_values, trial_settings


def settings_of(tmp_path: Path, **changes: Any) -> SweepSettings:
    return SweepSettings(**{"data": ["a.tar"], "val_data": ["b.tar"], "output": tmp_path, "seed": 7, **changes})


def test_ranges_and_choices_become_distributions(tmp_path: Path) -> None:
    space = {
        "temperature": {"low": 0.01, "high": 0.1, "log": True},
        "batch_size": {"low": 8, "high": 64},
        "reading": ["R1", "R2"],
        "mirror_images": [True, False],
    }
    assert distributions(settings_of(tmp_path, space=space)) == {
        "temperature": FloatDistribution(0.01, 0.1, log=True),
        "batch_size": IntDistribution(8, 64),
        "reading": CategoricalDistribution(["R1", "R2"]),
        "mirror_images": CategoricalDistribution(["true", "false"]),
    }


def test_a_proposal_wins_over_the_base_and_the_flags_over_both(tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text('learning_rate = 0.5\nbeta2 = 0.9\nseed = 3\ndata = ["x.tar"]\narchitecture = "anykey-tiny"\n')
    space = {"learning_rate": {"low": 0.001, "high": 0.01}, "mirror_images": [True, False]}
    settings = settings_of(tmp_path, base=base, space=space)
    run = trial_settings(settings, {"learning_rate": 0.002, "mirror_images": "true"}, tmp_path / "trials" / "0003")
    assert (run.learning_rate, run.beta2, run.mirror_images) == (0.002, 0.9, True)
    assert (run.data, run.seed, run.output) == (["a.tar"], 7, tmp_path / "trials" / "0003")
    assert run.feature_cache == tmp_path / "features"


def test_an_entry_of_a_list_setting_is_added_to_the_bases(tmp_path: Path) -> None:
    weight = {"low": 0.5, "high": 2.0}
    settings = settings_of(tmp_path, space={"pair_weights.i>t": weight, "pair_weights.t>i": weight})
    proposed = {"pair_weights.i>t": 0.75, "pair_weights.t>i": 1.5}
    values = proposed_values(settings, proposed, {"pair_weights": ["it>t=0.0"]})
    assert values == {"pair_weights": ["it>t=0.0", "i>t=0.75", "t>i=1.5"]}


def test_a_choice_may_be_a_list(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, space={"image_mean": [[0.5, 0.5, 0.5], [0.1, 0.2, 0.3]]})
    label = distributions(settings)["image_mean"].to_external_repr(1)
    assert trial_settings(settings, {"image_mean": label}, tmp_path).image_mean == (0.1, 0.2, 0.3)


def test_only_restricts_the_space(tmp_path: Path) -> None:
    assert [*distributions(settings_of(tmp_path, only=["temperature"]))] == ["temperature"]
    names = {"temperature", "learning_rate", "reading", "fusion", "pair_weights"}
    assert names == {*distributions(settings_of(tmp_path))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_data": []}, "needs --data and --val-data"),
        ({"only": ["beta2"]}, "--only names what is not in the space: beta2"),
        ({"space": {"fusion": ["raw"]}}, "'fusion' needs two choices"),
        ({"space": {"beta2": {"low": 0.9, "high": 0.8}}}, "low must be below high"),
        ({"space": {"beta2": {"low": 0.0, "high": 0.8, "log": True}}}, "starts above 0"),
        ({"space": {}}, "nothing to search"),
    ],
)
def test_a_space_that_searches_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of(tmp_path, **changes)


def test_what_the_sweep_decides_cannot_be_searched(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, space={"seed": [1, 2]})
    with pytest.raises(InvalidRecipeError, match="the space holds seed, which the sweep decides"):
        trial_settings(settings, {}, tmp_path)


def test_a_base_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("= 3")
    with pytest.raises(InvalidRecipeError, match=r"cannot read the settings of .*base.toml"):
        trial_settings(settings_of(tmp_path, base=tmp_path / "base.toml"), {}, tmp_path)
