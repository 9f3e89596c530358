"""What an index's structure loses: a task searched as users search, beside the same task with every key compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anykey.benchmark.client import Answer
from anykey.benchmark.metrics import resampled
from anykey.benchmark.scoring import FIRST_HITS, Number, TaskResult

_ROUNDING = 1e-6  # by how much scores of one key may differ


@dataclass(frozen=True)
class Loss:
    """One task in both ways.

    Attributes:
        approximate: As users search.
        exact: Every key compared.
        lost: By how much the exact search's headline is higher, with the interval of the queries' own differences.
        kept: Share of the exact search's first 10 hits that the approximate one has among its own, over all queries.
    """

    approximate: TaskResult
    exact: TaskResult
    lost: Number
    kept: float


def losses_of(measured: Sequence[tuple[TaskResult, Mapping[str, Answer]]]) -> list[Loss]:
    """Every task that was searched in both ways, in the order of the tasks.

    Args:
        measured: Each task's results and answers.
    """
    exact = {result.task: (result, answers) for result, answers in measured if result.exact}
    return [
        _loss(result, answers, *exact[result.task])
        for result, answers in measured
        if not result.exact and result.task in exact
    ]


def _loss(
    approximate: TaskResult, answers: Mapping[str, Answer], exact: TaskResult, exact_answers: Mapping[str, Answer]
) -> Loss:
    name = approximate.task.headline
    lost_Q = exact.values[name] - approximate.values[name]
    low, high = np.percentile(resampled(lost_Q), [2.5, 97.5])
    shares = [_kept(answers[query], exact_answers[query]) for query in exact.queries]
    return Loss(approximate, exact, Number(float(lost_Q.mean()), float(low), float(high)), float(np.mean(shares)))


def _kept(answer: Answer, exact: Answer) -> float:
    """Share of the first exact hits that were found; another key of the last one's score is as good."""
    best = exact.hits[:FIRST_HITS]
    names, last = {hit.key for hit in best}, best[-1].score
    found = [hit for hit in answer.hits[: len(best)] if hit.key in names or abs(hit.score - last) <= _ROUNDING]
    return len(found) / len(best)
