"""The visual documents of MMEB's version 2 are read in the form that their owners publish, and score by definition."""

import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from anykey.benchmark.__main__ import main
from anykey.benchmark.dataset import image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.scoring import TaskResult, mean_number, score
from tests.unit.benchmark.fake_service import FakeService, Hits, serving
from tests.unit.benchmark.knowing_service import KnowingService
from tests.unit.benchmark.ranked_vectors import answers_of

Rows = list[dict[str, Any]]
BASE = "visdoc-tasks/data"
ARXIV, BIO, SLIDES, PAGES = (
    *("arxivqa_test_subsampled_beir", "biomedical_lectures_v2"),
    *("VisRAG-Ret-Test-SlideVQA", "ViDoSeek-page-fixed"),
)
TASKS = {
    ARXIV: "ViDoRe_arxivqa",
    BIO: "ViDoRe_biomedical_lectures_v2_multilingual",
    SLIDES: "VisRAG_SlideVQA",
    PAGES: "ViDoSeek-page",
}
NUM_PAGES, NUM_QUERIES = 16, 6


def page(number: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 10), (number * 5 % 256, number * 11 % 256, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def tables(folder: str) -> dict[str, Rows]:
    """A task's rows: ids are numbers in ViDoRe, names of files in VisRAG; grades are 0 to 2; languages in ViDoRe 2."""
    draw = random.Random(folder)
    ids: list[Any] = list(range(NUM_PAGES)) if folder != SLIDES else [f"deck {n}.jpg" for n in range(NUM_PAGES)]
    names: list[Any] = list(range(NUM_QUERIES)) if folder != SLIDES else [f"q-{n}" for n in range(NUM_QUERIES)]
    queries: Rows = [
        {"query-id": name, "query": f" What is on page {n} of {folder}?\n"} for n, name in enumerate(names)
    ]
    if folder == BIO:
        queries = [{**row, "language": ("english", "french")[n % 2]} for n, row in enumerate(queries)]
    qrels: Rows = []
    for name in names:
        for place, found in enumerate(draw.sample(ids, 4)):
            qrels.append({"query-id": name, "corpus-id": found, "score": (2, 1, 1, 0)[place]})
    qrels.append({**qrels[0], "score": 1})  # the pair once more, with a lower grade
    images = [{"bytes": page(n), "path": None} for n in range(NUM_PAGES)]
    corpus: Rows = [{"corpus-id": name, "image": image} for name, image in zip(ids, images, strict=True)]
    return {"queries": queries, "corpus": corpus, "qrels": qrels}


def write(root: Path, folder: str, rows: Mapping[str, Rows]) -> None:
    for table, content in rows.items():
        place = root / BASE / folder / table
        place.mkdir(parents=True, exist_ok=True)
        half = len(content) // 2
        for number, part in enumerate((content[:half], content[half:])):  # tables have several files
            split = "train" if folder == SLIDES else "test"
            path = place / f"{split}-{number:05d}-of-00002.parquet"
            parquet.write_table(pyarrow.Table.from_pylist(part), path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents")
    for folder in TASKS:
        write(root, folder, tables(folder))
    return root


def by_definition(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """The grades are gains, as VLM2Vec's `ndcg_linear@k` is meant: its grades keep their keys here."""
    gains = [grades.get(key, 0) / math.log2(place + 2) for place, key in enumerate(ranked[:k])]
    best = sorted(grades.values(), reverse=True)[:k]
    return sum(gains) / sum(grade / math.log2(place + 2) for place, grade in enumerate(best))


def test_numbers_are_those_of_the_definition_in_each_tasks_own_pages(root: Path) -> None:
    dataset, rng = open_dataset(root), np.random.default_rng(0)
    results: dict[Any, TaskResult] = {}
    for task in dataset.tasks():
        queries, keys = dataset.queries(task), sorted(dataset.keys(str(task.pool)))
        vectors: dict[str, NDArray[np.float64]] = {key: rng.normal(size=8) for key in keys}
        asked: dict[str, NDArray[np.float64]] = {query.id: rng.normal(size=8) for query in queries}
        answers = answers_of(task, queries, asked, keys, vectors)
        results[task] = result = score(task, len(keys), queries, answers, [50])
        for query, value in zip(queries, result.values["ndcg@5"], strict=True):
            ranked = sorted(keys, key=lambda key: -float(vectors[key] @ asked[query.id]))
            assert value == pytest.approx(by_definition(ranked, query.relevant, 5), abs=1e-9)
    assert [task.name for task in results] == list(TASKS.values())
    means = {mean.name: mean_number(mean, results, None) for mean in dataset.means(list(results))}
    values = [result.headline.value for result in results.values()]
    groups = ("ViDoRe 1", "ViDoRe 2", "VisRAG", "out of distribution")
    expected = {**{f"mean over {name}": values[n] for n, name in enumerate(groups)}, "mean over tasks": np.mean(values)}
    assert {name: mean.value for name, mean in means.items() if mean} == pytest.approx(expected)


def test_a_query_has_its_instruction_and_the_highest_of_its_grades(root: Path) -> None:
    dataset = open_dataset(root)
    query = dataset.queries(dataset.tasks()[0])[0]
    text = f"What is on page 0 of {ARXIV}?"
    assert (query.text, query.modality) == (text, "text")
    assert query.instructed == f"Find a document image that matches the given query: {text}"
    judged = [row for row in tables(ARXIV)["qrels"] if row["query-id"] == 0 and row["score"] > 0]
    assert query.relevant == {f"ViDoRe_arxivqa/{row['corpus-id']}": row["score"] for row in judged[:3]}
    assert max(query.relevant.values()) == 2


def test_english_queries_can_be_taken_alone_as_the_owners_name_them(root: Path) -> None:
    dataset = open_dataset(root, options=["languages=english"])
    by_name = {task.name: task for task in dataset.tasks()}
    task = by_name["ViDoRe_biomedical_lectures_v2"]
    assert task.pool == TASKS[BIO]
    assert [query.id for query in dataset.queries(task)] == ["0", "2", "4"]
    assert len(dataset.queries(by_name["ViDoRe_arxivqa"])) == NUM_QUERIES


def test_the_corpus_is_written_and_a_service_that_knows_the_answers_scores_one(root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    assert main(["corpus", "--dataset", str(root), "--output", str(corpus)]) == 0
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    entries = list(open_dataset(root).corpus())
    assert [row["key"] for row in rows] == [entry.key for entry in entries]
    assert [Path(row["image"][0]).read_bytes() for row in rows] == [image_bytes(e.images[0]) for e in entries]
    assert {row["pool"][0] for row in rows} == set(TASKS.values())
    knowing = KnowingService(open_dataset(root))
    output = tmp_path / "out"
    with serving(knowing.service) as fake:
        flags = ["--tasks", "vidore,visrag,ood", "--concurrency", "1"]
        assert main(["quality", "--dataset", str(root), "--url", fake.url, "--output", str(output), *flags]) == 0
    report = json.loads((output / "results.json").read_text())
    assert {row["metrics"]["success@1"] for row in report["results"]} == {1.0}
    assert report["warnings"] == []
    assert {body["pool"] for body in knowing.bodies} == {TASKS[ARXIV], TASKS[SLIDES], TASKS[PAGES]}


def test_ties_are_lost(root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(root)

    def constant(body: Mapping[str, Any]) -> Hits:
        return [(key, 0.5, "image") for key in sorted(dataset.keys(body["pool"]))]

    sizes = {str(task.pool): NUM_PAGES for task in dataset.tasks()}
    with serving(FakeService(constant, sizes, dataset.num_keys())) as fake:
        arguments = ["--dataset", str(root), "--url", fake.url, "--output", str(tmp_path), "--tasks", "vidore"]
        assert main(["quality", *arguments]) == 0
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert result["metrics"]["ndcg@5"] == result["metrics"]["success@10"] == 0


def test_files_that_their_owners_replaced_are_measured_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "ViDoSeek-page", tables(PAGES))
    dataset = open_dataset(tmp_path)
    (warning,) = dataset.warnings(dataset.tasks())
    assert warning.startswith("ViDoSeek-page: its owners have replaced these files by ViDoSeek-page-fixed")
    write(tmp_path, PAGES, tables(PAGES))
    dataset = open_dataset(tmp_path)
    assert dataset.warnings(dataset.tasks()) == []


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("queries", {"query": " "}, r"test-00001-of-00002\.parquet:3: query '5' has no text"),
        ("queries", {"query-id": 0}, r"queries.*00001-of-00002\.parquet:3: query '0' comes a second time"),
        ("queries", {"query-id": 77}, r"queries.*00001-of-00002\.parquet:3: query '77' has no judgement above 0"),
        ("qrels", {"corpus-id": 99}, r"qrels.*parquet:13: key '99' is not in the corpus of ViDoRe_arxivqa"),
        ("qrels", {"query-id": 99}, r"1 judged queries do not exist, such as '99'"),
        ("corpus", {"corpus-id": 0}, r"corpus.*parquet:8: key '0' comes a second time"),
        ("corpus", {"image": {"bytes": None, "path": "a.png"}}, r"corpus.*parquet:8: key '15' has no image"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_number(
    tmp_path: Path, table: str, change: Mapping[str, Any], said: str
) -> None:
    rows = tables(ARXIV)
    rows[table][-1] = {**rows[table][-1], **change}
    write(tmp_path, ARXIV, rows)
    dataset = open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=said):
        (dataset.queries(dataset.tasks()[0]), list(dataset.corpus()))


def test_missing_columns_and_tables_are_named(tmp_path: Path) -> None:
    rows = tables(ARXIV)
    write(tmp_path, ARXIV, {**rows, "qrels": [{"query-id": 0, "corpus-id": 0}, {"query-id": 1, "corpus-id": 0}]})
    dataset = open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"no column 'score', there are: query-id, corpus-id"):
        dataset.queries(dataset.tasks()[0])
    for path in (tmp_path / BASE / ARXIV / "qrels").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"qrels has no \.parquet files"):
        dataset.queries(dataset.tasks()[0])
    with pytest.raises(DatasetError, match=r"is no MMEB v2, visual documents: expected tables such as"):
        open_dataset(tmp_path / BASE / ARXIV, "mmeb-v2-documents").tasks()
