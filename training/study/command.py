"""What `anykey-train study` does."""

from rich.console import Console

from training.study.plan import make_plan
from training.study.runner import run_plan
from training.study.settings import StudySettings


def run(settings: StudySettings) -> int:
    """Trains what is not trained yet and writes the report; gives the exit code back."""
    console = Console(highlight=False, soft_wrap=True)
    runs = make_plan(settings)
    if not settings.report_only:
        run_plan(runs, settings.workers, console)
    return 0
