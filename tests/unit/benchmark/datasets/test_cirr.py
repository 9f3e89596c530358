"""CIRR is read as its owners publish it and scores as their code and others' do on the same vectors."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.benchmark.__main__ import main
from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Task
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.datasets.cirr import SPLIT, SUBSET, Cirr
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.scoring import TaskResult, score, summary_number
from tests.unit.benchmark.fake_service import serving
from tests.unit.benchmark.knowing_service import KnowingService
from tests.unit.benchmark.ranked_vectors import answers_of

CAPTIONS = "captions/cap.rc2.val.json"


@pytest.fixture(scope="module")
def folder(mini: Callable[[str], Path]) -> Path:
    return mini("cirr")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, TaskResult]:
    dataset = open_dataset(folder / "cirr")
    found = {}
    for task in dataset.tasks():
        answers, queries = answers_from(folder, dataset, task), dataset.queries(task)
        published = dataset.published(task, queries, [answers[query.id].hits for query in queries])
        found[task.candidates] = score(task, 1, queries, answers, [1], published=published)
    return found


def answers_from(folder: Path, dataset: Any, task: Task, **changes: bool) -> dict[str, Answer]:
    """Answers of the stored vectors."""
    vectors, order = np.load(folder / "vectors.npz"), json.loads((folder / "vectors_order.json").read_text())
    ids = [str(pairid) for pairid in order[f"{dataset.split}_pairids"]]
    queries = dict(zip(ids, vectors[f"{dataset.split}_queries"].astype(float), strict=True))
    keys = dict(zip(order[f"gallery_{dataset.split}"], vectors[f"gallery_{dataset.split}"].astype(float), strict=True))
    return answers_of(task, dataset.queries(task), queries, dataset.keys(str(task.pool)), keys, **changes)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "expected" / "val_metrics.json").read_text())
    return found


def test_recall_is_that_of_clip4cir_and_of_the_definition(
    results: dict[str, TaskResult], expected: dict[str, Any]
) -> None:
    theirs = expected["formula"]["reference removed, split gallery"]
    ours = {f"recall@{k}": results[SPLIT].numbers[f"success@{k}"].value for k in (1, 5, 10, 50)}
    ours |= {f"recall_subset@{k}": results[SUBSET].numbers[f"success@{k}"].value for k in (1, 2, 3)}
    assert {name: 100 * value for name, value in ours.items()} == pytest.approx(
        {name: value for name, value in theirs.items() if name in ours}, abs=1e-9
    )
    clip4cir = expected["original"]["CLIP4Cir"]
    assert {name: 100 * value for name, value in ours.items()} == pytest.approx(
        {name: clip4cir[name] for name in ours}, abs=1e-5
    ), "they compute in float32"


def test_the_summary_is_the_mean_of_both_tasks(
    folder: Path, results: dict[str, TaskResult], expected: dict[str, Any]
) -> None:
    by_task = {result.task: result for result in results.values()}
    dataset = open_dataset(folder / "cirr")
    (summary,) = dataset.summaries(list(by_task))
    number = summary_number(summary, by_task)
    theirs = expected["formula"]["reference removed, split gallery"]["mean(recall@5, recall_subset@1)"]
    assert 100 * number.value == pytest.approx(theirs, abs=1e-9)
    assert number.low < number.value < number.high
    assert dataset.summaries([results[SPLIT].task]) == []


def test_published_numbers_are_those_of_the_owners_code_and_of_covr(
    results: dict[str, TaskResult], expected: dict[str, Any]
) -> None:
    ours = {
        each.metric: sum(each.values) / len(each.values) for result in results.values() for each in result.published
    }
    cirplant, covr = expected["original"]["CIRPLANT"], expected["original"]["CoVR, gallery cut to the split"]
    assert len(ours) == 7
    for k in (1, 5, 10, 50):
        assert ours[f"CIRPLANT recall_top{k}"] == pytest.approx(cirplant[f"recall_top{k}"], abs=1e-9)
        recall = results[SPLIT].numbers[f"success@{k}"].value
        assert round(100 * recall, 2) == covr[f"Recall@{k}"]
    for k in (1, 2, 3):
        number = ours[f"CIRPLANT recall_inset_top{k}, CoVR Recall_subset@{k}"]
        assert number == pytest.approx(cirplant[f"recall_inset_top{k}"], abs=1e-9)
        assert round(100 * number, 2) == covr[f"Recall_subset@{k}"]


def test_each_rank_is_the_definitions_with_and_without_the_reference(
    folder: Path, results: dict[str, TaskResult]
) -> None:
    dataset = open_dataset(folder / "cirr")
    kept = answers_from(folder, dataset, dataset.tasks()[0], excludes=False)
    lines = (folder / "expected" / "val_ranks.jsonl").read_text().splitlines()
    for number, row in enumerate(map(json.loads, lines)):
        assert results[SPLIT].queries[number] == str(row["pairid"])
        assert results[SPLIT].ranks[number] == (row["rank"],)
        assert results[SUBSET].ranks[number] == (row["subset_rank"],)
        hits = kept[str(row["pairid"])].keys
        assert hits.index(row["target_hard"]) + 1 == row["rank_with_reference_kept"]
        assert hits.index(row["reference"]) + 1 == row["reference_rank"]


def test_submissions_are_those_that_others_write(folder: Path) -> None:
    dataset = open_dataset(folder / "cirr", split="test1")
    rankings = {
        task: {query: answer.hits for query, answer in answers_from(folder, dataset, task).items()}
        for task in dataset.tasks()
    }
    files = dataset.extra_files(rankings, {})
    assert files.keys() == {"test1_pred_ranks_recall.json", "test1_pred_ranks_recall_subset.json"}
    for name, text in files.items():
        assert text == (folder / "expected" / name).read_text()
    assert open_dataset(folder / "cirr").extra_files(rankings, {}) == {}


def test_a_service_that_knows_the_answers_scores_one(folder: Path, tmp_path: Path) -> None:
    knowing = KnowingService(open_dataset(folder / "cirr"))
    with serving(knowing.service) as fake:
        arguments = ["--dataset", str(folder / "cirr"), "--url", fake.url, "--output", str(tmp_path)]
        assert main(["quality", *arguments]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert [set(row["metrics"].values()) for row in report["results"]] == [{1.0}, {1.0}]
    assert [row["num_keys"] for row in report["results"]] == [53, 5]
    assert [(mean["name"], mean["value"]) for mean in report["summaries"]] == [("mean of R@5 and R_subset@1", 1.0)]
    assert report["warnings"] == []
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "- mean of R@5 and R_subset@1: 1.0000" in page
    assert "best soft score among the first k" in page
    for body in knowing.bodies:
        assert len(body["exclude"]) == 1
        assert body["exclude"][0] not in body.get("within", ())


def test_the_hidden_split_is_sent_and_nothing_is_scored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knowing = KnowingService(open_dataset(folder / "cirr", split="test1"))
    with serving(knowing.service) as fake:
        arguments = ["--dataset", str(folder / "cirr"), "--url", fake.url, "--output", str(tmp_path)]
        assert main(["quality", "--split", "test1", *arguments]) == 0
        report = json.loads((tmp_path / "results.json").read_text())
        printed = capsys.readouterr()
    assert (report["results"], report["means"], report["summaries"]) == ([], [], [])
    assert [warning.split(":")[1] for warning in report["warnings"]] == [
        " 16 queries were sent and nothing is scored, since the dataset's owners keep the answers to themselves"
    ] * 2
    assert report["files"] == ["test1_pred_ranks_recall.json", "test1_pred_ranks_recall_subset.json"]
    for name in report["files"]:
        assert f"For the benchmark's own tools: {tmp_path / name}" in printed.out
        submission = json.loads((tmp_path / name).read_text())
        assert {len(names) for key, names in submission.items() if key.isdigit()} <= {50, 3}
        assert len(submission) == 18
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "Nothing was scored." in page
    assert "`test1_pred_ranks_recall.json`" in page


def test_a_failing_run_leaves_no_submission_of_an_earlier_one(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder / "cirr", split="test1")
    knowing = KnowingService(dataset)
    with serving(knowing.service) as fake:
        arguments = [
            "--dataset",
            str(folder / "cirr"),
            "--url",
            fake.url,
            "--output",
            str(tmp_path),
            "--split",
            "test1",
        ]
        assert main(["quality", *arguments]) == 0
        assert len(list(tmp_path.glob("test1_pred_ranks_*.json"))) == 2
        text = dataset.queries(dataset.tasks()[0])[5].text
        fake.failures[str(text)] = (500, {"error": {"type": "internal", "message": "boom"}})
        assert main(["quality", *arguments]) == 1
    assert list(tmp_path.glob("*.json")) == []


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder / "cirr", tmp_path / "cirr"))


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    """Changes a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairid": "12"}, "pairid must be a whole number, got '12'"),
        ({"pairid": 12061}, "pairid 12061 comes a second time"),
        ({"reference": "dev-0-0-img0"}, r"image 'dev-0-0-img0' is not in .*split.rc2.val.json"),
        ({"target_hard": "dev-436-1-img0"}, "target_hard 'dev-436-1-img0' is none of the members"),
        ({"target_soft": {"dev-436-1-img0": "1"}}, "target_soft of 'dev-436-1-img0' must be a number"),
        ({"target_soft": None}, "target_soft must be an object, got None"),
        ({"caption": "  "}, "caption must be a string that is not blank"),
        ({"img_set": {"members": ["dev-436-1-img0"]}}, "members must name the reference and other images"),
        ({"img_set": {}}, "img_set: members must be a list of strings"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_number(copied: Path, change: dict[str, Any], said: str) -> None:
    rewrite(copied / CAPTIONS, lambda rows: rows[2].update(change))
    dataset = open_dataset(copied)
    with pytest.raises(DatasetFormatError, match=rf"cap\.rc2\.val\.json: row 3: .*{said}|row 3: {said}"):
        dataset.queries(dataset.tasks()[0])


def test_a_missing_image_is_named_before_a_query_is_sent(copied: Path, tmp_path: Path) -> None:
    dataset = open_dataset(copied)
    victim = dataset.queries(dataset.tasks()[0])[4]
    knowing = KnowingService(dataset)
    (image,) = victim.images
    assert isinstance(image, Path)
    image.unlink()
    with serving(knowing.service) as fake:
        output = str(tmp_path / "out")
        assert main(["quality", "--dataset", str(copied), "--url", fake.url, "--output", output]) == 2
    assert knowing.bodies == []
    with pytest.raises(DatasetFormatError, match=rf"row \d+: image .*{image.name} does not exist"):
        open_dataset(copied).queries(dataset.tasks()[0])


def test_the_corpus_is_the_splits_images_and_not_all_of_the_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", "--dataset", str(folder / "cirr"), "--output", str(tmp_path / "corpus.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    split = json.loads((folder / "cirr/image_splits/split.rc2.val.json").read_text())
    assert [row["key"] for row in rows] == list(split)
    assert {row["pool"][0] for row in rows} == {"cirr_val"}
    assert all(Path(row["image"][0]).is_file() for row in rows)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[{]", r"val\.json:1: not JSON"),
        (b"{}", "expected a list, got {}"),
        (b"[1]", "row 1 must be an object, got 1"),
        (b"\xff", "not standard JSON in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"caption": "\\ud800"}]', "not standard JSON in UTF-8"),
    ],
)
def test_a_damaged_file_is_named(copied: Path, data: bytes, said: str) -> None:
    (copied / CAPTIONS).write_bytes(data)
    dataset = open_dataset(copied)
    with pytest.raises(DatasetFormatError, match=said):
        dataset.queries(dataset.tasks()[0])


def test_options_and_splits_that_are_not_there_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", str(folder / "cirr"), "--output", str(tmp_path / "corpus.jsonl"), "--options"]
    for option, said in (
        ("pooling", "something like pooling=middle, got 'pooling'"),
        ("a=1,a=2", "'a' is given twice"),
    ):
        assert main(["corpus", *arguments, option]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(DatasetError, match=r"CIRR has no option pooling=middle, it has: no options"):
        open_dataset(folder / "cirr", options=["pooling=middle"])
    with pytest.raises(DatasetError, match="CIRR has no split 'test', it has: val, test1, train"):
        open_dataset(folder / "cirr", split="test")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["members", "a"]), inner, max_size=2),
    max_leaves=4,
)
FIELDS = ["pairid", "reference", "target_hard", "target_soft", "caption", "img_set"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES), max_size=3), split=VALUES)
def test_whatever_files_hold_is_read_or_named(tmp_path: Path, rows: list[Any], split: Any) -> None:
    for name, value in ((CAPTIONS, rows), ("image_splits/split.rc2.val.json", split)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    dataset = Cirr(tmp_path, "val")
    for read in (lambda: dataset.queries(dataset.tasks()[1]), lambda: list(dataset.corpus()), dataset.num_keys):
        with suppress(DatasetFormatError):
            read()
