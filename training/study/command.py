"""What `anykey-train study` does."""

from anykey.program.settings import plain_console
from anykey.sources.errors import NoPairsError
from anykey.training.study.evaluation import Evaluator
from anykey.training.study.plan import make_plan
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
    runs = make_plan(settings)
    if not settings.report_only:
        run_plan(runs, settings.workers, console)
    finished = [run for run in runs if is_finished(run.settings)]
    if not finished:
        raise NoPairsError(f"nothing to report: no run of the plan is finished in {settings.output}")
    evaluator = Evaluator(settings, console)
    results = Results(row for run in finished for row in evaluator.measure(run))
    page = write_report(settings, runs, finished, results, evaluator)
    console.print(f"{len(finished)} of {len(runs)} runs measured; report: {page}")
    return 0
