"""The instruments of the measurement of speed: what they count, on paper."""

import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from anykey.encoder.towers.architecture import read_architecture
from anykey.encoder.towers.tokens import Tokenizer
from anykey.sources.pairs import open_pairs
from benchmarks.speed_report import Measured, Run, ratios, write_report
from benchmarks.synthetic_pairs import Captions, caption, write_pairs
from benchmarks.timed_training import StepClock
from benchmarks.training_speed import data_seconds

RUNS = [
    Run("anykey", "full", 20.0, 20.0, 3 * 10**9, 0.1),
    Run("open_clip", "padded", 10.0, 9.0, 4 * 10**9, 0.1),
    Run("anykey", "natural", 24.0, 24.0, 3 * 10**9, 0.1),
    Run("anykey", "natural", 11.0, 11.0, 3 * 10**9, 0.1),
    Run("open_clip", "padded", 20.0, 19.0, 4 * 10**9, 0.1),
    Run("anykey", "full", 30.0, 30.0, 3 * 10**9, 0.1),
]


@pytest.mark.parametrize(("captions", "shortest", "longest"), [("full", 77, 77), ("natural", 6, 32)])
def test_captions_are_as_long_as_they_should_be(captions: Captions, shortest: int, longest: int) -> None:
    tokenizer, generator = Tokenizer(read_architecture("ViT-B-32")), random.Random(0)
    lengths = (tokenizer([caption(generator, captions) for _ in range(500)]) != 0).sum(dim=1)
    assert shortest <= lengths.min()
    assert lengths.max() <= longest
    assert captions == "full" or lengths.float().mean() == pytest.approx(2 + 11.8, abs=0.5)


def test_every_synthetic_pair_is_another(tmp_path: Path) -> None:
    pairs = open_pairs([str(write_pairs(tmp_path / "pairs.tar", 20, "natural", size_px=16))])
    assert len(pairs) == 20
    assert len({pairs[position].image for position in range(20)}) == 20
    assert len({pairs[position].captions for position in range(20)}) == 20


def test_the_clock_runs_from_one_step_to_another_in_any_optimizer() -> None:
    clock = StepClock(first=2, last=4)
    hook = register_optimizer_step_post_hook(clock)
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters())
    ended = []
    for _ in range(5):
        optimizer.step()
        ended.append(clock.seconds)
    hook.remove()
    assert ended[:3] == [None, None, None]
    assert ended[3] is not None
    assert ended[3] >= 0
    assert ended[4] == ended[3]
    assert clock.peak_bytes > 10**7


def test_the_wait_for_data_is_that_of_the_timed_steps() -> None:
    log = "\n".join(f"Train Epoch: 0 Data (t): {wait:.3f} Batch (t): 9.000" for wait in (5, 4, 0.25, 0.5, 3))
    assert data_seconds(log, 2, 4) == 0.75


def test_ratios_are_of_the_same_round() -> None:
    assert ratios(RUNS, "full") == [2.0, 1.5]
    assert ratios(RUNS, "natural") == [2.4, 0.55]


def test_the_report_says_what_was_reached_and_what_was_not(tmp_path: Path) -> None:
    plan = {"architecture": "ViT-B-32", "precision": "fp32", "batch_size": 32, "device": "cpu", "threads": 2}
    plan |= {"steps": 6, "warmup_steps": 2, "rounds": 2}
    slow = [
        Run(run.trainer, run.captions, run.pairs_per_s / (2 if run.captions == "natural" else 1), 1, 1, 0)
        for run in RUNS
    ]
    write_report(tmp_path / "speed.md", Measured(plan, slow, 0.01, 0.002))
    report = (tmp_path / "speed.md").read_text()
    assert "| equal work | **1.75** | 1.50 | 2.00 | 1.00 | reached |" in report
    assert "| natural captions | **0.74** | 0.28 | 1.20 | 1.25 | **not reached** |" in report
    assert "1.00% of our step" in report
