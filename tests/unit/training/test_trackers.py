"""Numbers arrive where they are sent: read back from TensorBoard's and W&B's own files."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anykey.training.errors import InvalidRecipeError
from anykey.training.trackers import TensorBoardTracker, WandbTracker

needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="the extra `wandb` is not installed: pip install 'anykey[wandb]'"
)


def scalars(path: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(path))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_each_number_at_its_step(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.log(10, {"train/loss": 2.5, "train/temperature": 0.5})
    tracker.log(20, {"train/loss": 1.25})
    tracker.close()
    assert scalars(tmp_path, "train/loss") == [(10, 2.5), (20, 1.25)]
    assert scalars(tmp_path, "train/temperature") == [(10, 0.5)]


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    for step in (10, 20, 30):
        first.log(step, {"train/loss": 1.0})
    first.close()
    resumed = TensorBoardTracker(tmp_path, purge_step=20)
    for step in (20, 30, 40):
        resumed.log(step, {"train/loss": 2.0})
    resumed.close()
    assert scalars(tmp_path, "train/loss") == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def wandb_bytes(folder: Path) -> bytes:
    """What W&B would sync, as it lies on the disk once its own process has written it."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60
    while b"2.71828" not in path.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.read_bytes()


@needs_wandb
@pytest.mark.usefixtures("offline")
def test_wandb_gets_numbers_settings_and_the_fixed_id(tmp_path: Path) -> None:
    tracker = WandbTracker("anykey", "first try", {"learning_rate": 0.0625}, "abc-123", tmp_path)
    tracker.log(10, {"train/loss": 2.71828})
    tracker.log(10, {"val/gap/i-t": 0.57721})
    tracker.log(20, {"train/loss": 1.41421})
    tracker.close()
    kept = wandb_bytes(tmp_path)
    expected = ("abc-123", "first try", "learning_rate", "0.0625", "train/loss", "2.71828", "0.57721", "1.41421")
    assert [text for text in expected if text.encode() not in kept] == []


@needs_wandb
@pytest.mark.usefixtures("offline")
def test_wandb_takes_no_step_twice(tmp_path: Path) -> None:
    tracker = WandbTracker("anykey", "resumed", {}, "abc-124", tmp_path)
    tracker.log(20, {"train/loss": 2.71828})
    tracker.log(10, {"train/loss": 1.41421})
    tracker.log(30, {"train/loss": 1.73205})
    tracker.close()
    kept = wandb_bytes(tmp_path)
    assert b"2.71828" in kept
    assert b"1.41421" not in kept
    assert b"1.73205" in kept


@needs_wandb
@pytest.mark.usefixtures("offline")
def test_what_wandb_refuses_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipeError, match="Run ID cannot contain"):
        WandbTracker("anykey", "refused", {}, "abc/125", tmp_path)


def test_without_the_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InvalidRecipeError, match=r"anykey\[wandb\]"):
        WandbTracker("anykey", "absent", {}, "abc-126", tmp_path)
