"""Runs a plan, one training after the other or several at once; what is finished already is left as it is."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic, sleep

from rich.console import Console

from training.run_folder import finished_run, run_digest
from training.settings import TrainSettings
from training.sources import expand
from training.study.errors import RunFailedError
from training.study.plan import Run
from training.trainer import train

_POLL_S = 0.1
LOG_NAME = "log.txt"


def is_finished(settings: TrainSettings) -> bool:
    """Whether the run folder holds a finished run with these settings and data."""
    files = expand([*settings.data, *settings.val_data])
    return finished_run(settings.output, run_digest(settings, files)) is not None


def run_plan(runs: Sequence[Run], workers: int, console: Console) -> None:
    """Trains every run of the plan that is not finished.

    Args:
        runs: The plan; each run after the one it needs.
        workers: Trainings at once. With 1 they run in this process, else each in one of its own.
        console: Where progress is shown.

    Raises:
        TrainingError: a run failed; the study stops, and goes on with that run when it is started again.
        EncoderError, OSError: as of `train`.
    """
    if workers > 1:
        _in_processes(list(runs), workers, console)
        return
    for number, run in enumerate(runs, 1):
        if is_finished(run.settings):
            continue
        console.rule(f"run {number} of {len(runs)}: {run.variant}, seed {run.seed}", align="left")
        train(run.settings, console)


def _in_processes(waiting: list[Run], workers: int, console: Console) -> None:
    """A run starts as soon as a worker is free and the run it needs is finished."""
    done = {run.folder for run in waiting if run.needs is None and is_finished(run.settings)}
    waiting = [run for run in waiting if run.folder not in done]
    total, working = len(waiting), list[_Worker]()
    try:
        while waiting or working:
            for run in _ready(waiting, done)[: workers - len(working)]:
                waiting.remove(run)
                if is_finished(run.settings):
                    done.add(run.folder)
                else:
                    working.append(_Worker(run, _threads(workers)))
            for worker in [worker for worker in working if worker.is_done()]:
                working.remove(worker)
                done.add(worker.run.folder)
                console.print(f"{total - len(waiting) - len(working)} of {total}: {worker.summary()}")
            sleep(_POLL_S)
    finally:
        for worker in working:
            worker.end()


def _ready(waiting: Iterable[Run], done: set[Path]) -> list[Run]:
    return [run for run in waiting if run.needs is None or run.needs in done]


class _Worker:
    """One run in its own process, with its output in the run folder's log."""

    def __init__(self, run: Run, num_threads: int) -> None:
        self.run = run
        self._log = run.folder / LOG_NAME
        self._began = monotonic()
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
        with self._log.open("w") as log:
            # Its own session: Ctrl-C reaches the study alone, which then ends its workers.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "training.study.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(run.settings.model_dump_json(exclude_unset=True) + "\n")
        self._process.stdin.flush()

    def is_done(self) -> bool:
        """Whether it has ended well; raises `RunFailedError` when it ended otherwise."""
        code = self._process.poll()
        if code is not None:
            self._close()
        if code:
            lines = self._log.read_text().split("\n")
            last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
            raise RunFailedError(f"{self._name()}: {last.removeprefix('anykey-train: error: ')}; see {self._log}")
        return code == 0

    def summary(self) -> str:
        """Which run, and how long it took."""
        return f"{self._name()}, {(monotonic() - self._began) / 60:.1f} min"

    def end(self) -> None:
        """Ends the process if it still runs, and waits for its end."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _name(self) -> str:
        return f"{self.run.variant}, seed {self.run.seed}"


def _threads(workers: int) -> int:
    """Each worker's share of the cores; a number set in the environment wins."""
    return max(1, len(os.sched_getaffinity(0)) // workers)
