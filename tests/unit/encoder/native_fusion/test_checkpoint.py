"""A checkpoint with native fusion describes itself and is checked when it is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anykey.encoder import Encoder, Item
from anykey.encoder.errors import CheckpointCorruptError, MissingPartError
from anykey.encoder.model import family_of
from anykey.encoder.native_fusion.checkpoint import read_checkpoint, save_checkpoint
from tests.full_disk import no_file_beyond


@pytest.fixture
def saved(fusion_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(fusion_checkpoint, tmp_path / "best")


def test_the_directory_says_what_it_is(fusion_checkpoint: Path) -> None:
    manifest = json.loads((fusion_checkpoint / "encoder.json").read_text())
    assert family_of(fusion_checkpoint) == manifest["family"] == "fusion"
    assert {name: manifest[name] for name in ("format", "name", "width", "fusion", "context_length")} == {
        "format": 1,
        "name": "Visualized_tiny_fp16",
        "width": 64,
        "fusion": "native",
        "context_length": 512,
    }
    assert manifest["temperature"] == pytest.approx(0.02)
    names = set(load_file(fusion_checkpoint / "model.safetensors"))
    assert {name.split(".")[0] for name in names} == {"text", "trunk", "projection"}


def test_what_was_read_is_written_as_it_was(saved: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved)
    identity = save_checkpoint(
        tmp_path / "again", checkpoint.architecture, checkpoint.network.state_dict(), checkpoint.provenance
    )
    assert identity == checkpoint.fingerprint
    for path in saved.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_temperature_changes_no_fingerprint_and_comes_back_to_the_bit(saved: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved)
    with torch.no_grad():
        checkpoint.network.log_scale.fill_(3.1234567)
    identity = save_checkpoint(tmp_path / "again", checkpoint.architecture, checkpoint.network.state_dict(), {})
    again = read_checkpoint(tmp_path / "again")
    assert identity == checkpoint.fingerprint
    assert torch.equal(again.network.log_scale, checkpoint.network.log_scale)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("vision_config.json", CheckpointCorruptError, "has no vision_config.json"),
        ("config.json", CheckpointCorruptError, "has no config.json"),
        ("model.safetensors", CheckpointCorruptError, "has no weights: expected model.safetensors"),
        ("tokenizer.json", MissingPartError, "needs the tokenizer of its text encoder"),
    ],
)
def test_a_missing_file_is_named(saved: Path, name: str, error: type[Exception], message: str) -> None:
    (saved / name).unlink()
    with pytest.raises(error, match=message):
        Encoder.load(saved)


@pytest.mark.parametrize("name", ["vision_config.json", "config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_refused_in_one_line(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"{" * 100)
    with pytest.raises((CheckpointCorruptError, MissingPartError), match=f"{name}|{saved}") as caught:
        Encoder.load(saved)
    assert "\n" not in str(caught.value)


def test_other_weights_are_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file({**weights, "projection.bias": weights["projection.bias"] + 1}, saved / "model.safetensors")
    with pytest.raises(CheckpointCorruptError, match="weights or configuration changed since training"):
        Encoder.load(saved)
    del weights["projection.bias"]
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(CheckpointCorruptError, match=r"does not fit the configuration beside it: .*projection\.bias"):
        Encoder.load(saved)


def test_another_tokenizer_is_refused(saved: Path) -> None:
    path = saved / "tokenizer.json"
    path.write_text(
        path.read_text()
        .replace('"lowercase":true', '"lowercase":false')
        .replace('"lowercase": true', '"lowercase": false')
    )
    with pytest.raises(CheckpointCorruptError, match="weights or configuration changed since training"):
        Encoder.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 32}, r"encoder\.json says width 32, config\.json says 64"),
        ({"context_length": 600}, r"context_length 600 is not within 3 and the 512 tokens"),
        ({"context_length": None}, "a value is missing or wrong"),
        ({"temperature": 0}, "a value is missing or wrong"),
        ({"format": 2}, "expected an object with format 1"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(saved: Path, change: dict[str, object], message: str) -> None:
    manifest = json.loads((saved / "encoder.json").read_text())
    (saved / "encoder.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(CheckpointCorruptError, match=message):
        Encoder.load(saved)


def test_a_directory_without_a_manifest_is_none_of_this_family(saved: Path) -> None:
    (saved / "encoder.json").unlink()
    assert family_of(saved) == "towers"
    with pytest.raises(CheckpointCorruptError, match=r"its config\.json is of a bert model"):
        Encoder.load(saved)


def test_a_full_disk_leaves_the_old_checkpoint_usable(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    with no_file_beyond(100_000), pytest.raises(OSError, match="cannot write"):
        save_checkpoint(saved, checkpoint.architecture, checkpoint.network.state_dict(), {})
    assert Encoder.load(saved).encode([Item("a wall")]).shape == (1, 64)
    assert [path.name for path in saved.parent.iterdir()] == ["best"]
