"""Several processes train as one would, and a process that dies or hangs ends the run with its reason."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from encoder.architecture import write_open_clip_config
from encoder.item import Item
from encoder.model import Encoder
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.guards.checkout import ROOT
from tests.networks import TEXT, small_architecture
from tests.training_runs import make_settings
from training.batches import DrawnPairs
from training.errors import InvalidRecipeError, WorkerError
from training.settings import TrainSettings
from training.trainer import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data and a small network."""
    write_open_clip_config(small_architecture(text={**TEXT, "layers": 1}), tmp_path)
    (tmp_path / "open_clip_config.json").rename(tmp_path / "small.json")
    write_shard(tmp_path / "train.tar", drawn_pairs(32))
    write_shard(tmp_path / "val.tar", drawn_pairs(6))
    return tmp_path


def settings_of(folder: Path, name: str, **changes: Any) -> TrainSettings:
    values = {"architecture": str(folder / "small.json"), "val_data": [str(folder / "val.tar")], "num_epochs": 5.0}
    return make_settings(folder / "train.tar", folder / name, **{**values, **changes})


def losses_of(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize("flag", ["--no-shard", "--shard"])
def test_two_processes_train_as_one_does(folder: Path, flag: str) -> None:
    train(settings_of(folder, "one"), Console(quiet=True))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training"]
    command += ["--data", str(folder / "train.tar"), "--val-data", str(folder / "val.tar"), "--device", "cpu", flag]
    command += ["--architecture", str(folder / "small.json"), "--batch-size", "8", "--num-epochs", "5"]
    command += ["--output", str(folder / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checkpoint: ") == 1
    assert losses_of(folder / "two") == pytest.approx(losses_of(folder / "one"), rel=0.02)
    ours, theirs = (Encoder.load(str(folder / name / "last"), device="cpu") for name in ("one", "two"))
    items = [Item("a red circle"), Item("there is one bar, painted blue")]
    assert ((ours.encode(items) * theirs.encode(items)).sum(1) > 0.99).all()


def test_shards_need_several_processes(folder: Path) -> None:
    with pytest.raises(InvalidRecipeError, match="torchrun"):
        train(settings_of(folder, "run", shard=True), Console(quiet=True))


@pytest.mark.parametrize("what", ["dies", "hangs"])
def test_a_worker_that_dies_or_hangs_ends_the_run(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(self: DrawnPairs, draw: object) -> None:
        if what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(100)

    monkeypatch.setattr(DrawnPairs, "__getitem__", deadly)
    settings = settings_of(folder, "run", num_workers=1, worker_timeout_s=2.0)
    began = time.monotonic()
    with pytest.raises(WorkerError, match="--num-workers"):
        train(settings, Console(quiet=True))
    assert time.monotonic() - began < 60
