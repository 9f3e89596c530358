"""Scores the answers of one task in one pool: ranking metrics, wrong modalities, latencies."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from anykey.benchmark.client import Answer
from anykey.benchmark.mbeir import Task
from anykey.benchmark.metrics import (
    interval,
    mean_reciprocal_rank,
    ndcg_at_k,
    paired,
    recall_at_k,
    standard_error,
    success_at_k,
)

NDCG_K = 10
PERCENTILES = (50, 90, 99)

PoolKind = Literal["local", "global"]
Rankings = Sequence[Sequence[str]]
Relevant = Sequence[frozenset[str]]


@dataclass(frozen=True)
class TaskResult:
    """What one task scored in one pool.

    Attributes:
        task: The task.
        pool: "local" (the task's own) or "global" (the whole corpus).
        num_keys: Keys in the pool, as the service's index counts them.
        num_queries: Queries scored.
        metrics: Metric name to value: success@k, recall@k, mrr, ndcg@10, each a fraction.
        errors: Metric name to its standard error over the queries.
        intervals: Metric name to its 95 % interval, Wilson's, of queries drawn like these.
        wrong_modality: Cut-off to share of the first hits whose modality is not the one looked for.
        serving: Latencies in milliseconds, shares and counts that belong to no metric.
    """

    task: Task
    pool: PoolKind
    num_keys: int
    num_queries: int
    metrics: dict[str, float]
    errors: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    wrong_modality: dict[str, float]
    serving: dict[str, Any]


def score(
    task: Task,
    pool: PoolKind,
    num_keys: int,
    answers: Mapping[str, Answer],
    qrels: Mapping[str, Mapping[str, int]],
    cutoffs: Sequence[int],
) -> TaskResult:
    """Scores the answers to a task's queries.

    Args:
        task: The task.
        pool: Which pool was searched.
        num_keys: Its size.
        answers: Query id to answer, for exactly the queries of `qrels`.
        qrels: Query id to key to grade.
        cutoffs: Every k of success@k and recall@k.

    Raises:
        ValueError: a query has no answer or an answer no judgements.
    """
    rankings, relevant = paired({query: answer.keys for query, answer in answers.items()}, qrels)
    measures: dict[str, Callable[[Rankings, Relevant], float]] = {
        **{f"success@{k}": partial(success_at_k, k=k) for k in cutoffs},
        **{f"recall@{k}": partial(recall_at_k, k=k) for k in cutoffs},
        "mrr": mean_reciprocal_rank,
        f"ndcg@{NDCG_K}": partial(ndcg_at_k, k=NDCG_K),
    }
    metrics = {name: measure(rankings, relevant) for name, measure in measures.items()}
    errors = {name: _error(measure, rankings, relevant) for name, measure in measures.items()}
    intervals = {name: interval(value, errors[name], len(answers)) for name, value in metrics.items()}
    wrong = {str(k): _wrong_share(list(answers.values()), task.key_modality, k) for k in cutoffs}
    serving = serving_summary(list(answers.values()))
    return TaskResult(task, pool, num_keys, len(answers), metrics, errors, intervals, wrong, serving)


def mean_interval(results: Sequence[TaskResult], name: str) -> tuple[float, float]:
    """95 % interval of a metric's mean over tasks, whose queries are others in each.

    Each end lies as far from the mean as those of the tasks' intervals do together (Zou and Donner 2008): a task of few
    queries counts as unsure as it is, also where all of them agree.
    """
    mean = sum(result.metrics[name] for result in results) / len(results)
    lows = [result.metrics[name] - result.intervals[name][0] for result in results]
    highs = [result.intervals[name][1] - result.metrics[name] for result in results]
    low, high = (mean + sign * math.hypot(*ends) / len(results) for sign, ends in ((-1, lows), (1, highs)))
    return max(0.0, low), min(1.0, high)


def averages(results: Sequence[TaskResult]) -> dict[str, dict[str, float]]:
    """Metric means of one pool's results: over tasks, and over datasets (each dataset's tasks averaged first).

    Papers average M-BEIR over its 16 dataset-task pairs; some say "over 10 datasets". The two differ.
    """
    names = list(results[0].metrics)
    datasets = {result.task.dataset for result in results}

    def mean(chosen: Sequence[TaskResult], name: str) -> float:
        return sum(result.metrics[name] for result in chosen) / len(chosen)

    by_dataset = [[result for result in results if result.task.dataset == dataset] for dataset in sorted(datasets)]
    return {
        "over_tasks": {name: mean(results, name) for name in names},
        "over_datasets": {name: sum(mean(part, name) for part in by_dataset) / len(by_dataset) for name in names},
    }


def serving_summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Client latency and the service's stage timings as percentiles, with counts of retries and cached vectors."""
    stages = sorted({stage for answer in answers for stage in answer.timings_ms})
    return {
        "latency_ms": _percentiles([1000 * answer.latency_s for answer in answers]),
        "stages_ms": {
            stage: _percentiles([answer.timings_ms[stage] for answer in answers if stage in answer.timings_ms])
            for stage in stages
        },
        "cached_share": sum(answer.cached for answer in answers) / len(answers),
        "num_retries": sum(answer.num_retries for answer in answers),
        "min_hits": min(len(answer.hits) for answer in answers),
    }


def _error(measure: Callable[[Rankings, Relevant], float], rankings: Rankings, relevant: Relevant) -> float:
    """Standard error over the queries of a metric that is the mean of each query's own."""
    return standard_error([measure([keys], [wanted]) for keys, wanted in zip(rankings, relevant, strict=True)])


def _wrong_share(answers: Sequence[Answer], wanted: str, k: int) -> float:
    """Share of the first k hits of all queries whose modality is not the wanted one."""
    modalities = [hit.modality for answer in answers for hit in answer.hits[:k]]
    return sum(modality != wanted for modality in modalities) / len(modalities)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Mean, maximum and the usual percentiles, to a microsecond."""
    summary = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    summary |= {"mean": float(np.mean(values)), "max": float(np.max(values))}
    return {name: round(value, 3) for name, value in summary.items()}
