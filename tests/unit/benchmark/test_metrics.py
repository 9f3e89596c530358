"""The metrics follow their definitions, agree with trec_eval, and refuse to guess; intervals hold what they say."""

import random
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.benchmark.metrics import bootstrap, interval, measured

Qrels: TypeAlias = dict[str, dict[str, int]]
Run: TypeAlias = dict[str, list[str]]

KEYS = [f"{d}:{n}" for d in (1, 2) for n in range(1, 16)]

# The conformance fixture: qrels, run, and what trec_eval -c says of them.
QRELS = {
    "8:1": {"8:10": 1, "8:11": 1},
    "5:1": {"5:1": 1, "6:7": 1, "6:8": 1},
    "9:3": {"9:5": 1},
    "0:2": {"0:9": 1},
}
RUN = {
    "8:1": ["8:3", "8:10", "8:4", "8:11", "8:5", "8:6"],
    "5:1": ["5:9", "5:8", "5:7", "5:6", "6:7", "5:1"],
    "9:3": ["9:5", "9:6", "9:7", "9:8", "9:9", "9:1"],
    "0:2": [],
}


def means(names: list[str], run: Run, qrels: Qrels) -> list[float]:
    return [float(values_Q.mean()) for values_Q in measured(names, run, qrels).values()]


def random_case(seed: int) -> tuple[Qrels, Run]:
    rng = random.Random(seed)
    qrels, run = {}, {}
    for number in range(rng.randint(1, 12)):
        query = f"q{number}"
        qrels[query] = dict.fromkeys(rng.sample(KEYS, rng.randint(1, 6)), 1)
        run[query] = rng.sample(KEYS, rng.randint(1, len(KEYS)))
    return qrels, run


def by_hand(metric: str, ranked: list[str], grades: dict[str, int]) -> float:
    """The definitions, straight."""
    name, _, cutoff = metric.partition("@")
    k = int(cutoff) if cutoff else len(ranked)
    relevant = {key for key, grade in grades.items() if grade > 0}
    places = [place for place, key in enumerate(ranked[:k], start=1) if key in relevant]
    if name == "success":
        return float(bool(places))
    if name == "recall":
        return len(places) / len(relevant)
    if name == "mrr":
        return 1 / places[0] if places else 0.0
    gain = sum(grades[ranked[place - 1]] / np.log2(place + 1) for place in places)
    best = sum(g / np.log2(place + 1) for place, g in enumerate(sorted(grades.values(), reverse=True)[:k], start=1))
    return float(gain / best)


@pytest.mark.parametrize("seed", range(25))
def test_metrics_are_those_of_their_definitions_whatever_keys_are_called(seed: int) -> None:
    qrels, run = random_case(seed)
    names = [f"{name}@{k}" for name in ("success", "recall", "ndcg", "mrr") for k in (1, 5, 10)] + ["mrr"]
    for name, values_Q in measured(names, run, qrels).items():
        expected = [by_hand(name, run[query], grades) for query, grades in qrels.items()]
        assert values_Q.tolist() == pytest.approx(expected, abs=1e-9), name


def test_grades_are_gains_of_ndcg_and_nothing_else() -> None:
    run = {"q": ["a", "b", "c"]}
    graded, binary = {"q": {"a": 1, "c": 3}}, {"q": {"a": 1, "c": 1}}
    names = ["success@1", "recall@2", "mrr"]
    assert means(names, run, graded) == means(names, run, binary)
    assert means(["ndcg@3"], run, graded) == pytest.approx([by_hand("ndcg@3", run["q"], graded["q"])])
    assert means(["ndcg@3"], run, graded) != means(["ndcg@3"], run, binary)


def test_the_conformance_fixture_gives_its_published_values() -> None:
    names = ["recall@1", "recall@5", "success@1", "success@5", "ndcg@5", "ndcg@10", "mrr", "map"]
    expected = [0.25, 0.583333, 0.25, 0.75, 0.458116, 0.499906, 0.425, 0.419444]
    assert means(names, RUN, QRELS) == pytest.approx(expected, abs=1e-6)


def test_per_query_values_of_the_conformance_fixture() -> None:
    names = ["recall@10", "ndcg@5", "ndcg@10", "mrr", "mrr@4"]
    values = measured(names, RUN, QRELS)
    second = list(QRELS).index("5:1")
    assert [float(values[name][second]) for name in names] == pytest.approx(
        [2 / 3, 0.181542, 0.348702, 0.2, 0], abs=1e-6
    )


@given(st.permutations(KEYS), st.sets(st.sampled_from(KEYS), min_size=1))
def test_ranking_all_relevant_keys_first_is_perfect(ranked: list[str], relevant: Any) -> None:
    best = sorted(ranked, key=lambda key: key not in relevant)
    names = [f"ndcg@{len(KEYS)}", f"recall@{len(relevant)}", "mrr"]
    assert means(names, {"q": best}, {"q": dict.fromkeys(relevant, 1)}) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("run", "qrels", "said"),
    [
        ({}, {}, "no queries"),
        ({"q": ["a", "a"]}, {"q": {"a": 1}}, "the ranking of query 'q' repeats a key"),
        ({"8:1": ["8:10"]}, {"8:1": {"8:10": 1}, "5:1": {"5:1": 1}}, "no ranking, the first is '5:1'"),
        ({"q1": ["a"], "q2": ["a"]}, {"q1": {"a": 1}}, "no judgements, the first is 'q2'"),
        ({"q1": ["a"]}, {"q1": {"a": 0}}, "query 'q1' has no relevant key"),
    ],
)
def test_what_has_no_definition_is_refused(run: Run, qrels: Qrels, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        measured(["mrr"], run, qrels)


@pytest.mark.parametrize("name", ["success", "success@0", "recall@x", "speed@3", "Success@3", "ndcg@-1"])
def test_an_unknown_metric_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown metric '{name}', expected one of success@k, .*mrr"):
        measured([name], {"q": ["a"]}, {"q": {"a": 1}})


@pytest.mark.parametrize(("size", "truth"), [(40, 0.5), (200, 0.2), (1000, 0.9)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(size: int, truth: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for number in range(400):
        low, high = bootstrap((rng.random(size) < truth).astype(float), seed=number)
        held += low <= truth <= high
    assert 0.91 <= held / 400 <= 0.98


def test_where_all_agree_the_interval_is_wilsons_and_no_point() -> None:
    assert bootstrap(np.ones(50)) == interval(1.0, 0.0, 50)
    assert bootstrap(np.zeros(50)) == interval(0.0, 0.0, 50)


def test_the_same_values_have_the_same_interval() -> None:
    values_Q = np.random.default_rng(0).random(30)
    assert bootstrap(values_Q) == bootstrap(values_Q)
    low, high = bootstrap(values_Q)
    assert low < values_Q.mean() < high
