"""Protects the size of an encoder's weights as it is told: those of its file, in the numbers that it computes with."""

from pathlib import Path

import pytest
import torch

from anykey.encoder.description import weights_bytes_of
from anykey.encoder.model import Encoder
from tests.models import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("bf16", 0.5)])
def test_weights_are_as_many_bytes_as_their_numbers_take(checkpoint: Path, precision: str, share: float) -> None:
    encoder = Encoder.load(checkpoint, device="cpu", precision=precision)
    stored = weights_bytes_of(str(checkpoint))
    assert stored is not None
    assert encoder.weights_bytes == pytest.approx(stored * share, rel=0.02)  # and what is computed of no weight


def test_eight_bits_take_less_than_sixteen(checkpoint: Path) -> None:
    encoder = Encoder.load(checkpoint, device="cpu", precision="int8")
    stored = weights_bytes_of(str(checkpoint))
    assert stored is not None
    assert stored / 4 < encoder.weights_bytes < stored


def test_numbers_of_a_file_are_counted_as_they_are_loaded(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(10)}, tmp_path / "weights.pt")
    own = (tmp_path / "weights.pt").stat().st_size
    assert weights_bytes_of(str(tmp_path)) == weights_bytes_of(f"ViT-B-32@{tmp_path / 'weights.pt'}") == own
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0no JSON!")
    assert weights_bytes_of(str(tmp_path)) == 16
    assert weights_bytes_of("ViT-B-32/openai") is None
    assert weights_bytes_of(str(tmp_path / "none")) is None
