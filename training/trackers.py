"""Where a run's numbers go beside its own `metrics.jsonl`: TensorBoard always, Weights & Biases when asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from anykey.training.errors import InvalidRecipeError


class Tracker(Protocol):
    """Keeps numbers by name and step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keeps the numbers of one step; several calls for one step add up."""

    def close(self) -> None:
        """Writes what is still held back; nothing may be logged afterwards."""


class TensorBoardTracker:
    """An event file for `tensorboard --logdir`."""

    def __init__(self, path: Path, purge_step: int | None = None) -> None:
        """Opens a new event file in `path`.

        Args:
            path: The run folder; files of an earlier part of the run may be there.
            purge_step: First step of a resumed run: what earlier files say of it and later steps is not shown.

        Raises:
            OSError: the folder cannot be written.
        """
        self._writer = SummaryWriter(log_dir=str(path), purge_step=purge_step)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds one scalar a name."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def import_wandb() -> Any:
    """The package.

    Raises:
        InvalidRecipeError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise InvalidRecipeError(
            "numbers are to go to Weights & Biases, but the package wandb is not installed: pip install 'anykey[wandb]'"
        ) from error
    return wandb


class WandbTracker:
    """A run at Weights & Biases. A resumed run goes on under the same id.

    Where it goes is W&B's own setting: `WANDB_API_KEY` or `wandb login`, `WANDB_BASE_URL`, and
    `WANDB_MODE=offline`, which keeps everything in `folder`/wandb until `wandb sync`.
    """

    def __init__(self, project: str, name: str, settings: Mapping[str, Any], run_id: str, folder: Path) -> None:
        """Starts the run, or goes on with it.

        Args:
            project: W&B's project.
            name: What the run is called there.
            settings: The run's resolved settings, as JSON has them.
            run_id: Fixed for the run, so that it can go on; letters, digits, `-` and `_`.
            folder: Where W&B keeps its files; the run folder.

        Raises:
            InvalidRecipeError: wandb is not installed, or refuses: no key, no network, a name it cannot use.
        """
        wandb = import_wandb()
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                config=dict(settings),
                id=run_id,
                dir=str(folder),
                resume="allow",
                # Left alone, W&B would put itself between the terminal and the progress bars.
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise InvalidRecipeError(
                f"Weights & Biases cannot be used: {error} (`wandb login` stores a key; WANDB_MODE=offline needs none)"
            ) from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds the numbers; a step the run had passed before it was resumed is there already."""
        if step >= self._run.step:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Hands everything to W&B, and waits for it."""
        self._run.finish()
