"""The commands of `anykey-train`."""

from anykey.encoder.errors import DeviceUnavailableError, EncoderError
from anykey.program.settings import Command, plain_console, run_program
from anykey.sources.errors import SourceError
from anykey.training.errors import InvalidRecipeError, TooManyBadRowsError, TrainingError
from anykey.training.interpolate_settings import InterpolateSettings
from anykey.training.settings import TrainSettings
from anykey.training.study.settings import StudySettings
from anykey.training.sweep.settings import SweepSettings


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    return run_program(
        "anykey-train",
        {
            "train": Command(TrainSettings, _train),
            "interpolate": Command(InterpolateSettings, _interpolate),
            "study": Command(StudySettings, _study),
            "sweep": Command(SweepSettings, _sweep),
        },
        argv,
        usage_errors=(SourceError, TooManyBadRowsError, InvalidRecipeError),
        environment_errors=(TrainingError, EncoderError, DeviceUnavailableError, OSError),
        default="train",
    )


def _train(settings: TrainSettings) -> int:
    from anykey.training.trainer import train

    train(settings, plain_console())
    return 0


def _interpolate(settings: InterpolateSettings) -> int:
    from anykey.training.interpolate import interpolate_checkpoints

    fingerprint = interpolate_checkpoints(settings)
    console = plain_console()
    console.print(f"checkpoint: {settings.output} ({fingerprint})")
    return 0


def _study(settings: StudySettings) -> int:
    from anykey.training.study.command import run as compare

    return compare(settings)


def _sweep(settings: SweepSettings) -> int:
    from anykey.training.sweep.command import run as search

    return search(settings)
