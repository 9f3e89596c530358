"""Runs a plan, one training after the other or several at once; what is finished already is left as it is."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic, sleep

from rich.console import Console

from anykey.training.child import Child, threads_each
from anykey.training.errors import RunFailedError
from anykey.training.run_folder import finished_run, run_digest
from anykey.training.settings import TrainSettings
from anykey.training.study.plan import Run
from anykey.training.trainer import train

_POLL_S = 0.1
LOG_NAME = "log.txt"


def is_finished(settings: TrainSettings) -> bool:
    """Whether the run folder holds a finished run with these settings and data."""
    return finished_run(settings.output, run_digest(settings)) is not None


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
    runs = list({run.folder: run for run in runs}.values())
    if workers > 1:
        _in_processes(runs, workers, console)
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
                    working.append(_Worker(run, threads_each(workers)))
            for worker in [worker for worker in working if worker.is_done()]:
                working.remove(worker)
                worker.end()
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
        self._began = monotonic()
        line = run.settings.model_dump_json(exclude_unset=True)
        self._child = Child("anykey.training.study.worker", line, run.folder / LOG_NAME, num_threads)

    def is_done(self) -> bool:
        """Whether it has ended well; raises `RunFailedError` when it ended otherwise."""
        try:
            return self._child.is_done()
        except RunFailedError as error:
            raise RunFailedError(f"{self._name()}: {error}") from error

    def summary(self) -> str:
        """Which run, and how long it took."""
        return f"{self._name()}, {(monotonic() - self._began) / 60:.1f} min"

    def end(self) -> None:
        """Ends the process if it still runs."""
        self._child.end()

    def _name(self) -> str:
        return f"{self.run.variant}, seed {self.run.seed}"
