"""The metrics agree with trec_eval, follow their definitions, and refuse to guess."""

import random
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from anykey.benchmark.metrics import mean_reciprocal_rank, ndcg_at_k, paired, recall_at_k, success_at_k

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


def random_case(seed: int) -> tuple[Qrels, Run]:
    rng = random.Random(seed)
    qrels, run = {}, {}
    for number in range(rng.randint(1, 12)):
        query = f"q{number}"
        qrels[query] = dict.fromkeys(rng.sample(KEYS, rng.randint(1, 6)), 1)
        run[query] = rng.sample(KEYS, rng.randint(1, len(KEYS)))
    return qrels, run


def trec_means(qrels: Qrels, run: Run, measures: set[str]) -> dict[str, float]:
    scored = {query: {key: float(len(keys) - i) for i, key in enumerate(keys)} for query, keys in run.items()}
    per_query = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(scored)
    assert per_query.keys() == qrels.keys()
    return {name: sum(v[name] for v in per_query.values()) / len(qrels) for name in next(iter(per_query.values()))}


@pytest.mark.parametrize("seed", range(25))
def test_metrics_agree_with_trec_eval_on_random_rankings(seed: int) -> None:
    qrels, run = random_case(seed)
    oracle = trec_means(qrels, run, {"success.1,5,10", "recall.1,5,10", "ndcg_cut.1,5,10", "recip_rank"})
    rankings, relevant = paired(run, qrels)
    for k in (1, 5, 10):
        assert success_at_k(rankings, relevant, k) == pytest.approx(oracle[f"success_{k}"], abs=1e-12)
        assert recall_at_k(rankings, relevant, k) == pytest.approx(oracle[f"recall_{k}"], abs=1e-12)
        assert ndcg_at_k(rankings, relevant, k) == pytest.approx(oracle[f"ndcg_cut_{k}"], abs=1e-12)
    assert mean_reciprocal_rank(rankings, relevant) == pytest.approx(oracle["recip_rank"], abs=1e-12)


def test_the_conformance_fixture_gives_its_published_values() -> None:
    rankings, relevant = paired(RUN, QRELS)
    assert recall_at_k(rankings, relevant, 1) == pytest.approx(0.25)
    assert recall_at_k(rankings, relevant, 5) == pytest.approx(0.583333, abs=1e-6)
    assert success_at_k(rankings, relevant, 1) == pytest.approx(0.25)
    assert success_at_k(rankings, relevant, 5) == pytest.approx(0.75)
    assert ndcg_at_k(rankings, relevant, 5) == pytest.approx(0.458116, abs=1e-6)
    assert ndcg_at_k(rankings, relevant, 10) == pytest.approx(0.499906, abs=1e-6)
    assert mean_reciprocal_rank(rankings, relevant) == pytest.approx(0.425)


def test_per_query_values_of_the_conformance_fixture() -> None:
    one = {"5:1": QRELS["5:1"]}
    rankings, relevant = paired({"5:1": RUN["5:1"]}, one)
    assert recall_at_k(rankings, relevant, 10) == pytest.approx(2 / 3)
    assert ndcg_at_k(rankings, relevant, 5) == pytest.approx(0.181542, abs=1e-6)
    assert ndcg_at_k(rankings, relevant, 10) == pytest.approx(0.348702, abs=1e-6)
    assert mean_reciprocal_rank(rankings, relevant) == pytest.approx(0.2)
    assert mean_reciprocal_rank(rankings, relevant, k=4) == 0.0


@given(st.permutations(KEYS), st.sets(st.sampled_from(KEYS), min_size=1), st.integers(1, 40))
def test_metrics_keep_their_bounds_and_order(ranked: list[str], relevant: Any, k: int) -> None:
    success = success_at_k([ranked], [relevant], k)
    recall = recall_at_k([ranked], [relevant], k)
    assert 0 <= recall <= success <= 1
    assert success_at_k([ranked], [relevant], k + 1) >= success
    assert (success == recall) or len(relevant) > 1
    assert 0 <= ndcg_at_k([ranked], [relevant], k) <= 1 + 1e-12
    assert mean_reciprocal_rank([ranked], [relevant], k) <= success


@given(st.permutations(KEYS), st.sets(st.sampled_from(KEYS), min_size=1))
def test_ranking_all_relevant_keys_first_is_perfect(ranked: list[str], relevant: Any) -> None:
    best = sorted(ranked, key=lambda key: key not in relevant)
    assert ndcg_at_k([best], [relevant], len(KEYS)) == pytest.approx(1)
    assert recall_at_k([best], [relevant], len(relevant)) == 1
    assert mean_reciprocal_rank([best], [relevant]) == 1


@pytest.mark.parametrize("metric", [success_at_k, recall_at_k, ndcg_at_k, mean_reciprocal_rank])
@pytest.mark.parametrize(
    ("rankings", "relevant", "k", "said"),
    [
        ([["a"]], [{"a"}], 0, "k must be at least 1"),
        ([], [], 1, "one relevant set per query"),
        ([["a"]], [{"a"}, {"b"}], 1, "1 rankings, 2 relevant sets"),
        ([["a"]], [set()], 1, "at least one relevant key"),
        ([["a", "a"]], [{"a"}], 1, "repeats a key"),
    ],
)
def test_what_has_no_definition_is_refused(
    metric: Callable[..., float], rankings: list[list[str]], relevant: Any, k: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        metric(rankings, relevant, k)


def test_a_judged_query_without_ranking_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no ranking, the first is '5:1'"):
        paired({"8:1": ["8:10"]}, {"8:1": {"8:10": 1}, "5:1": {"5:1": 1}})


def test_a_ranked_query_without_judgements_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no judgements, the first is 'q2'"):
        paired({"q1": ["a"], "q2": ["a"]}, {"q1": {"a": 1}})


def test_a_query_whose_grades_are_all_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"query 'q1' has no relevant key"):
        paired({"q1": ["a"]}, {"q1": {"a": 0}})
