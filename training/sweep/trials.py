"""The trials of a sweep: shared by all its processes through one SQLite file, and taken over from those that died.

A process holds a lock on its trial's folder while it trains. The kernel frees it when the process ends, however
that comes about; a trial that runs by the record and is locked by nobody goes on in whoever finds it first.

sweep.db        Optuna's record of the trials; `optuna-dashboard` reads it
sweep.lock      held while trials are handed out and accounted for
trials/0007/    a trial's run folder; `error.txt` says why it failed
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from anykey.training.errors import InvalidRecipeError

_STUDY = "sweep"
_PLAN = "plan"


@dataclass
class Trial:
    """One trial that this process works on.

    Attributes:
        number: Its place in the sweep, from 0.
        params: What Optuna proposes.
        folder: Its run folder.
    """

    number: int
    params: dict[str, Any]
    folder: Path
    _lock: TextIO

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


class Trials:
    """The record of a sweep in its folder."""

    def __init__(self, folder: Path, space: Mapping[str, BaseDistribution], seed: int, plan: str) -> None:
        """Opens the record, or begins one.

        Args:
            folder: The sweep's folder.
            space: What is searched.
            seed: Seed of the search.
            plan: What the trials share; a record of another plan is not added to.

        Raises:
            InvalidRecipeError: the folder holds a sweep of another plan.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder = folder
        self._space = dict(space)
        self._seed = seed
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._study = optuna.create_study(
                storage=f"sqlite:///{folder / 'sweep.db'}", study_name=_STUDY, direction="maximize", load_if_exists=True
            )
            known = self._study.user_attrs.get(_PLAN)
            if known is None:
                self._study.set_user_attr(_PLAN, plan)
            elif known != plan:
                raise InvalidRecipeError(
                    f"{folder} holds a sweep with another space, base, data or seed: continue it as it was begun, "
                    "or give another --output"
                )

    def next(self, num_trials: int) -> Trial | None:
        """A trial to work on: one that a dead process left, else a new one; `None` when there are enough."""
        with self._locked():
            for left in self._all(TrialState.RUNNING):
                lock = self._take(left.number)
                if lock is not None and left.params.keys() == self._space.keys():
                    return Trial(left.number, left.params, self.folder_of(left.number), lock)
                if lock is not None:  # its process died while it was handed out
                    self._study.tell(left.number, state=TrialState.FAIL)
                    lock.close()
            if len(self._counted()) >= num_trials:
                return None
            # A search that goes on must not draw again what it drew first.
            self._study.sampler = TPESampler(seed=self._seed + len(self._all()), constant_liar=True)
            new = self._study.ask(self._space)
            lock = self._take(new.number)
            assert lock is not None  # nobody else knows of it yet
            return Trial(new.number, new.params, self.folder_of(new.number), lock)

    def succeed(self, trial: Trial, value: float, keep_checkpoints: int) -> None:
        """Records a finished trial; checkpoints of all but the best few are deleted."""
        with self._locked():
            self._study.tell(trial.number, value)
            for other in self.ranking()[keep_checkpoints:]:
                for name in ("best", "last"):
                    shutil.rmtree(self.folder_of(other.number) / name, ignore_errors=True)

    def fail(self, trial: Trial, reason: str) -> None:
        """Records a trial that came to nothing, and why."""
        (trial.folder / "error.txt").write_text(reason + "\n")
        with self._locked():
            self._study.tell(trial.number, state=TrialState.FAIL)

    def ranking(self) -> list[FrozenTrial]:
        """The trials with a value, best first."""
        return sorted(self._all(TrialState.COMPLETE), key=lambda trial: (-(trial.value or 0.0), trial.number))

    def failed(self) -> list[FrozenTrial]:
        """The trials that came to nothing."""
        return [trial for trial in self._all(TrialState.FAIL) if trial.params.keys() == self._space.keys()]

    def folder_of(self, number: int) -> Path:
        """A trial's run folder."""
        return self._folder / "trials" / f"{number:04}"

    def _counted(self) -> list[FrozenTrial]:
        return [*self._all(TrialState.COMPLETE), *self._all(TrialState.RUNNING), *self.failed()]

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _take(self, number: int) -> TextIO | None:
        """The lock on a trial, or `None` when a living process holds it."""
        folder = self.folder_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "sweep.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
