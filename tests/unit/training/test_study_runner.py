"""A study runs what is not finished, goes on where it was cut, and leaves no process behind."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from anykey.training.errors import RunFailedError, TooManyBadRowsError
from anykey.training.study.plan import Run, make_plan
from anykey.training.study.runner import is_finished, run_plan
from tests.study_runs import study_settings, write_study_data

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_data(tmp_path_factory.mktemp("data"))


def stamps(runs: list[Run]) -> list[int]:
    return [(run.folder / "finished.json").stat().st_mtime_ns for run in runs]


@pytest.mark.slow
def test_every_run_is_trained_once_and_a_lost_or_stale_one_again(data: Path, tmp_path: Path) -> None:
    runs = make_plan(study_settings(data, tmp_path))
    assert not any(is_finished(run.settings) for run in runs)
    run_plan(runs, 1, QUIET)
    assert all(is_finished(run.settings) for run in runs)
    before = stamps(runs)
    (runs[1].folder / "finished.json").unlink()
    run_plan(runs, 1, QUIET)
    after = stamps(runs)
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    longer = {**study_settings(data, tmp_path).start, "num_epochs": 3}
    runs = make_plan(study_settings(data, tmp_path, start=longer))
    run_plan(runs[:1], 1, QUIET)
    assert [is_finished(run.settings) for run in runs] == [True, False, False]


@pytest.mark.slow
def test_processes_train_what_this_process_would(data: Path, tmp_path: Path) -> None:
    settings = study_settings(data, tmp_path, only=["gcl-R2"])
    runs = make_plan(settings)
    run_plan(runs, 1, QUIET)
    weights = runs[1].checkpoint / "open_clip_model.safetensors"
    here = weights.read_bytes()
    shutil.rmtree(runs[1].folder)
    run_plan(runs, 2, QUIET)
    assert weights.read_bytes() == here


@pytest.mark.parametrize(
    ("workers", "error"), [(1, TooManyBadRowsError), pytest.param(2, RunFailedError, marks=pytest.mark.slow)]
)
def test_a_failing_run_stops_the_study_and_says_why(
    data: Path, tmp_path: Path, workers: int, error: type[Exception]
) -> None:
    variants = [{"name": "small-pictures", "settings": {"max_image_pixels": 1024}}]
    runs = make_plan(study_settings(data, tmp_path, variants=variants))
    run_plan(runs[:1], 1, QUIET)
    with pytest.raises(error, match="16 of 16 rows are bad"):
        run_plan(runs, workers, QUIET)
    assert [is_finished(run.settings) for run in runs] == [True, False]


STUDY = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from anykey.training.study.command import run
from anykey.training.study.settings import StudySettings
run(StudySettings(**json.load(open(sys.argv[1])), workers=2))
"""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_no_run_outlives_a_study_that_is_killed_or_interrupted(
    data: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    settings = study_settings(data, tmp_path / "out", start={**study_settings(data, tmp_path).start, "num_epochs": 1e4})
    plan = tmp_path / "plan.json"
    plan.write_text(settings.model_dump_json(exclude_unset=True))
    command = [sys.executable, "-c", STUDY, str(plan)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as study:
        wait_until(lambda: (tmp_path / "out/runs/start/seed-0/metrics.jsonl").is_file())
        (worker,) = children(study.pid)
        study.send_signal(signal_number)
        study.wait(30)
    wait_until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
