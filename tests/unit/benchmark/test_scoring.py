"""Means and shares are what their names say."""

import numpy as np
import pytest

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit, Published, Query, Task, mean_of_means, mean_over
from anykey.benchmark.scoring import TaskResult, hits_needed, mean_number, published_number, score

TASK = Task("x_task0", "x", "local", "x", "success@1", key_modality="image")


def answer(*hits: tuple[str, str]) -> Answer:
    """An answer with these keys and modalities."""
    ranked = tuple(Hit(key, 1.0 - i / 10, modality) for i, (key, modality) in enumerate(hits))
    return Answer(ranked, 0.002, {"total": 1.0}, False, 0, ("1", "f"))


def queries(**relevant: dict[str, int]) -> list[Query]:
    return [Query(name, "a", relevant=grades) for name, grades in relevant.items()]


def result(name: str, value: float, num_queries: int = 100) -> TaskResult:
    """A result with one metric, a share of so many queries."""
    values_Q = np.zeros(num_queries)
    values_Q[: round(value * num_queries)] = 1
    task = Task(name, name, "local", None, "success@1")
    ids = tuple(map(str, range(num_queries)))
    return TaskResult(task, False, 1, ids, {"success@1": values_Q}, (), {}, {}, (), {})


def mean_of(*results: TaskResult) -> tuple[float, float]:
    found = mean_number(mean_over([each.task for each in results], "mean"), {each.task: each for each in results}, None)
    assert found is not None
    return found.low, found.high


def test_scores_and_shares_of_two_queries() -> None:
    answers = {
        "q1": answer(("a", "image"), ("b", "text")),
        "q2": answer(("c", "text"), ("d", "fused"), ("e", "image")),
    }
    scored = score(TASK, 9, queries(q1={"a": 1}, q2={"e": 1, "z": 1}), answers, [1, 2, 3])
    values = {name: number.value for name, number in scored.numbers.items()}
    assert (values["success@1"], values["success@3"], values["recall@3"]) == (0.5, 1.0, 0.75)
    assert values["mrr"] == pytest.approx((1 + 1 / 3) / 2)
    assert scored.ranks == ((1,), (3,))
    assert scored.wrong["modality"] == {1: 0.5, 2: 0.75, 3: 0.6}
    assert scored.wrong["source"] == {1: 0, 2: 0, 3: 0}
    assert scored.modalities == {"text": 0.4, "image": 0.4, "fused": 0.2}
    assert scored.serving["latency_ms"]["p50"] == 2.0
    assert scored.serving["min_hits"] == 2


def test_keys_of_another_source_are_counted() -> None:
    answers = {"9:1": answer(("9:5", "image"), ("8:5", "image"))}
    scored = score(TASK, 9, [Query("9:1", "a", relevant={"9:5": 1})], answers, [1, 2], source_of=lambda name: name[0])
    assert scored.wrong["source"] == {1: 0.0, 2: 0.5}


def test_a_tie_counts_against_the_relevant_key_where_the_task_says_so() -> None:
    tied = Answer(
        (Hit("gold", 0.5, "image"), Hit("a", 0.5, "image"), Hit("b", 0.4, "image")), 0.1, {}, False, 0, ("1", "f")
    )
    strict = Task("t", "t", "own candidates", None, "success@1", ties_lose=True)
    asked = queries(q={"gold": 1})
    assert score(TASK, 9, asked, {"q": tied}, [1]).headline.value == 1
    assert score(strict, 9, asked, {"q": tied}, [1]).headline.value == 0
    assert score(strict, 9, asked, {"q": tied}, [1, 2]).numbers["success@2"].value == 1


@pytest.mark.parametrize("num_golds", [1, 3])
def test_a_tie_that_goes_beyond_the_hits_has_no_relevant_key_among_the_first(num_golds: int) -> None:
    strict = Task("t", "t", "own candidates", None, "success@1", cutoffs=(1, 5, 10), ties_lose=True)
    golds = [f"gold{number}" for number in range(num_golds)]
    asked = queries(q=dict.fromkeys(golds, 1))
    needed = hits_needed(strict, [50], asked)
    tied = [*golds, *(f"k{number}" for number in range(20))][:needed]  # what a service gives of 20 rivals and the golds
    answers = {"q": Answer(tuple(Hit(key, 0.5, "text") for key in tied), 0.1, {}, False, 0, ("1", "f"))}
    scored = score(strict, 9, asked, answers, [50])
    assert {number.value for number in scored.numbers.values()} == {0.0}
    assert scored.ranks == ((),)


def test_the_mean_over_tasks_errs_less_than_each() -> None:
    low, high = mean_of(*(result(str(number), 0.5) for number in range(4)))
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.005)


def test_a_small_task_makes_the_mean_over_tasks_as_unsure_as_it_is() -> None:
    low, high = mean_of(result("small", 0.5, 10), result("large", 0.5, 10_000))
    assert (low, high) == pytest.approx((0.35, 0.65), abs=0.01)  # half of what ten queries alone would leave open
    low, high = mean_of(result("small", 0.0, 10), result("large", 0.0, 10_000))
    assert (low, high) == pytest.approx((0.0, 0.139), abs=0.001)


def test_a_query_without_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no ranking, the first is 'q2'"):
        score(TASK, 9, queries(q1={"a": 1}, q2={"a": 1}), {"q1": answer(("a", "image"))}, [1])


def test_a_mean_in_which_groups_count_alike_is_another_than_one_in_which_tasks_do() -> None:
    webqa = [result("webqa1", 0.2), result("webqa2", 0.4)]
    cirr = result("cirr", 0.9)
    results = {each.task: each for each in (*webqa, cirr)}
    over_tasks = mean_number(mean_over(list(results), "tasks"), results, "success@1")
    over_groups = mean_number(mean_of_means([[r.task for r in webqa], [cirr.task]], "groups"), results, "success@1")
    assert over_tasks is not None
    assert over_groups is not None
    assert (over_tasks.value, over_groups.value) == pytest.approx((0.5, 0.6))


def test_modalities_are_those_of_the_first_ten_hits() -> None:
    hits = [(f"k{number}", "text" if number < 10 else "image") for number in range(12)]
    scored = score(TASK, 20, queries(q={"k0": 1}), {"q": answer(*hits)}, [1, 12])
    assert scored.modalities == {"text": 1.0, "image": 0.0, "fused": 0.0}


def test_numbers_of_published_code_have_intervals_too() -> None:
    found = published_number(Published("hit@1", "ties are won", [0.0, 1.0] * 50))
    assert found.value == 0.5
    assert 0.38 < found.low < 0.45
    assert 0.55 < found.high < 0.62
    below = published_number(Published("best soft score", "scores may be negative", [-1.0, -1.0]))
    assert (below.value, below.low, below.high) == (-1.0, -1.0, -1.0)
