"""ranx and trec_eval make of the run files of random rankings, ties and all, what the harness makes of the answers.

ranx compiles itself for a minute, so it is an extra of its own, which `make test-slow` installs.
"""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit, Query, Task
from anykey.benchmark.runs import write_run
from anykey.benchmark.scoring import score

pytestmark = pytest.mark.slow

CUTOFFS = [1, 3, 10]
TASK = Task("t", "t", "own", None, "ndcg@10")
RANX = {"success": "hit_rate", "recall": "recall", "ndcg": "ndcg", "mrr": "mrr"}
TREC = {"success": "success", "recall": "recall", "ndcg": "ndcg_cut", "mrr": "recip_rank"}


def drawn(seed: int) -> tuple[list[Query], dict[str, Answer]]:
    """Queries with grades from 1 to 3, and answers whose scores are so few that most of them tie."""
    draw = random.Random(seed)
    keys = [f"{source}:{number}" for source in (1, 9) for number in range(1, 21)]  # 9:10 before 9:2 as text
    queries, answers = [], {}
    for number in range(draw.randint(5, 30)):
        name = f"q{number}"
        queries.append(Query(name, "a", relevant={key: draw.randint(1, 3) for key in draw.sample(keys, 4)}))
        scores = sorted((draw.choice([0.1, 0.25, 0.5, 0.75]) for _ in range(draw.randint(1, 40))), reverse=True)
        hits = zip(draw.sample(keys, len(scores)), scores, strict=True)
        ranked = tuple(Hit(key, value, "text") for key, value in hits)
        answers[name] = Answer(ranked, 0.0, {}, False, 0, ("1", "f"))
    return queries, answers


def named(name: str, names: dict[str, str], sign: str) -> str:
    """A metric's name in another library."""
    metric, _, cutoff = name.partition("@")
    return names[metric] + (f"{sign}{cutoff}" if cutoff else "")


@pytest.fixture(scope="module")
def ranx() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ranx", reason="pip install -c constraints.txt 'anykey[oracle]'")


@pytest.mark.filterwarnings("ignore")
def test_three_libraries_score_alike(ranx: Any, tmp_path: Path) -> None:
    for seed in range(25):
        queries, answers = drawn(seed)
        ours = score(TASK, 40, queries, answers, CUTOFFS)
        path = tmp_path / f"{seed}.trec"
        write_run(path, {query: answer.hits for query, answer in answers.items()}, "ours")
        judged = {query.id: dict(query.relevant) for query in queries}
        measures = {named(name, TREC, ".") for name in ours.values}
        with path.open() as file:
            trec = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(pytrec_eval.parse_run(file))
        wanted = [named(name, RANX, "@") for name in ours.values]
        qrels, run = ranx.Qrels(judged), ranx.Run.from_file(str(path), kind="trec")
        theirs = ranx.evaluate(qrels, run, wanted, return_mean=False)
        order = sorted(judged)  # in which ranx has its queries
        for name, values_Q in ours.values.items():
            by_query = dict(zip(ours.queries, values_Q, strict=True))
            by_ranx = dict(zip(order, theirs[named(name, RANX, "@")], strict=True))
            by_trec = {query: values[named(name, TREC, "_")] for query, values in trec.items()}
            assert by_query == pytest.approx(by_ranx, abs=1e-9), (seed, name)
            assert by_query == pytest.approx(by_trec, abs=1e-9), (seed, name)
        assert np.unique([hit.score for answer in answers.values() for hit in answer.hits]).size <= 4
