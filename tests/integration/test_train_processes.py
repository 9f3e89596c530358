"""Several processes train as one would, and a process that dies or hangs ends the run with its reason."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.training.errors import InvalidRecipeError, WorkerError
from anykey.training.settings import TrainSettings
from anykey.training.trainer import train
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.guards.checkout import ROOT
from tests.networks import TEXT, TIMM_VISION, VISION, small_architecture
from tests.training_runs import make_settings

PATHS = ("start", "architecture")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data and two small networks."""
    for name, vision in (("small", VISION), ("timm", TIMM_VISION)):
        write_open_clip_config(small_architecture(vision=vision, text={**TEXT, "layers": 1}), tmp_path)
        (tmp_path / "open_clip_config.json").rename(tmp_path / f"{name}.json")
    write_shard(tmp_path / "train.tar", drawn_pairs(32))
    write_shard(tmp_path / "val.tar", drawn_pairs(6))
    return tmp_path


def settings_of(folder: Path, name: str, **changes: Any) -> TrainSettings:
    values = {"architecture": str(folder / "small.json"), "val_data": [str(folder / "val.tar")], "num_epochs": 5.0}
    return make_settings(folder / "train.tar", folder / name, **{**values, **changes})


def losses_of(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def torchrun(folder: Path, name: str, *flags: str) -> subprocess.Popen[str]:
    """Two processes that train as `settings_of` says."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "--", "training"]  # what stands behind -- is not torchrun's: it would take --start for its own
    command += ["--data", str(folder / "train.tar"), "--val-data", str(folder / "val.tar"), "--device", "cpu"]
    if "--architecture" not in flags:
        command += ["--architecture", str(folder / "small.json")]
    command += ["--batch-size", "8", "--num-epochs", "5"]
    command += ["--output", str(folder / name), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_train_as_one_does(folder: Path) -> None:
    check_two(folder, {"start": "begun/last"})


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["small.json", "timm.json"])
def test_two_processes_with_a_part_of_the_weights_each_train_as_one_does(folder: Path, architecture: str) -> None:
    check_two(folder, {"architecture": architecture, "batch_norm": "eval", "shard": True, "learn_temperature": False})


def check_two(folder: Path, options: dict[str, Any]) -> None:
    """Trains in one process and in two, and compares the losses and the encoders."""
    if "start" in options:
        train(settings_of(folder, "begun", num_epochs=0.25), Console(quiet=True))
    options = {name: str(folder / value) if name in PATHS else value for name, value in options.items()}
    train(settings_of(folder, "one", **{**options, "shard": False}), Console(quiet=True))
    with torchrun(folder, "two", *flags_of(options)) as running:
        output, errors = running.communicate(timeout=170)
    assert running.returncode == 0, errors[-3000:]
    assert output.count("checkpoint: ") == 1
    assert losses_of(folder / "two") == pytest.approx(losses_of(folder / "one"), rel=0.02)
    ours, theirs = (Encoder.load(str(folder / name / "last"), device="cpu") for name in ("one", "two"))
    items = [Item("a red circle"), Item("there is one bar, painted blue")]
    assert ((ours.encode(items) * theirs.encode(items)).sum(1) > 0.99).all()


def flags_of(options: dict[str, Any]) -> list[str]:
    """Settings as a command line gives them."""
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        flags += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", value]
    return flags


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flag", ["--no-shard", "--shard"])
def test_killed_processes_go_on(folder: Path, flag: str) -> None:
    with torchrun(folder, "whole", flag) as whole:
        whole.communicate()
    with torchrun(folder, "killed", flag, "--save-every-steps", "2") as running:
        while not list((folder / "killed").glob("unfinished/state/step-*")):
            time.sleep(0.01)
        for pid in processes_of(folder / "killed"):
            os.kill(pid, signal.SIGKILL)
        running.communicate()
    assert not (folder / "killed" / "finished.json").exists()
    with torchrun(folder, "killed", flag, "--save-every-steps", "2") as again:
        output, errors = again.communicate()
    assert again.returncode == 0, errors[-3000:]
    assert "goes on from step" in output
    weights = Path("last") / "open_clip_model.safetensors"
    assert (folder / "killed" / weights).read_bytes() == (folder / "whole" / weights).read_bytes()


def processes_of(output: Path) -> list[int]:
    """Processes that were started for this run folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(output) in path.read_text().split("\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # ended meanwhile
    return found


def test_shards_need_several_processes(folder: Path) -> None:
    with pytest.raises(InvalidRecipeError, match="torchrun"):
        train(settings_of(folder, "run", shard=True), Console(quiet=True))


@pytest.mark.parametrize(
    "what",
    [pytest.param(signal.SIGKILL, id="dies"), pytest.param(signal.SIGSTOP, id="hangs", marks=pytest.mark.slow)],
)
def test_a_worker_that_dies_or_hangs_ends_the_run(folder: Path, what: signal.Signals) -> None:
    settings = settings_of(folder, "run", workers=1, worker_timeout_s=2.0, num_epochs=10_000)
    with signalled_children(what), pytest.raises(WorkerError, match="--workers"):
        train(settings, Console(quiet=True))


@contextmanager
def signalled_children(number: signal.Signals) -> Iterator[None]:
    """Sends a signal to every process that begins here, as soon as it is seen; at the end it kills them."""
    seen: dict[int, multiprocessing.process.BaseProcess] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.001):
            for child in multiprocessing.active_children():
                if child.pid is not None and child.pid not in seen:
                    seen[child.pid] = child
                    os.kill(child.pid, number)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        for child in seen.values():
            child.kill()  # one that is stopped hears nothing else
