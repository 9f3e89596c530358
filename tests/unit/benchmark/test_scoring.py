"""Averages and shares are what their names say."""

import numpy as np
import pytest

from anykey.benchmark.client import Answer, Hit
from anykey.benchmark.mbeir import Task
from anykey.benchmark.metrics import interval
from anykey.benchmark.scoring import TaskResult, averages, mean_interval, score

TASK = Task("mbeir_x_task0", "x", 0, "test")


def answer(*hits: tuple[str, str]) -> Answer:
    """An answer with these keys and modalities."""
    ranked = tuple(Hit(key, 1.0 - i / 10, modality) for i, (key, modality) in enumerate(hits))
    return Answer(ranked, 0.002, {"total": 1.0}, False, 0, ("1", "f"))


def result(dataset: str, number: int, value: float, num_queries: int = 100) -> TaskResult:
    """A result with one metric, a share of so many queries."""
    error = (value * (1 - value) / num_queries) ** 0.5
    ends = {"mrr": interval(value, error, num_queries)}
    task = Task("n", dataset, number, "test")
    return TaskResult(task, "local", 1, num_queries, {"mrr": value}, {"mrr": error}, ends, {}, {})


def test_scores_and_shares_of_two_queries() -> None:
    answers = {
        "q1": answer(("a", "image"), ("b", "text")),
        "q2": answer(("c", "text"), ("d", "fused"), ("e", "image")),
    }
    scored = score(TASK, "global", 9, answers, {"q1": {"a": 1}, "q2": {"e": 1, "z": 1}}, [1, 2, 3])
    assert scored.metrics["success@1"] == 0.5
    assert scored.metrics["success@3"] == 1.0
    assert scored.metrics["recall@3"] == 0.75
    assert scored.metrics["mrr"] == pytest.approx((1 + 1 / 3) / 2)
    assert scored.wrong_modality == {"1": 0.5, "2": 0.75, "3": 0.6}
    assert scored.serving["latency_ms"]["p50"] == 2.0
    assert scored.serving["min_hits"] == 2


def test_intervals_are_wilsons_over_the_queries() -> None:
    answers = {f"q{n}": answer(("a" if n < 64 else "b", "image")) for n in range(100)}
    scored = score(TASK, "local", 9, answers, {query: {"a": 1} for query in answers}, [1])
    assert scored.metrics["success@1"] == 0.64
    assert scored.errors["success@1"] == pytest.approx((0.64 * 0.36 / 100) ** 0.5)
    assert scored.intervals["success@1"] == pytest.approx((0.5424, 0.7273), abs=1e-4)
    nothing = score(TASK, "local", 9, answers, {query: {"z": 1} for query in answers}, [1])
    assert nothing.intervals["success@1"] == pytest.approx((0.0, 0.0370), abs=1e-4)


def test_the_mean_over_tasks_errs_less_than_each() -> None:
    low, high = mean_interval([result("webqa", number, 0.5) for number in (1, 2, 3, 4)], "mrr")
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.001)


def test_a_small_task_makes_the_mean_over_tasks_as_unsure_as_it_is() -> None:
    low, high = mean_interval([result("webqa", 1, 0.5, 10), result("webqa", 2, 0.5, 10_000)], "mrr")
    assert (low, high) == pytest.approx((0.368, 0.632), abs=0.001)  # half of what ten queries alone would leave open
    low, high = mean_interval([result("webqa", 1, 0.0, 10), result("webqa", 2, 0.0, 10_000)], "mrr")
    assert (low, high) == pytest.approx((0.0, 0.139), abs=0.001)


def test_the_interval_over_tasks_of_unequal_sizes_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    sizes, truths = (12, 60, 2000), (0.3, 0.6, 0.8)
    held = 0
    for _ in range(1000):
        found = generator.binomial(sizes, truths) / sizes
        low, high = mean_interval([result("x", 1, *each) for each in zip(found.tolist(), sizes, strict=True)], "mrr")
        held += low <= sum(truths) / 3 <= high
    assert 0.93 <= held / 1000 <= 0.98


def test_a_query_without_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no ranking, the first is 'q2'"):
        score(TASK, "local", 9, {"q1": answer(("a", "image"))}, {"q1": {"a": 1}, "q2": {"a": 1}}, [1])


def test_the_mean_over_tasks_and_over_datasets_differ() -> None:
    means = averages([result("webqa", 1, 0.2), result("webqa", 2, 0.4), result("cirr", 7, 0.9)])
    assert means["over_tasks"]["mrr"] == pytest.approx(0.5)
    assert means["over_datasets"]["mrr"] == pytest.approx(0.6)
