"""One training run in a process of its own: `python -m training.study.worker`, its settings as JSON on stdin."""

import json
import sys

from encoder.errors import EncoderError
from encoder.program import EXIT_ENVIRONMENT, fail, plain_console
from training.child import job
from training.errors import TrainingError
from training.run_settings import run_settings
from training.trainer import train


def main() -> int:
    """Trains; gives the exit code back."""
    settings = run_settings("the run", json.loads(job()))
    try:
        train(settings, plain_console())
    except (TrainingError, EncoderError, OSError) as error:
        return fail("anykey-train", str(error), EXIT_ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
