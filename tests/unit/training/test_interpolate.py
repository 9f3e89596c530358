"""The checkpoint between two others: its weights and origin, and what is refused before anything is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anykey.encoder.errors import CheckpointNotFoundError
from anykey.encoder.fusion import Fusion
from anykey.encoder.towers.architecture import Architecture
from anykey.encoder.towers.checkpoint import read_checkpoint, save_checkpoint
from anykey.program.settings import UsageError, load_settings
from anykey.training.errors import InvalidRecipeError
from anykey.training.interpolate import interpolate_checkpoints
from anykey.training.interpolate_settings import InterpolateSettings
from tests.networks import TEXT, VISION, build_seeded, small_architecture


def save(path: Path, seed: int, architecture: Architecture | None = None, fusion: Fusion = Fusion.RAW) -> Path:
    """A checkpoint of a small network with random weights."""
    architecture = architecture or small_architecture()
    save_checkpoint(path, architecture, build_seeded(architecture, seed).state_dict(), fusion, {})
    return path


def settings(folder: Path, **changes: Any) -> InterpolateSettings:
    given = {"start": str(folder / "start"), "tuned": str(folder / "tuned"), "output": folder / "between", **changes}
    return InterpolateSettings(**given)


def test_the_checkpoint_lies_between_and_tells_where_it_comes_from(tmp_path: Path) -> None:
    save(tmp_path / "start", seed=1)
    save(tmp_path / "tuned", seed=2, fusion=Fusion.UNIT)
    identity = interpolate_checkpoints(settings(tmp_path, share=0.25))
    start, tuned, between = (read_checkpoint(tmp_path / name) for name in ("start", "tuned", "between"))
    before, after = start.model.state_dict(), tuned.model.state_dict()
    for name, middle in between.model.state_dict().items():
        torch.testing.assert_close(middle, 0.75 * before[name] + 0.25 * after[name], msg=name)
    assert (between.fingerprint, between.fusion) == (identity, Fusion.UNIT)
    assert between.provenance["share"] == 0.25
    assert between.provenance["start_fingerprint"] == start.fingerprint
    assert between.provenance["tuned_fingerprint"] == tuned.fingerprint


def test_the_ends_are_the_two_encoders(tmp_path: Path) -> None:
    start, tuned = (read_checkpoint(save(tmp_path / name, seed)) for seed, name in enumerate(("start", "tuned")))
    for share, end in ((0.0, start), (1.0, tuned)):
        assert interpolate_checkpoints(settings(tmp_path, share=share)) == end.fingerprint


def test_a_start_may_be_a_weights_file(tmp_path: Path) -> None:
    tuned = save(tmp_path / "tuned", seed=2)
    architecture = tmp_path / "small.json"
    architecture.write_text(json.dumps(small_architecture().model_cfg))
    weights = tmp_path / "start.pt"
    torch.save(build_seeded(small_architecture(), seed=1).state_dict(), weights)
    interpolate_checkpoints(settings(tmp_path, start=f"{architecture}@{weights}", share=0.5))
    assert read_checkpoint(tmp_path / "between").provenance["tuned"] == str(tuned)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (small_architecture(vision={**VISION, "layers": 2}), "vision_cfg"),
        (small_architecture(text={**TEXT, "context_length": 32}), "text_cfg"),
        (small_architecture(custom_text=True), "custom_text"),
        (small_architecture(preprocess={"mean": (0.5, 0.5, 0.5)}), "preprocessing"),
    ],
)
def test_encoders_of_different_networks_are_refused(tmp_path: Path, other: Architecture, what: str) -> None:
    save(tmp_path / "start", seed=1, architecture=other)
    save(tmp_path / "tuned", seed=2)
    with pytest.raises(InvalidRecipeError, match=f"they differ in: {what}$"):
        interpolate_checkpoints(settings(tmp_path))
    assert not (tmp_path / "between").exists()


def test_something_else_at_the_output_is_not_overwritten(tmp_path: Path) -> None:
    save(tmp_path / "start", seed=1)
    save(tmp_path / "tuned", seed=2)
    (tmp_path / "between").mkdir()
    (tmp_path / "between" / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidRecipeError, match="is no checkpoint"):
        interpolate_checkpoints(settings(tmp_path))
    assert (tmp_path / "between" / "thesis.txt").read_text() == "years of work"


def test_an_older_checkpoint_at_the_output_is_replaced(tmp_path: Path) -> None:
    for seed, name in enumerate(("start", "tuned", "between")):
        save(tmp_path / name, seed)
    old = read_checkpoint(tmp_path / "between").fingerprint
    identity = interpolate_checkpoints(settings(tmp_path))
    assert read_checkpoint(tmp_path / "between").fingerprint == identity != old


@pytest.mark.parametrize("name", ["start", "tuned"])
def test_the_output_cannot_be_one_of_the_encoders(tmp_path: Path, name: str) -> None:
    for seed, each in enumerate(("start", "tuned")):
        save(tmp_path / each, seed)
    with pytest.raises(InvalidRecipeError, match="would be lost"):
        interpolate_checkpoints(settings(tmp_path, output=tmp_path / "start" / ".." / name))


def test_a_missing_encoder_is_named(tmp_path: Path) -> None:
    save(tmp_path / "tuned", seed=2)
    with pytest.raises(CheckpointNotFoundError, match="start"):
        interpolate_checkpoints(settings(tmp_path))


def test_flags_are_read_and_the_share_is_bounded(tmp_path: Path) -> None:
    flags = ["--start", "a", "--tuned", "b", "--output", str(tmp_path / "c")]
    assert load_settings(InterpolateSettings, "anykey-train interpolate", [*flags, "--share", "0.3"]).share == 0.3
    with pytest.raises(UsageError, match="share"):
        load_settings(InterpolateSettings, "anykey-train interpolate", [*flags, "--share", "1.3"])
