"""Protects what an operator is told when a part cannot be loaded."""

from pathlib import Path

import pytest

from anykey.service.errors import StartupError
from anykey.service.indexes.parts import load_encoder, load_index
from tests.serving import make_settings


@pytest.mark.parametrize("name", ["no-such-architecture/tag", "runs/none/best"])
def test_a_missing_checkpoint_says_how_to_make_one(name: str) -> None:
    with pytest.raises(StartupError, match=f"{name}.*make train"):
        load_encoder(make_settings(checkpoint=name))


def test_a_damaged_checkpoint_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(StartupError, match=r"encoder\.json|open_clip"):
        load_encoder(make_settings(checkpoint=str(tmp_path)))


def test_a_missing_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="anykey-index build"):
        load_index(make_settings(index=str(tmp_path / "none")))


def test_a_damaged_index_is_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "versions" / "1").mkdir(parents=True)
    (tmp_path / "CURRENT").write_text("1\n")
    with pytest.raises(StartupError, match=r"manifest\.json"):
        load_index(make_settings(index=str(tmp_path)))


@pytest.mark.parametrize(("fusion", "expected"), [(None, "raw"), ("raw", "raw"), ("unit", "unit")])
def test_the_encoder_has_the_fusion_of_the_settings(tiny_checkpoint: Path, fusion: str | None, expected: str) -> None:
    assert load_encoder(make_settings(checkpoint=str(tiny_checkpoint), fusion=fusion)).fusion == expected
