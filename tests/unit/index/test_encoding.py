"""The encoder of a build: named cheaply, loaded once and only when needed."""

import json
from pathlib import Path

import pytest

from encoder.errors import CheckpointNotFoundError
from index.encoding import CheckpointSource
from index.settings import BuildSettings


def source(tmp_path: Path) -> CheckpointSource:
    return CheckpointSource(
        BuildSettings(corpus=[tmp_path], checkpoint=str(tmp_path / "checkpoint"), output=tmp_path / "i")
    )


def test_fingerprint_is_read_without_loading_the_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "encoder.json").write_text(json.dumps({"fingerprint": "sha256:1"}))

    assert source(tmp_path).fingerprint() == "sha256:1"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"fingerprint": 1}'])
def test_without_a_written_fingerprint_the_encoder_is_loaded(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "checkpoint").mkdir()
    if content is not None:
        (tmp_path / "checkpoint" / "encoder.json").write_text(content)

    with pytest.raises(CheckpointNotFoundError):
        source(tmp_path).fingerprint()
