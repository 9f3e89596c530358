"""One worker of a sweep, in its own process: `python -m anykey.training.sweep.worker`, with JSON settings on stdin."""

import sys

from anykey.encoder.errors import EncoderError
from anykey.program.settings import EXIT_ENVIRONMENT, fail, plain_console
from anykey.sources.errors import SourceError
from anykey.training.child import job
from anykey.training.errors import TrainingError
from anykey.training.sweep.runner import open_trials, work
from anykey.training.sweep.settings import SweepSettings


def main() -> int:
    """Works on trials until there are enough; gives the exit code back."""
    settings = SweepSettings.model_validate_json(job())
    try:
        work(settings, open_trials(settings), plain_console())
    except (SourceError, TrainingError, EncoderError, OSError) as error:
        return fail("anykey-train sweep", str(error), EXIT_ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
