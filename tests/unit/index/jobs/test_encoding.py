"""The encoder of a build: named cheaply, loaded once and only when needed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from anykey.encoder.errors import CheckpointError
from anykey.index.jobs.encoding import CheckpointSource
from anykey.index.settings import BuildSettings


def source(tmp_path: Path, **changes: Any) -> CheckpointSource:
    checkpoint = str(changes.pop("checkpoint", tmp_path / "checkpoint"))
    return CheckpointSource(BuildSettings(corpus=[tmp_path], checkpoint=checkpoint, output=tmp_path / "i", **changes))


def test_fingerprint_is_read_without_loading_the_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "encoder.json").write_text(json.dumps({"fingerprint": "sha256:1"}))

    assert source(tmp_path).fingerprint() == "sha256:1"


def test_width_is_read_without_loading_the_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "encoder.json").write_text(json.dumps({"width": 7}))

    assert source(tmp_path, fusion="unit").width() == 7


def test_width_that_is_not_written_is_the_loaded_encoders(tmp_path: Path, tiny_checkpoint: Path) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (copy / "encoder.json").unlink()

    chosen = source(tmp_path)

    assert chosen.width() == chosen.load().width == json.loads((tiny_checkpoint / "encoder.json").read_text())["width"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"fingerprint": 1}'])
def test_without_a_written_fingerprint_the_encoder_is_loaded(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "checkpoint").mkdir()
    if content is not None:
        (tmp_path / "checkpoint" / "encoder.json").write_text(content)

    with pytest.raises(CheckpointError):
        source(tmp_path).fingerprint()


@pytest.mark.parametrize("fusion", [None, "raw", "unit"])
def test_fingerprint_and_encoder_have_the_fusion_of_the_settings(
    tmp_path: Path, tiny_checkpoint: Path, fusion: str | None
) -> None:
    written = json.loads((tiny_checkpoint / "encoder.json").read_text())["fingerprint"]
    chosen = source(tmp_path, checkpoint=tiny_checkpoint, fusion=fusion)

    encoder = chosen.load()

    assert (encoder.fusion, encoder.fingerprint) == (fusion or "raw", chosen.fingerprint())
    assert (encoder.fingerprint == written) is (fusion != "unit")
