"""On an NVIDIA GPU: the CPU's vectors, and a training run in half precision. Skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.training.trainer import train
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.training_runs import make_settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; torch finds none"),
]
ITEMS = [Item(text=pair.captions[0], images=(pair.image,)) for pair in drawn_pairs(4)]
ITEMS += [Item(text="a red circle"), Item(images=(drawn_pairs(1)[0].image,))]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2), ("bf16", 5e-2)])
def test_the_gpu_gives_the_cpus_vectors(tiny_checkpoint: Path, precision: str, tolerance: float) -> None:
    on_cpu = Encoder.load(tiny_checkpoint, device="cpu").encode(ITEMS)
    on_gpu = Encoder.load(tiny_checkpoint, device="cuda", precision=precision).encode(ITEMS)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=tolerance)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2)])
def test_kernels_compiled_for_a_few_sizes_give_the_cpus_vectors(
    tiny_checkpoint: Path, precision: str, tolerance: float
) -> None:
    """Of batches of each size, of some between, and of more than the largest; none of them is compiled for anew."""
    many = [ITEMS[number % len(ITEMS)] for number in range(70)]
    on_cpu = Encoder.load(tiny_checkpoint, device="cpu").encode(many, batch_size=len(many))
    encoder = Encoder.load(tiny_checkpoint, device="cuda", backend="compile", precision=precision)
    num_compiled = sum(torch._dynamo.utils.counters["stats"].values())
    for num in (1, 2, 8, 20, 64, 70):
        on_gpu = encoder.encode(many[:num], batch_size=num)
        np.testing.assert_allclose(on_gpu, on_cpu[:num], atol=tolerance)
    assert sum(torch._dynamo.utils.counters["stats"].values()) == num_compiled


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 5e-2)])
def test_a_model_of_sentence_transformers_gives_the_cpus_vectors(
    sentence_checkpoint: Path, precision: str, tolerance: float
) -> None:
    on_cpu = Encoder.load(sentence_checkpoint, device="cpu").encode(ITEMS)
    on_gpu = Encoder.load(sentence_checkpoint, device="cuda", precision=precision).encode(ITEMS)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=tolerance)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_half_precision_lowers_the_loss(tmp_path: Path, precision: str) -> None:
    shard = write_shard(tmp_path / "train.tar", drawn_pairs(32))
    settings = make_settings(shard, tmp_path / "run", device="cuda", precision=precision, num_epochs=20.0)
    train(settings, Console(quiet=True))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"train/loss": ')[1].split(",")[0]) for line in lines if '"train/loss"' in line]
    assert losses[-1] < losses[0]
