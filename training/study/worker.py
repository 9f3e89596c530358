"""One training run in a process of its own: `python -m anykey.training.study.worker`, its settings as JSON on stdin."""

import json
import sys

from anykey.encoder.errors import EncoderError
from anykey.program.settings import EXIT_ENVIRONMENT, fail, plain_console
from anykey.sources.errors import SourceError
from anykey.training.child import job
from anykey.training.errors import TrainingError
from anykey.training.run_settings import run_settings
from anykey.training.trainer import train


def main() -> int:
    """Trains; gives the exit code back."""
    settings = run_settings("the run", json.loads(job()))
    try:
        train(settings, plain_console())
    except (SourceError, TrainingError, EncoderError, OSError) as error:
        return fail("anykey-train", str(error), EXIT_ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
