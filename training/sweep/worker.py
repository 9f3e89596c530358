"""One worker of a sweep in a process of its own: `python -m training.sweep.worker`, its settings as JSON on stdin."""

import sys

from encoder.errors import EncoderError
from encoder.program import EXIT_ENVIRONMENT, fail, plain_console
from training.child import job
from training.errors import TrainingError
from training.sweep.runner import open_trials, work
from training.sweep.settings import SweepSettings


def main() -> int:
    """Works on trials until there are enough; gives the exit code back."""
    settings = SweepSettings.model_validate_json(job())
    try:
        work(settings, open_trials(settings), plain_console())
    except (TrainingError, EncoderError, OSError) as error:
        return fail("anykey-train sweep", str(error), EXIT_ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
