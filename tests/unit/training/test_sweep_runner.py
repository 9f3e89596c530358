"""A sweep on a real record: it counts, goes on after kill -9, shares its folder, and keeps what was best."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from anykey.program.extras import MissingLibraryError
from anykey.program.settings import load_settings
from anykey.training.errors import InvalidRecipeError
from anykey.training.settings import TrainSettings
from anykey.training.sweep import command
from anykey.training.sweep.runner import open_trials, sweep
from anykey.training.sweep.settings import SweepSettings
from anykey.training.trainer import TrainResult
from anykey.training.validation import SELECTION_METRIC
from tests.study_runs import write_study_data

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_data(tmp_path_factory.mktemp("data"))


def sweep_settings(data: Path, output: Path, /, num_epochs: float = 1.0, **changes: Any) -> SweepSettings:
    """Trials of a few small steps, with a learning rate and a reading to be found."""
    base = data / f"base-{num_epochs:g}.toml"
    architecture = json.dumps(str(data / "open_clip_config.json"))
    base.write_text(
        f"architecture = {architecture}\nbatch_size = 8\nnum_epochs = {num_epochs}\nval_every_epochs = 1000\n"
        "report = false\n"
    )
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "reading": ["R1", "R2", "R4"]}
    small = {"data": [str(data / "train.tar")], "val_data": [str(data / "val.tar")], "base": base, "device": "cpu"}
    return SweepSettings(**{**small, "output": output, "trials": 4, "space": space, **changes})


def record_of(settings: SweepSettings) -> list[FrozenTrial]:
    storage = f"sqlite:///{settings.output / 'sweep.db'}"
    return optuna.load_study(study_name="sweep", storage=storage).trials


def finished_at(settings: SweepSettings, number: int) -> int:
    return (settings.output / f"trials/{number:04}/finished.json").stat().st_mtime_ns


@pytest.fixture(scope="module")
def swept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSettings:
    """A finished sweep of four trials; read only."""
    settings = sweep_settings(data, tmp_path_factory.mktemp("sweeps") / "four", keep_checkpoints=2)
    sweep(settings, QUIET)
    return settings


def test_every_trial_is_a_run_judged_by_its_best_measurement(swept: SweepSettings) -> None:
    record = record_of(swept)
    assert [trial.number for trial in record] == [0, 1, 2, 3]
    for trial in record:
        folder = swept.output / f"trials/{trial.number:04}"
        assert trial.value == json.loads((folder / "finished.json").read_text())[SELECTION_METRIC]
        told = json.loads((folder / "settings.json").read_text())["settings"]
        assert {name: told[name] for name in trial.params} == trial.params
    assert len({trial.params["learning_rate"] for trial in record}) == 4


def test_the_best_settings_are_a_file_for_anykey_train(swept: SweepSettings) -> None:
    best = max(record_of(swept), key=lambda trial: (trial.value, -trial.number))
    again = load_settings(TrainSettings, "anykey-train", ["--config", str(swept.output / "best.toml")])
    assert (again.learning_rate, again.reading) == (best.params["learning_rate"], best.params["reading"])
    assert (again.batch_size, again.data) == (8, swept.data)
    assert "output" not in again.model_fields_set


def test_the_best_is_told_with_its_interval_and_those_it_cannot_be_told_from(swept: SweepSettings) -> None:
    ranking = sorted(record_of(swept), key=lambda trial: (-(trial.value or 0.0), trial.number))
    (head, *_) = (swept.output / "best.toml").read_text().splitlines()
    told = re.search(
        r"on (\d+) held-out pairs \(95 % interval ([.\d]+) to ([.\d]+), which holds (\d+) other trials\)", head
    )
    assert told is not None
    best = ranking[0].value
    low, high, num_pairs = float(told[2]), float(told[3]), int(told[1])
    assert low <= best <= high
    # Wilson's interval is as wide only of fewer pairs than there are, as they do not count alike.
    z = 1.96
    spread = 2 * z / (1 + z**2 / num_pairs) * (best * (1 - best) / num_pairs + z**2 / num_pairs**2 / 4) ** 0.5
    assert high - low > spread + 0.002
    assert int(told[4]) == sum(trial.value >= low for trial in ranking) - 1


def test_the_list_of_trials_is_best_first(swept: SweepSettings) -> None:
    lines = [json.loads(line) for line in (swept.output / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert [line["value"] for line in lines] == sorted((line["value"] for line in lines), reverse=True)


def test_only_the_best_trials_keep_their_checkpoints(swept: SweepSettings) -> None:
    ranking = sorted(record_of(swept), key=lambda trial: (-(trial.value or 0.0), trial.number))
    kept = [(swept.output / f"trials/{trial.number:04}/best/encoder.json").is_file() for trial in ranking]
    assert kept == [True, True, False, False]


def test_the_same_command_adds_nothing_and_more_trials_only_the_rest(swept: SweepSettings, tmp_path: Path) -> None:
    shutil.copytree(swept.output, tmp_path / "again")
    settings = swept.model_copy(update={"output": tmp_path / "again"})
    before = [finished_at(settings, number) for number in range(4)]
    sweep(settings, QUIET)
    assert len(record_of(settings)) == 4
    sweep(settings.model_copy(update={"trials": 5}), QUIET)
    assert [finished_at(settings, number) for number in range(4)] == before
    assert [trial.state for trial in record_of(settings)] == [TrialState.COMPLETE] * 5
    assert len({trial.params["learning_rate"] for trial in record_of(settings)}) == 5


def test_a_trial_that_cannot_run_is_recorded_and_the_sweep_goes_on(data: Path, tmp_path: Path) -> None:
    settings = sweep_settings(data, tmp_path, trials=3, space={"lock_image": [True, False]}, seed=1)
    sweep(settings, QUIET)
    states = {trial.params["lock_image"]: trial.state for trial in record_of(settings)}
    assert states == {"true": TrialState.FAIL, "false": TrialState.COMPLETE}
    failed = next(trial.number for trial in record_of(settings) if trial.state is TrialState.FAIL)
    assert "needs a trained image tower" in (tmp_path / f"trials/{failed:04}/error.txt").read_text()
    assert len(record_of(settings)) == 3


def train_that(fails: Callable[[], object]) -> Callable[[TrainSettings, Console], TrainResult]:
    """A training that reaches the same with every reading but R1, and there fails."""

    def train(settings: TrainSettings, console: Console) -> TrainResult:
        if settings.reading == "R1":
            fails()
        return TrainResult(settings.output, True, {SELECTION_METRIC: 0.5})

    return train


MORE_BYTES_THAN_ADDRESSES = 2**50


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(MORE_BYTES_THAN_ADDRESSES, dtype=torch.uint8),
        lambda: np.empty(MORE_BYTES_THAN_ADDRESSES, np.uint8),
        lambda: bytes(MORE_BYTES_THAN_ADDRESSES),
    ],
    ids=["torch", "numpy", "python"],
)
def test_a_trial_that_does_not_fit_into_memory_is_recorded_and_the_sweep_goes_on(
    data: Path, tmp_path: Path, allocate: Callable[[], object]
) -> None:
    settings = sweep_settings(data, tmp_path, trials=6, space={"reading": ["R1", "R2"]})
    sweep(settings, QUIET, train_that(allocate))
    states = {(trial.params["reading"], trial.state) for trial in record_of(settings)}
    assert states == {("R1", TrialState.FAIL), ("R2", TrialState.COMPLETE)}
    (reason, *_) = (path.read_text() for path in tmp_path.glob("trials/*/error.txt"))
    assert reason.startswith("does not fit into memory")


def test_an_error_that_no_setting_explains_ends_the_sweep(data: Path, tmp_path: Path) -> None:
    settings = sweep_settings(data, tmp_path, trials=6, space={"reading": ["R1", "R2"]})
    with pytest.raises(RuntimeError, match=r"same size|inconsistent"):
        sweep(settings, QUIET, train_that(lambda: torch.ones(2) @ torch.ones(3)))


def test_a_sweep_of_failures_ends_with_the_reason(data: Path, tmp_path: Path) -> None:
    space = {"lock_image": [True, "true"]}
    with pytest.raises(InvalidRecipeError, match=r"none of 2 trials came to anything; the first: .*image tower"):
        sweep(sweep_settings(data, tmp_path, trials=2, space=space), QUIET)


def test_another_plan_is_not_mixed_into_the_record(data: Path, swept: SweepSettings) -> None:
    for changes in ({"seed": 5}, {"only": ["reading"]}, {"num_epochs": 2.0}, {"data": swept.val_data}):
        with pytest.raises(InvalidRecipeError, match="holds a sweep with another"):
            sweep(sweep_settings(data, swept.output, **changes), QUIET)


@pytest.mark.slow
def test_workers_share_the_trials_between_them(data: Path, tmp_path: Path) -> None:
    settings = sweep_settings(data, tmp_path, trials=3, workers=2)
    sweep(settings, QUIET)
    assert [trial.state for trial in record_of(settings)] == [TrialState.COMPLETE] * 3
    starts = [(tmp_path / f"worker-{number}.log").read_text().count("trial ") for number in (0, 1)]
    assert sum(starts) == 3


SWEEP = """
import sys
from rich.console import Console
from anykey.training.sweep.runner import sweep
from anykey.training.sweep.settings import SweepSettings
sweep(SweepSettings.model_validate_json(sys.argv[1]), Console(quiet=True))
"""


@pytest.mark.slow
def test_a_killed_trial_goes_on_with_its_own_settings(data: Path, tmp_path: Path) -> None:
    settings = sweep_settings(data, tmp_path, num_epochs=40.0, trials=2)
    with subprocess.Popen([sys.executable, "-c", SWEEP, settings.model_dump_json()]) as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "trials/0001/metrics.jsonl").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    first, cut = record_of(settings)
    assert (first.state, cut.state) == (TrialState.COMPLETE, TrialState.RUNNING)
    before = finished_at(settings, 0)
    sweep(settings, QUIET)
    record = record_of(settings)
    assert [trial.state for trial in record] == [TrialState.COMPLETE] * 2
    assert record[1].params == cut.params
    assert finished_at(settings, 0) == before


def test_a_trial_that_somebody_works_on_is_not_taken(data: Path, tmp_path: Path) -> None:
    settings = sweep_settings(data, tmp_path)
    mine = open_trials(settings).next(2)
    assert mine is not None
    with mine:
        other = open_trials(settings).next(2)
        assert other is not None
        with other:
            assert other.number == 1
            assert open_trials(settings).next(2) is None
    left = open_trials(settings).next(2)
    assert left is not None
    with left:
        assert (left.number, left.params) == (0, mine.params)


def test_without_optuna_the_extra_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingLibraryError, match=r"anykey\[sweep\]"):
        command.run(sweep_settings(data, tmp_path))
