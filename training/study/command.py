"""What `anykey-train study` does."""

from rich.console import Console

from anykey.program.settings import plain_console
from anykey.sources.errors import NoPairsError
from anykey.training.study.evaluation import Evaluator, choose
from anykey.training.study.plan import Run, make_plan, make_search
from anykey.training.study.report import write_report
from anykey.training.study.results import Results
from anykey.training.study.runner import is_finished, run_plan
from anykey.training.study.settings import StudySettings


def run(settings: StudySettings) -> int:
    """Trains what is not trained yet and writes the report; gives the exit code back.

    Raises:
        TrainingError, EncoderError, OSError: as of the runs.
    """
    console = plain_console()
    evaluator = Evaluator(settings, console)
    trials = evaluator.search(_run(settings, make_search(settings), console)) if settings.search else []
    runs = make_plan(settings, choose(trials))
    finished = _run(settings, runs, console)
    if not finished:
        raise NoPairsError(f"nothing to report: no run of the plan is finished in {settings.output}")
    results = Results(row for run in finished for row in evaluator.measure(run))
    page = write_report(settings, runs, finished, results, evaluator, trials)
    console.print(f"{len(finished)} of {len(runs)} runs measured; report: {page}")
    return 0


def _run(settings: StudySettings, runs: list[Run], console: Console) -> list[Run]:
    """Trains what is not trained yet, if it may; gives back what is."""
    if not settings.report_only:
        run_plan(runs, settings.workers, console)
    return [run for run in runs if is_finished(run.settings)]
