"""`anykey-train`: pairs to a checkpoint."""

import sys

from rich.console import Console

from encoder.errors import DeviceUnavailableError, EncoderError
from encoder.program import Command, run_program
from training.errors import DivergedError, InvalidPairsError, InvalidRecipeError
from training.settings import TrainSettings


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; gives the exit code back."""
    return run_program(
        "anykey-train",
        {"train": Command(TrainSettings, _train)},
        argv,
        usage_errors=(InvalidPairsError, InvalidRecipeError),
        environment_errors=(DivergedError, EncoderError, DeviceUnavailableError, OSError),
        default="train",
    )


def _train(settings: TrainSettings) -> int:
    from training.trainer import train

    console = Console(highlight=False, soft_wrap=True)
    result = train(settings, console)
    console.print(f"checkpoint: {result.output / 'best'} (step {result.best['step']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
