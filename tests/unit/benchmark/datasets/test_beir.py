"""BEIR's layout is read as BEIR reads it, and fixed runs score as its evaluator's library says."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Hit
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.scoring import TaskResult, score
from tests.unit.benchmark.fake_service import serving
from tests.unit.benchmark.knowing_service import KnowingService

KEYS = [f"d{number}" for number in range(40)]
GRADES = {"q0": {"d0": 2, "d1": 1, "d2": 0}, "d5": {"d7": 1, "d8": 2, "d9": 1}, "d6": {"d6": 1, "d10": 1}}
Run = Mapping[str, Mapping[str, float]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [{"_id": key, "title": f"Title {key}", "text": f"text {key}.", "metadata": {}} for key in KEYS]
    return write(tmp_path / "scifact", rows, {query: f"what of {query}?" for query in [*GRADES, "other"]}, GRADES)


def write(root: Path, rows: Sequence[Any], queries: Mapping[str, str], grades: Mapping[str, Mapping[str, int]]) -> Path:
    (root / "qrels").mkdir(parents=True)
    lines(root / "corpus.jsonl", rows)
    lines(root / "queries.jsonl", [{"_id": query, "text": text} for query, text in queries.items()])
    judgements = [f"{query}\t{key}\t{grade}" for query, keys in grades.items() for key, grade in keys.items()]
    (root / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]) + "\n")
    return root


def lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def scored(dataset: Dataset, run: Run) -> TaskResult:
    (task,) = dataset.tasks()
    queries = dataset.queries(task)
    hits = {query: [Hit(key, value, "text") for key, value in ranked(run[query])] for query in run}
    published = dataset.published(task, queries, [hits[query.id] for query in queries])
    answers = {query: Answer(tuple(found), 0.0, {}, False, 0, ("1", "f")) for query, found in hits.items()}
    return score(task, len(KEYS), queries, answers, [50], published=published)


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda item: -item[1])


def means_of_trec_eval(run: Run) -> dict[str, float]:
    names = {"ndcg_cut.10", "recall.5,100", "success.1,5"}
    values = pytrec_eval.RelevanceEvaluator(GRADES, names).evaluate(run)
    return {name: sum(each[name] for each in values.values()) / len(values) for name in values["q0"]}


@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_those_of_trec_eval_and_beir_s_own_stands_beside_them(root: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    run = {query: dict(zip(KEYS, generator.random(len(KEYS)).tolist(), strict=True)) for query in GRADES}
    run["d5"] |= {"d5": 2.0, "d7": 1.5}  # a query's own id comes first, as where queries are a part of the corpus
    result, theirs = scored(open_dataset(root), run), means_of_trec_eval(run)
    assert result.headline.value == pytest.approx(theirs["ndcg_cut_10"], abs=1e-9)
    for name in ("recall@5", "recall@100", "success@1", "success@5"):
        assert result.numbers[name].value == pytest.approx(theirs[name.replace("@", "_")], abs=1e-9)
    without = {query: {key: value for key, value in run[query].items() if key != query} for query in run}
    expected = means_of_trec_eval(without)["ndcg_cut_10"]
    (published,) = result.published
    assert np.mean(published.values) == pytest.approx(expected, abs=1e-9)
    assert expected != pytest.approx(theirs["ndcg_cut_10"])
    assert scored(open_dataset(root), without).published == (), "nothing to take away"


def test_queries_keys_and_grades_are_beir_s(root: Path) -> None:
    dataset = open_dataset(root)
    (task,) = dataset.tasks()
    assert (task.name, task.pool, task.headline) == ("scifact", None, "ndcg@10")
    queries = {query.id: query for query in dataset.queries(task)}
    assert list(queries) == list(GRADES), "the other query has no judgement in this split"
    assert queries["q0"].relevant == {"d0": 2, "d1": 1}
    assert [query.references for query in queries.values()] == [(), ("d5",), ("d6",)]
    assert next(dataset.corpus()).text == "Title d0 text d0."
    assert dataset.num_keys() == len(KEYS)
    assert dataset.warnings([task]) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"title": "A", "text": "b"}, "A b"),
        ({"title": "", "text": " b "}, "b"),
        ({"title": "A", "text": ""}, "A"),
        ({"text": "b"}, "b"),
        ({"title": None, "text": "b"}, "b"),
        ({"title": " A ", "text": " b "}, "A   b"),
    ],
)
def test_title_and_text_are_joined_as_beir_does(tmp_path: Path, fields: Any, text: str) -> None:
    dataset = open_dataset(write(tmp_path, [{"_id": "x", **fields}], {"q": "?"}, {"q": {"x": 1}}))
    assert [entry.text for entry in dataset.corpus()] == [text]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    rows = [{"_id": "a", "text": "one"}, {"_id": "b", "title": "", "text": " "}]
    root = write(tmp_path, rows, {"q": "?", "r": "??"}, {"q": {"a": 1, "b": 1}, "r": {"a": 0, "gone": 0}})
    dataset = open_dataset(root)
    (task,) = dataset.tasks()
    assert [(query.id, query.relevant) for query in dataset.queries(task)] == [("q", {"a": 1, "b": 1})]
    assert [entry.key for entry in dataset.corpus()] == ["a"]
    assert dataset.num_keys() == 1
    assert dataset.warnings([task]) == [
        "1 of 2 rows of the corpus have neither title nor text and are no keys; 1 judgements ask for them",
        "1 queries without a relevant key are left out, which BEIR counts as 0",
    ]


def test_an_endpoint_that_knows_the_answers_scores_one(root: Path, tmp_path: Path) -> None:
    knowing = KnowingService(open_dataset(root))
    with serving(knowing.service) as fake:
        asked = ["quality", "--dataset", str(root), "--url", fake.url, "--output", str(tmp_path / "out")]
        assert main(asked) == 0
        assert not any("exclude" in body or "pool" in body for body in fake.bodies)
        knowing.bodies.clear()
        assert main([*asked[:-1], str(tmp_path / "without"), "--exclude-reference"]) == 0
    report = json.loads((tmp_path / "out/results.json").read_text())
    (result,) = report["results"]
    assert result["metrics"]["success@1"] == 1.0
    assert report["means"] == []
    assert [body.get("exclude") for body in sorted(knowing.bodies, key=lambda b: b["text"])] == [["d5"], ["d6"], None]


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("corpus.jsonl", "{", r"corpus\.jsonl:41: not JSON"),
        ("corpus.jsonl", {"text": "x"}, r"corpus\.jsonl:41: _id must be a string that is not blank, got None"),
        ("corpus.jsonl", {"_id": "x", "text": 3}, r"corpus\.jsonl:41: 'text' must be a string or null, got a number"),
        ("queries.jsonl", {"_id": "q0", "text": "x"}, r"queries\.jsonl:5: query 'q0' comes a second time"),
        ("qrels/test.tsv", "q0\tnone\t1", r"test\.tsv:10: key 'none' is not in .*corpus\.jsonl"),
        ("qrels/test.tsv", "none\td1\t1", r"test\.tsv: 1 judged queries do not exist, the first is none"),
        ("qrels/test.tsv", "q0 0 d1 1", r"test\.tsv:10: expected query_id, corpus_id and score, got 1 columns"),
        ("qrels/test.tsv", "q0\td1\thigh", r"test\.tsv:10: score must be a whole number, got 'high'"),
    ],
)
def test_a_wrong_line_is_named(root: Path, file: str, line: Any, said: str) -> None:
    with (root / file).open("a") as opened:
        opened.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    dataset = open_dataset(root)
    with pytest.raises(DatasetFormatError, match=said):
        dataset.queries(dataset.tasks()[0])


def test_a_query_without_text_and_a_split_without_judgements_are_refused(root: Path) -> None:
    shutil.copy(root / "qrels/test.tsv", root / "qrels/train.tsv")
    with pytest.raises(DatasetError, match=r"qrels/dev\.tsv does not exist; splits with judgements: test, train"):
        open_dataset(root, split="dev").tasks()
    lines(root / "queries.jsonl", [{"_id": "q0", "text": " "}])
    dataset = open_dataset(root, split="train")
    with pytest.raises(DatasetFormatError, match=r"queries\.jsonl:1: query 'q0' has no text"):
        dataset.queries(dataset.tasks()[0])
