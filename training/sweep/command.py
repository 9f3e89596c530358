"""What `anykey-train sweep` does; without Optuna, it says so."""

from anykey.program.extras import require_library
from anykey.program.settings import plain_console
from anykey.training.sweep.settings import SweepSettings


def run(settings: SweepSettings) -> int:
    """Runs the sweep; gives the exit code back.

    Raises:
        MissingLibraryError: Optuna is not installed.
        TrainingError, EncoderError, OSError: as of the trials.
    """
    require_library("optuna", "sweep", "anykey-train sweep")
    from anykey.training.sweep.runner import sweep

    sweep(settings, plain_console())
    return 0
