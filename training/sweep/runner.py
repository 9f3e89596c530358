"""Searches settings with Optuna: every trial is a run of the trainer in a folder of its own."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep

import torch
from rich.console import Console
from rich.table import Table

from anykey.sources.pairs import without_secrets
from anykey.training.child import Child, threads_each
from anykey.training.errors import DivergedError, InvalidRecipeError
from anykey.training.run_settings import toml_text
from anykey.training.settings import TrainSettings
from anykey.training.sweep.settings import SweepSettings
from anykey.training.sweep.space import base_values, distributions, trial_settings
from anykey.training.sweep.trials import Trial, Trials
from anykey.training.trainer import TrainResult, train
from anykey.training.validation import HIGH_END, LOW_END, SELECTION_METRIC

Train = Callable[[TrainSettings, Console], TrainResult]

_POLL_S = 0.5
_SHOWN = 10


def sweep(settings: SweepSettings, console: Console, trainer: Train = train) -> None:
    """Runs trials until there are `settings.trials`, then writes `best.toml` and `trials.jsonl`.

    Args:
        settings: What is searched, and on what.
        console: Where progress is shown.
        trainer: Makes a run of a trial's settings; several processes at once use `train` always.

    Raises:
        TrainingError: the plan is not the record's, or not one trial came to anything.
        EncoderError, OSError: as of `train`.
    """
    trials = open_trials(settings)
    if settings.workers == 1:
        work(settings, trials, console, trainer)
    else:
        _in_processes(settings, trials, console)
    _report(settings, trials, console)


def open_trials(settings: SweepSettings) -> Trials:
    """The record of the sweep that the settings describe."""
    data = [[without_secrets(name) for name in names] for names in (settings.data, settings.val_data)]
    shared = {"data": data[0], "val_data": data[1], "seed": settings.seed}
    space = {name: str(distribution) for name, distribution in distributions(settings).items()}
    base = {name: str(value) for name, value in base_values(settings).items()}
    plan = json.dumps({**shared, "base": base, "space": space}, sort_keys=True)
    return Trials(settings.output, distributions(settings), settings.seed, plan)


def work(settings: SweepSettings, trials: Trials, console: Console, trainer: Train = train) -> None:
    """Takes one trial after the other until there are enough."""
    while (trial := trials.next(settings.trials)) is not None:
        with trial:
            console.print(f"trial {trial.number}: {_in_words(trial.params)}")
            _run(settings, trials, trial, console, trainer)


def _run(settings: SweepSettings, trials: Trials, trial: Trial, console: Console, trainer: Train) -> None:
    """One trial; what its own settings make of it is a result, anything else ends the sweep."""
    try:
        result = trainer(trial_settings(settings, trial.params, trial.folder), console)
    except (DivergedError, InvalidRecipeError) as error:
        reason = str(error)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"does not fit into memory: {error}".rstrip(": ")  # Python's own says no more
    else:
        trials.succeed(trial, result.best[SELECTION_METRIC], settings.keep_checkpoints)
        return
    trials.fail(trial, reason)
    console.print(f"trial {trial.number} failed: {reason}")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, of the machine or of the GPU; for the machine's, torch has no class of error."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _in_processes(settings: SweepSettings, trials: Trials, console: Console) -> None:
    line = settings.model_dump_json()
    logs = [settings.output / f"worker-{number}.log" for number in range(settings.workers)]
    workers = [Child("anykey.training.sweep.worker", line, log, threads_each(settings.workers)) for log in logs]
    shown: set[int] = {trial.number for trial in (*trials.ranking(), *trials.failed())}
    try:
        while not all([worker.is_done() for worker in workers]):
            _show_new(trials, shown, console)
            sleep(_POLL_S)
        _show_new(trials, shown, console)
    finally:
        for worker in workers:
            worker.end()


def _show_new(trials: Trials, shown: set[int], console: Console) -> None:
    for trial in (*trials.ranking(), *trials.failed()):
        if trial.number not in shown:
            shown.add(trial.number)
            value = "failed" if trial.value is None else f"{trial.value:.4f}"
            console.print(f"trial {trial.number}: {value}, {_in_words(trial.params)}")


def _report(settings: SweepSettings, trials: Trials, console: Console) -> None:
    ranking, failed = trials.ranking(), trials.failed()
    if not ranking:
        why = (trials.folder_of(failed[0].number) / "error.txt").read_text().strip() if failed else "none was run"
        raise InvalidRecipeError(f"none of {len(failed)} trials came to anything; the first: {why}")
    lines = [{"trial": trial.number, "value": trial.value, "params": trial.params} for trial in (*ranking, *failed)]
    (settings.output / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = Table("trial", SELECTION_METRIC, *ranking[0].params, box=None)
    for trial in ranking[:_SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:.4f}", *(_short(value) for value in trial.params.values()))
    console.print(table)
    best = ranking[0]
    chosen = trial_settings(settings, best.params, trials.folder_of(best.number))
    path = settings.output / "best.toml"
    head = f"Trial {best.number}, the best of {len(ranking)}: {SELECTION_METRIC} {best.value:.4f}"
    sure = _how_sure([trial.value or 0.0 for trial in ranking], trials.folder_of(best.number))
    path.write_text(f"# {head}{sure}\n{toml_text(chosen, leave_out={'output', 'overwrite'})}")
    console.print(f"{head}{sure}")
    console.print(f"{len(ranking)} trials, {len(failed)} more failed; best settings: {path}")
    console.print(f"checkpoint: {trials.folder_of(best.number) / 'best'}")


def _how_sure(ranking: Sequence[float], folder: Path) -> str:
    """How much of a lead may be the held-out pairs' doing."""
    try:
        told = json.loads((folder / "finished.json").read_text())
        num_pairs, low, high = (told[name] for name in ("num_pairs", LOW_END, HIGH_END))
    except (OSError, ValueError, KeyError):  # a trial of an earlier release does not say
        return " on the held-out pairs"
    num_near = sum(other >= low for other in ranking) - 1
    return (
        f" on {num_pairs:,.0f} held-out pairs (95 % interval {low:.3f} to {high:.3f}, which holds {num_near} other "
        "trials); the best of many flatters itself"
    )


def _in_words(params: dict[str, object]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in params.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
