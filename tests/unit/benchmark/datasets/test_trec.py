"""A user's own topics and judgements, over the same corpus files that an index is built of."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Hit, Query, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.scoring import score
from tests.pictures import encoded, plain
from tests.unit.benchmark.fake_service import serving
from tests.unit.benchmark.knowing_service import KnowingService

RED, BLUE = encoded(plain((200, 0, 0)), "PNG"), encoded(plain((0, 0, 200)), "PNG")
GRADES = {"t1": {"red": 3, "page": 1}, "t2": {"note": 1, "red": 0}, "t3": {"blue": 2, "note": 1}}
QRELS = "".join(f"{t} 0 {key} {grade}\n" for t, keys in GRADES.items() for key, grade in keys.items())
ROWS: list[dict[str, Any]] = [
    {"key": "red", "image": "photos/red.png"},
    {"key": "blue", "image": "photos/blue.png", "pool": "photos"},
    {"key": "note", "text": "a note"},
    {"key": "page", "text": "a page", "image": ["photos/red.png", "photos/blue.png"], "metadata": {"year": 2}},
]
TOPICS: list[dict[str, Any]] = [
    {"id": "t1", "text": "red things", "image": "photos/red.png", "instruction": "Find it."},
    {"id": "t2", "text": "notes"},
    {"id": "t3", "image": ["photos/blue.png", "photos/red.png"]},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos/red.png").write_bytes(RED)
    (folder / "photos/blue.png").write_bytes(BLUE)
    (folder / "qrels.txt").write_text(QRELS)
    lines(folder / "corpus.jsonl", ROWS)
    lines(folder / "topics.jsonl", TOPICS)
    return folder


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def topics_of(dataset: Dataset) -> list[Query]:
    (task,) = dataset.tasks()
    return dataset.queries(task)


def test_topics_have_texts_images_and_instructions(root: Path) -> None:
    red, blue = root / "photos/red.png", root / "photos/blue.png"
    dataset = open_dataset(root)
    assert topics_of(dataset) == [
        Query("t1", "red things", (red,), GRADES["t1"], instruction="Find it.", instructed="Find it. red things"),
        Query("t2", "notes", relevant={"note": 1}),
        Query("t3", None, (blue, red), GRADES["t3"]),
    ]
    entries = {entry.key: entry for entry in dataset.corpus()}
    assert [entry.modality for entry in entries.values()] == ["image", "image", "text", "fused"]
    assert [image_bytes(image) for image in entries["page"].images] == [RED, BLUE]
    assert (entries["blue"].pools, entries["page"].metadata) == (("photos",), {"year": 2})
    assert dataset.warnings(dataset.tasks()) == []


def test_a_table_of_topics_and_a_shard_are_read_too(root: Path) -> None:
    (root / "topics.jsonl").unlink()
    (root / "topics.tsv").write_text("t1\tred things\r\n\nt2\t notes\twith a tab\nt9\tnobody judged this\n")
    (root / "qrels.txt").write_text("t1\t0\tred\t1\nt2 Q0 note 2\n")
    (root / "corpus.jsonl").unlink()
    (root / "note.txt").write_text("a note")
    with tarfile.open(root / "corpus.tar", "w") as shard:
        shard.add(root / "photos/red.png", "red.png")
        shard.add(root / "note.txt", "note.txt")
    dataset = open_dataset(root)
    assert [(q.id, q.text, q.relevant) for q in topics_of(dataset)] == [
        ("t1", "red things", {"red": 1}),
        ("t2", "notes\twith a tab", {"note": 2}),
    ]
    assert [(e.key, e.text, [image_bytes(i) for i in e.images]) for e in dataset.corpus()] == [
        ("red", None, [RED]),
        ("note", "a note", []),
    ]
    assert dataset.warnings(dataset.tasks()) == ["1 of 3 topics have no relevant key and are left out"]


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_trec_eval(root: Path, seed: int) -> None:
    generator, keys = np.random.default_rng(seed), [row["key"] for row in ROWS]
    run = {topic: dict(zip(keys, generator.random(len(keys)).tolist(), strict=True)) for topic in GRADES}
    answers = {
        topic: Answer(
            tuple(Hit(key, run[topic][key], "text") for key in sorted(keys, key=lambda key: -run[topic][key])),
            *(0.0, {}, False, 0, ("1", "f")),
        )
        for topic in run
    }
    dataset = open_dataset(root)
    (task,) = dataset.tasks()
    result = score(task, len(keys), dataset.queries(task), answers, [1, 2])
    theirs = pytrec_eval.RelevanceEvaluator(GRADES, {"ndcg_cut.10", "recall.2", "recip_rank"}).evaluate(run)
    for name, other in (("ndcg@10", "ndcg_cut_10"), ("recall@2", "recall_2"), ("mrr", "recip_rank")):
        mean = sum(values[other] for values in theirs.values()) / len(theirs)
        assert result.numbers[name].value == pytest.approx(mean, abs=1e-9)


def test_an_endpoint_that_knows_the_answers_scores_one(root: Path, tmp_path: Path) -> None:
    knowing = KnowingService(open_dataset(root))
    with serving(knowing.service) as fake:
        asked = ["quality", "--dataset", str(root), "--url", fake.url, "--output", str(tmp_path / "out")]
        assert main(asked) == 0
    (result,) = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert (result["metrics"]["success@1"], result["num_keys"]) == (1.0, len(ROWS))


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("qrels.txt", "t1 0 none 1", r"qrels\.txt:7: key 'none' is not in .*corpus\.jsonl"),
        ("qrels.txt", "t8 0 red 1", r"qrels\.txt: 1 judged topics do not exist, the first is t8"),
        ("qrels.txt", "t1 red 1", r"qrels\.txt:7: expected 4 or 5 columns, got 3"),
        ("qrels.txt", "t1 0 red high", r"qrels\.txt:7: grade must be a whole number, got 'high'"),
        ("topics.jsonl", '{"id": "t1", "text": "x"}', r"topics\.jsonl:4: topic 't1' comes a second time"),
        ("topics.jsonl", '{"text": "x"}', r"topics\.jsonl:4: expected 'id', a string"),
        ("topics.jsonl", '{"id": "t4"}', r"topics\.jsonl:4: topic 't4' has neither text nor image"),
        ("topics.jsonl", '{"id": "t4", "image": 3}', r"topics\.jsonl:4: 'image' must be a path, .* got a number"),
        ("topics.jsonl", '{"id": "t4", "image": "x.png"}', r"topics\.jsonl:4: image .*/x\.png does not exist"),
        ("corpus.jsonl", '{"key": "new"}', r"corpus\.jsonl:5: .*"),
    ],
)
def test_a_wrong_line_is_named(root: Path, file: str, line: str, said: str) -> None:
    with (root / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(DatasetError, match=said):
        topics_of(open_dataset(root))


def test_one_file_of_topics_and_one_corpus_are_expected(root: Path) -> None:
    (root / "topics.tsv").write_text("no tab\n")
    with pytest.raises(DatasetError, match=r"has 2 files of topics, expected one of topics\.tsv, topics\.jsonl"):
        topics_of(open_dataset(root))
    (root / "topics.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"topics\.tsv:1: expected an id, a tab and a text"):
        topics_of(open_dataset(root))
    (root / "corpus.csv").write_text("key,text\n")
    with pytest.raises(DatasetError, match=r"expected one corpus such as corpus\.jsonl, found corpus\.csv, corpus\.j"):
        topics_of(open_dataset(root))
