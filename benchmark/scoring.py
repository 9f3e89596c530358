"""Scores the answers of one task: ranking metrics with their intervals, whose keys were wrong and how, latencies."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import MODALITIES, Hit, Mean, Published, Query, Summary, Task
from anykey.benchmark.metrics import bootstrap, measured

NDCG_K = 10
FIRST_HITS = 10  # whose modalities are counted
PERCENTILES = (50, 90, 99)
CURVE_PERCENTS = range(0, 101, 5)


@dataclass(frozen=True)
class Number:
    """A mean over queries, or over tasks.

    Attributes:
        value: The mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """What one task scored.

    Attributes:
        task: The task.
        exact: Whether every key was compared.
        num_keys: Keys it searched among, as the service's index counts them; where every query has candidates of its
            own, the most of one query.
        queries: The queries' ids, in the order of all values here.
        values: Metric name to each query's value.
        ranks: Of each query, the ranks of its relevant keys among the hits, from 1.
        wrong: Of the first hits of all queries, the share that is wrong, by cut-off, and how many of these have
            another modality than the task looks for, or come from another source than the query.
        modalities: Of the first 10 hits of all queries, the share of each modality.
        published: Numbers by the rules of published code, where those differ from the definitions.
        serving: Latencies in milliseconds, shares and counts that belong to no metric.
    """

    task: Task
    exact: bool
    num_keys: int
    queries: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    ranks: tuple[tuple[int, ...], ...]
    wrong: Mapping[str, Mapping[int, float]]
    modalities: Mapping[str, float]
    published: tuple[Published, ...]
    serving: Mapping[str, Any]
    numbers: Mapping[str, Number] = field(init=False)

    def __post_init__(self) -> None:
        numbers = {name: Number(float(v_Q.mean()), *bootstrap(v_Q)) for name, v_Q in self.values.items()}
        object.__setattr__(self, "numbers", numbers)

    @property
    def headline(self) -> Number:
        """The number that papers quote."""
        return self.numbers[self.task.headline]


def metrics_of(task: Task, cutoffs: Sequence[int]) -> list[str]:
    """The metrics of a task: success and recall at its own cut-offs or else these, mrr, ndcg and its headline."""
    chosen = task.cutoffs or cutoffs
    names = [*(f"success@{k}" for k in chosen), *(f"recall@{k}" for k in chosen), "mrr", f"ndcg@{NDCG_K}"]
    return names if task.headline in names else [task.headline, *names]


def depth_of(task: Task, cutoffs: Sequence[int]) -> int:
    """How many hits the metrics look at."""
    return max(int(name.split("@")[1]) for name in metrics_of(task, cutoffs) if "@" in name)


def hits_needed(task: Task, cutoffs: Sequence[int], queries: Sequence[Query]) -> int:
    """How many hits to ask for.

    Where relevant keys lose ties, one more for each of a query's: a tie that goes beyond these hits then has so many
    other keys in them that no relevant key of it comes among those that the metrics look at.
    """
    depth = depth_of(task, cutoffs)
    return depth + max((len(query.relevant) for query in queries), default=0) if task.ties_lose else depth


def score(
    task: Task,
    num_keys: int,
    queries: Sequence[Query],
    answers: Mapping[str, Answer],
    cutoffs: Sequence[int],
    exact: bool = False,
    source_of: Callable[[str], str | None] = lambda name: None,
    published: Sequence[Published] = (),
) -> TaskResult:
    """Scores the answers to a task's queries.

    Args:
        task: The task.
        num_keys: How many keys it searched among.
        queries: The queries, with their judgements.
        answers: Query id to answer, for exactly these queries.
        cutoffs: Every k of success@k and recall@k, where the task has none of its own.
        exact: Whether every key was compared.
        source_of: Which of the corpus's sources a query or key comes from.
        published: What published code makes of the answers.

    Raises:
        ValueError: a query has no answer or an answer no judgements.
    """
    qrels = {query.id: query.relevant for query in queries}
    depth = depth_of(task, cutoffs) if task.ties_lose else None
    rankings = {q: ranking_of(answer.hits, qrels.get(q, {}), task)[:depth] for q, answer in answers.items()}
    values = measured(metrics_of(task, cutoffs), rankings, qrels)
    return TaskResult(
        task=task,
        exact=exact,
        num_keys=num_keys,
        queries=tuple(qrels),
        values=values,
        ranks=tuple(_ranks(rankings[query], relevant) for query, relevant in qrels.items()),
        wrong=_wrong(task, [answers[query] for query in qrels], list(qrels), task.cutoffs or cutoffs, source_of),
        modalities=_modalities(list(answers.values())),
        published=tuple(published),
        serving=serving_summary(list(answers.values())),
    )


def ranking_of(hits: Sequence[Hit], relevant: Mapping[str, int], task: Task) -> list[str]:
    """The keys, best first; where the task says so, relevant ones behind the others of their score."""
    return [hit.key for hit in ranked(hits, relevant, task)]


