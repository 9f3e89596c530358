"""One training run in a process of its own: `python -m training.study.worker`, settings as one line of JSON on stdin.

It ends when stdin closes, so that a run never outlives the study that started it, however that ended.
"""

import json
import os
import sys
import threading

from rich.console import Console

from encoder.errors import DeviceUnavailableError, EncoderError
from encoder.program import EXIT_ENVIRONMENT, EXIT_USAGE, fail
from training.errors import InvalidPairsError, InvalidRecipeError, TrainingError
from training.study.run_settings import run_settings
from training.trainer import train


def main() -> int:
    """Trains; gives the exit code back."""
    settings = run_settings("the run", json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        train(settings, Console(highlight=False, soft_wrap=True))
    except (InvalidPairsError, InvalidRecipeError) as error:
        return fail("anykey-train", str(error), EXIT_USAGE)
    except (TrainingError, EncoderError, DeviceUnavailableError, OSError) as error:
        return fail("anykey-train", str(error), EXIT_ENVIRONMENT)
    return 0


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(EXIT_ENVIRONMENT)


if __name__ == "__main__":
    sys.exit(main())
