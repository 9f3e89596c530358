"""A run that is killed and started again ends with the weights of one that was not, bit for bit."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.training.distributed import Processes
from anykey.training.errors import DamagedStateError, InvalidRecipeError
from anykey.training.resume import load_state, save_state
from anykey.training.settings import TrainSettings
from anykey.training.trainer import train
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.full_disk import no_file_beyond
from tests.guards.checkout import ROOT
from tests.killed_training import after_update, digest, settings
from tests.networks import TEXT, VISION, small_architecture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data and a small network that leaves out patches at random."""
    return write_data(tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody stopped, `whole`; read only."""
    folder = write_data(tmp_path_factory.mktemp("uninterrupted"))
    train(settings(folder, "whole"), Console(quiet=True))
    return folder


def write_data(folder: Path) -> Path:
    architecture = small_architecture(vision={**VISION, "patch_dropout": 0.3}, text={**TEXT, "layers": 1})
    write_open_clip_config(architecture, folder)
    (folder / "open_clip_config.json").rename(folder / "small.json")
    write_shard(folder / "train.tar", drawn_pairs(32))
    write_shard(folder / "val.tar", drawn_pairs(6))
    return folder


def kills(folder: Path, step_stride: int, operation_stride: int, timeout_s: int) -> list[str]:
    """Lines of the killing program."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.killed_training", str(folder), str(step_stride), str(operation_stride)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_killed_at_every_step_and_every_third_file_operation_go_on(folder: Path) -> None:
    lines = kills(folder, 1, 3, 3600)
    assert len(lines) > 40
    assert [line for line in lines if not line.endswith("True")] == []


def test_the_log_of_a_run_that_went_on_has_every_step_once(folder: Path, uninterrupted: Path) -> None:
    interrupted = settings(folder, "run")
    stop_at(interrupted, 5)
    train(interrupted, Console(quiet=True))
    assert list(map(_facts, log_of(interrupted.output))) == list(map(_facts, log_of(uninterrupted / "whole")))
    assert not (interrupted.output / "unfinished").exists()


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if name != "train/pairs_per_s"}


def stop_at(run: TrainSettings, step: int) -> None:
    """Ends a run with an error in the middle of a step, from 1."""

    def fail() -> None:
        raise OSError("the machine goes down")

    after_update(step - 1, fail)
    with pytest.raises(OSError, match="goes down"):
        train(run, Console(quiet=True))


@pytest.mark.slow
def test_a_run_in_float16_goes_on_with_its_gradients_scaled_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's scaler grows every 3 steps, not 2000: a scale or a count that starts anew skips other steps."""
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, growth_interval=3))
    whole, run = (settings(folder, name).model_copy(update={"precision": "fp16"}) for name in ("whole", "run"))
    train(whole, Console(quiet=True))
    stop_at(run, 4)
    state = load_state(run.output / "unfinished" / "state", Processes())
    assert state is not None
    scaler, fresh = state["stepper"]["scaler"], torch.amp.GradScaler("cpu").state_dict()
    assert scaler["scale"] != fresh["scale"]
    assert scaler["_growth_tracker"] != fresh["_growth_tracker"]
    train(run, Console(quiet=True))
    assert digest(folder, "run") == digest(folder, "whole")


def test_a_damaged_state_is_an_error_that_names_the_one_before(folder: Path, uninterrupted: Path) -> None:
    run = settings(folder, "run")
    stop_at(run, 6)
    states = sorted((run.output / "unfinished" / "state").iterdir())
    assert [path.name for path in states] == ["step-000000002", "step-000000004"]
    damaged = states[-1] / "rank-0.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedStateError, match=r"step-000000004.*remove it to go on from step-000000002"):
        train(run, Console(quiet=True))
    for file in states[-1].iterdir():
        file.unlink()
    states[-1].rmdir()
    train(run, Console(quiet=True))
    assert digest(folder, "run") == digest(uninterrupted, "whole")


def test_a_full_disk_leaves_the_states_before(tmp_path: Path) -> None:
    save_state(tmp_path, 1, {"weights": torch.zeros(10)}, Processes())
    with no_file_beyond(100_000), pytest.raises(OSError, match=r"rank-0\.pt"):
        save_state(tmp_path, 2, {"weights": torch.zeros(1_000_000)}, Processes())
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    state = load_state(tmp_path, Processes())
    assert state is not None
    assert torch.equal(state["weights"], torch.zeros(10))


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_state(tmp_path, step, {"step": step}, Processes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000010"]
    assert load_state(tmp_path, Processes()) == {"step": 10}


def test_a_state_of_several_processes_is_not_gone_on_from_by_one(tmp_path: Path) -> None:
    save_state(tmp_path, 1, {"step": 1}, Processes())
    sums = tmp_path / "step-000000001" / "sums.json"
    sums.write_text(json.dumps({"rank-0.pt": "x", "rank-1.pt": "y"}))
    with pytest.raises(DamagedStateError, match="saved by 2 processes and cannot be continued by 1"):
        load_state(tmp_path, Processes())


def test_other_settings_start_over_when_asked_to(folder: Path) -> None:
    run = settings(folder, "run")
    stop_at(run, 6)
    other = run.model_copy(update={"learning_rate": 5e-4})
    with pytest.raises(InvalidRecipeError, match=r"holds a stopped run with other settings \(learning_rate\)"):
        train(other, Console(quiet=True))
    assert load_state(run.output / "unfinished" / "state", Processes()) is not None
    stop_at(other.model_copy(update={"overwrite": True}), 4)
    assert [path.name for path in (run.output / "unfinished" / "state").iterdir()] == ["step-000000002"]