def ranked(hits: Sequence[Hit], relevant: Mapping[str, int], task: Task) -> list[Hit]:
    """The hits in the order of `ranking_of`."""
    if not task.ties_lose:
        return list(hits)
    return sorted(hits, key=lambda hit: (-hit.score, hit.key in relevant))


def headline_if_ties_lost(task: Task, queries: Sequence[Query], answers: Mapping[str, Answer]) -> float:
    """What the headline would be if a relevant key counted as behind all hits of its score.

    Where that is another number than the headline, the order of hits that score alike decides it, which says nothing of
    the model: one that gives every key the same vector gets what the order of the corpus gives it.
    """
    harsh, qrels = replace(task, ties_lose=True), {query.id: query.relevant for query in queries}
    rankings = {query: ranking_of(answers[query].hits, relevant, harsh) for query, relevant in qrels.items()}
    return float(measured([task.headline], rankings, qrels)[task.headline].mean())


def mean_number(mean: Mean, results: Mapping[Task, TaskResult], metric: str | None) -> Number | None:
    """A mean over tasks with its 95 % interval, or None where a task has no such metric.

    Each end lies as far from the mean as those of the tasks' intervals do together (Zou and Donner 2008): a task of few
    queries counts as unsure as it is, also where all of them agree.

    Args:
        mean: Which mean.
        results: The tasks' results.
        metric: The metric; None for each task's own headline.
    """
    if any(metric is not None and metric not in results[task].numbers for task in mean.weights):
        return None
    parts = [(w, results[task].numbers[metric or task.headline]) for task, w in mean.weights.items()]
    value = sum(weight * number.value for weight, number in parts)
    low = value - math.hypot(*(weight * (number.value - number.low) for weight, number in parts))
    high = value + math.hypot(*(weight * (number.high - number.value) for weight, number in parts))
    return Number(value, max(0.0, low), min(1.0, high))


def summary_number(summary: Summary, results: Mapping[Task, TaskResult]) -> Number:
    """A mean of several tasks' numbers over the same queries, with its 95 % interval.

    The interval is that of the queries' own means, since one query's numbers rise and fall together.
    """
    values = [results[task].values[metric] for task, metric in summary.parts.items()]
    means_Q: NDArray[np.float64] = np.mean(values, axis=0)
    return Number(float(means_Q.mean()), *bootstrap(means_Q))


def published_number(published: Published) -> Number:
    """A number by the rules of published code, with its 95 % interval.

    Such numbers may lie outside [0, 1], where one on which all queries agree has no interval that could be told.
    """
    values_Q = np.asarray(published.values, np.float64)
    value = float(values_Q.mean())
    if np.ptp(values_Q) == 0 and not 0 <= value <= 1:
        return Number(value, value, value)
    return Number(value, *bootstrap(values_Q))


def serving_summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Client latency and the service's stage timings as percentiles, with counts of retries and cached vectors.

    `curve_ms` has the latency within which no answer, then 5 % of them, and so on, and at last all came.
    """
    latencies_ms = [1000 * answer.latency_s for answer in answers]
    stages = sorted({stage for answer in answers for stage in answer.timings_ms})
    return {
        "latency_ms": _percentiles(latencies_ms),
        "curve_ms": [round(float(value), 3) for value in np.percentile(latencies_ms, CURVE_PERCENTS)],
        "stages_ms": {
            stage: _percentiles([answer.timings_ms[stage] for answer in answers if stage in answer.timings_ms])
            for stage in stages
        },
        "cached_share": sum(answer.cached for answer in answers) / len(answers),
        "num_retries": sum(answer.num_retries for answer in answers),
        "min_hits": min(len(answer.hits) for answer in answers),
    }


def _ranks(ranking: Sequence[str], relevant: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(rank for rank, key in enumerate(ranking, start=1) if key in relevant)


def _wrong(
    task: Task,
    answers: Sequence[Answer],
    queries: Sequence[str],
    cutoffs: Sequence[int],
    source_of: Callable[[str], str | None],
) -> dict[str, dict[int, float]]:
    """Shares of the first hits of all queries, by what is wrong with them and by cut-off."""
    shares: dict[str, dict[int, float]] = {"modality": {}, "source": {}}
    for k in cutoffs:
        first = [(query, hit) for query, answer in zip(queries, answers, strict=True) for hit in answer.hits[:k]]
        other = sum(task.key_modality is not None and hit.modality != task.key_modality for _, hit in first)
        foreign = sum(source_of(hit.key) != source_of(query) for query, hit in first)
        shares["modality"][k], shares["source"][k] = other / len(first), foreign / len(first)
    return shares


def _modalities(answers: Sequence[Answer]) -> dict[str, float]:
    first = [hit.modality for answer in answers for hit in answer.hits[:FIRST_HITS]]
    return {modality: first.count(modality) / len(first) for modality in MODALITIES}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Mean, maximum and the usual percentiles, to a microsecond."""
    summary = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    summary |= {"mean": float(np.mean(values)), "max": float(np.max(values))}
    return {name: round(value, 3) for name, value in summary.items()}
