"""Training runs that are killed with SIGKILL; run as a program, so that only its children die.

python -m tests.killed_training FOLDER STEPS OPERATIONS

Trains once without interruption; then kills a run at every STEPS-th step and every OPERATIONS-th file operation, and
lets the same call finish it. Prints a line a kill: where, and whether the weights are bit-identical.
"""

import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_post_hook

from anykey.training.settings import TrainSettings
from anykey.training.trainer import train
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.killing import Killer
from tests.training_runs import make_settings

STEPS = 9


def settings(folder: Path, name: str) -> TrainSettings:
    """A run with everything that has a state: averages, word dropout, patch dropout, momentum, two passes and a bit."""
    return make_settings(
        folder / "train.tar",
        folder / name,
        val_data=[str(folder / "val.tar")],
        architecture=str(folder / "small.json"),
        num_epochs=STEPS / 4,
        save_every_steps=2,
        val_every_epochs=1.0,
        ema_decay=0.9,
        drop_tokens=0.2,
        mirror_images=True,
        color_jitter=0.2,
        micro_batch_size=3,
        temperature_per_pair=True,
        report=False,
    )


def run(folder: Path, name: str, arm: Callable[[], None] = lambda: None) -> bool:
    """Trains in a process of its own; gives whether it was killed."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        arm()
        train(settings(folder, name), Console(quiet=True))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"run {name} failed")
    return os.WIFSIGNALED(status)


def digest(folder: Path, name: str) -> str:
    """Of both checkpoints' weights and of what was measured."""
    found = hashlib.sha256()
    for checkpoint in ("best", "last"):
        found.update((folder / name / checkpoint / "open_clip_model.safetensors").read_bytes())
    return found.hexdigest()


def kill_at_operation(folder: Path, name: str, number: int) -> Callable[[], None]:
    """Ends the process at its file operation of this number below the run folder."""
    return Killer(folder / name, number).start


def kill_in_step(number: int) -> Callable[[], None]:
    """Ends the process after the update of this step, from 0, before anything of it is written."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: after_update(number, die)


def after_update(number: int, act: Callable[[], None]) -> None:
    """Lets this process act after the optimizer's update of this number, from 0; only then."""
    updates = itertools.count()

    def count(*_: object) -> None:
        if next(updates) == number:
            hook.remove()
            act()

    hook = register_optimizer_step_post_hook(count)


def main(folder: Path, step_stride: int, operation_stride: int) -> None:
    """Runs, kills, finishes, compares."""
    write_shard(folder / "train.tar", drawn_pairs(32))
    write_shard(folder / "val.tar", drawn_pairs(6))
    run(folder, "whole")
    expected = digest(folder, "whole")
    kills = [(f"step-{number}", kill_in_step(number)) for number in range(0, STEPS, step_stride)]
    for name, arm in kills:
        assert run(folder, name, arm)
        run(folder, name)
        print(name, digest(folder, name) == expected, flush=True)  # noqa: T201
    for number in range(0, 10_000, operation_stride):
        name = f"operation-{number}"
        was_killed = run(folder, name, kill_at_operation(folder, name, number))
        run(folder, name)
        print(name, digest(folder, name) == expected, flush=True)  # noqa: T201
        if not was_killed:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
