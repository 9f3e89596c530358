"""What `anykey-train sweep` does; without Optuna, it says so."""

from importlib.util import find_spec

from anykey.program.settings import plain_console
from anykey.training.errors import MissingLibraryError
from anykey.training.sweep.settings import SweepSettings


def run(settings: SweepSettings) -> int:
    """Runs the sweep; gives the exit code back.

    Raises:
        MissingLibraryError: Optuna is not installed.
        TrainingError, EncoderError, OSError: as of the trials.
    """
    if find_spec("optuna") is None:
        raise MissingLibraryError("a sweep is guided by Optuna: pip install 'anykey[sweep]'")
    from anykey.training.sweep.runner import sweep

    sweep(settings, plain_console())
    return 0
