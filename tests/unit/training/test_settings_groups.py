"""Each part of the trainer takes a group of the settings; to users they stay one flat list of names."""

import itertools

import pytest
from pydantic import BaseModel, ValidationError

from anykey.program.settings import ProgramSettings
from anykey.training.choices import Loss
from anykey.training.settings import (
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
    TrainSettings,
)

GROUPS: list[type[BaseModel]] = [DataSettings, ModelSettings, LossSettings, OptimizerSettings, RunSettings]


def test_every_setting_is_of_one_group() -> None:
    names = list(itertools.chain(ProgramSettings.model_fields, *(group.model_fields for group in GROUPS)))
    assert names == list(TrainSettings.model_fields)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("group", GROUPS[1:])
def test_group_stands_by_itself(group: type[BaseModel]) -> None:
    assert set(group().model_dump()) == set(group.model_fields)


def test_group_refuses_what_cannot_be_honoured_within_it() -> None:
    with pytest.raises(ValidationError, match="two terms of equal weight"):
        LossSettings(loss=Loss.CLIP, pair_weights=["i>t=2"])
    with pytest.raises(ValidationError, match="--lock-image needs a trained image tower"):
        ModelSettings(lock_image=True)


def test_settings_do_not_change_after_they_were_checked() -> None:
    settings = TrainSettings(data=["pairs.jsonl"])
    with pytest.raises(ValidationError, match="frozen"):
        settings.batch_size = 8  # type: ignore[misc]
