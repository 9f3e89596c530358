"""On an NVIDIA GPU: ViT-B/32 in bf16 with 4,096 pairs a step, by micro-batches; its speed and memory are shown."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from anykey.encoder.towers.architecture import build, read_architecture
from anykey.training.settings import TrainSettings
from anykey.training.trainer import train
from benchmarks.synthetic_pairs import write_pairs
from benchmarks.timed_training import StepClock

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; torch finds none"),
    pytest.mark.timeout(900),
]
ARCHITECTURE = "ViT-B-32"
BATCH_SIZE = 4096
WARMUP_STEPS, STEPS = 2, 4
# What makers say of dense bf16 products, in operations a second.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}


@dataclass(frozen=True)
class Speed:
    """What one run reached."""

    pairs_per_s: float
    peak_bytes: int


def measure(shard: Path, output: Path, micro_batch_size: int) -> Speed:
    """Trains for a few steps; the images are decoded before the clock starts."""
    clock = StepClock(WARMUP_STEPS, WARMUP_STEPS + STEPS)
    torch.cuda.reset_peak_memory_stats()
    hook = register_optimizer_step_post_hook(clock)
    settings = TrainSettings(
        data=[str(shard)],
        output=output,
        architecture=ARCHITECTURE,
        batch_size=BATCH_SIZE,
        micro_batch_size=micro_batch_size,
        num_epochs=WARMUP_STEPS + STEPS,
        learning_rate=1e-5,
        precision="bf16",
        device="cuda",
    )
    try:
        train(settings, Console(quiet=True))
    finally:
        hook.remove()
    assert clock.seconds is not None
    return Speed(STEPS * BATCH_SIZE / clock.seconds, clock.peak_bytes)


def forward_flops() -> int:
    """Operations of both towers for one pair, forward, with a text that fills the context."""
    model = build(read_architecture(ARCHITECTURE)).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224), torch.ones(1, 77, dtype=torch.long))
    return counter.get_total_flops()


def utilisation(pairs_per_s: float) -> str:
    """The model's own operations (forward, and twice that backward) as a share of the GPU's peak."""
    peaks = [peak for name, peak in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()]
    return f"{3 * forward_flops() * pairs_per_s / peaks[0]:.1%}" if peaks else "unknown"


def test_micro_batches_bound_the_memory_of_4096_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = write_pairs(tmp_path / "pairs.tar", BATCH_SIZE, "full", size_px=224)
    found = {size: measure(shard, tmp_path / f"run-{size}", size) for size in (1024, 256)}
    with capsys.disabled():
        console = Console(highlight=False, soft_wrap=True)
        for size, speed in found.items():
            console.print(
                f"\n{ARCHITECTURE}, bf16, {BATCH_SIZE} pairs a step, {size} in a micro-batch: "
                f"{speed.pairs_per_s:,.0f} pairs/s, {speed.peak_bytes / 1e9:.1f} GB, "
                f"model FLOP utilisation {utilisation(speed.pairs_per_s)}"
            )
    assert found[256].peak_bytes < 0.6 * found[1024].peak_bytes
