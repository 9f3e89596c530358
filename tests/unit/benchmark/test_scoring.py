"""Averages and shares are what their names say."""

import pytest

from benchmark.client import Answer, Hit
from benchmark.mbeir import Task
from benchmark.scoring import TaskResult, averages, mean_interval, score

TASK = Task("mbeir_x_task0", "x", 0, "test")


def answer(*hits: tuple[str, str]) -> Answer:
    """An answer with these keys and modalities."""
    ranked = tuple(Hit(key, 1.0 - i / 10, modality) for i, (key, modality) in enumerate(hits))
    return Answer(ranked, 0.002, {"total": 1.0}, False, 0, ("1", "f"))


def result(dataset: str, number: int, value: float) -> TaskResult:
    """A result with one metric."""
    return TaskResult(Task("n", dataset, number, "test"), "local", 1, 1, {"mrr": value}, {"mrr": 0.05}, {}, {}, {})


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


def test_a_query_without_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no ranking, the first is 'q2'"):
        score(TASK, "local", 9, {"q1": answer(("a", "image"))}, {"q1": {"a": 1}, "q2": {"a": 1}}, [1])


def test_the_mean_over_tasks_and_over_datasets_differ() -> None:
    means = averages([result("webqa", 1, 0.2), result("webqa", 2, 0.4), result("cirr", 7, 0.9)])
    assert means["over_tasks"]["mrr"] == pytest.approx(0.5)
    assert means["over_datasets"]["mrr"] == pytest.approx(0.6)
