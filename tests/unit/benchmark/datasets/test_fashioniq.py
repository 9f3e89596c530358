"""FashionIQ is read as its owners publish it and scores as others' code does on the same vectors."""

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
from anykey.benchmark.datasets.fashioniq import CATEGORIES, JUDGED, ORIGINAL, FashionIQ
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.scoring import TaskResult, mean_number, score
from tests.unit.benchmark.fake_service import serving
from tests.unit.benchmark.knowing_service import KnowingService
from tests.unit.benchmark.ranked_vectors import answers_of

TITLES = {
    ORIGINAL: ("split gallery (standard, 'original')", "split gallery"),
    JUDGED: ("reference-or-target gallery ('VAL')", "reference-or-target gallery"),
}


@pytest.fixture(scope="module")
def folder(mini: Callable[[str], Path]) -> Path:
    return mini("fashioniq")


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which no image is missing, as for those whose numbers are compared."""
    root = Path(shutil.copytree(folder / "fashion-iq", tmp_path_factory.mktemp("fashioniq") / "fashion-iq"))
    some = next((root / "images").iterdir())
    for name in json.loads((folder / "expected" / "missing_images.json").read_text())["missing_images"]:
        shutil.copy(some, root / "images" / f"{name}.jpg")
    return root


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "expected" / "val_metrics.json").read_text())
    return found


def scored(folder: Path, root: Path, excludes: bool) -> dict[Task, TaskResult]:
    """Every task, scored from the stored vectors."""
    dataset = open_dataset(root)
    return {
        task: score(task, 1, dataset.queries(task), answers_from(folder, dataset, task, excludes), [1])
        for task in dataset.tasks()
    }


def answers_from(folder: Path, dataset: Any, task: Task, excludes: bool) -> dict[str, Answer]:
    vectors, order = np.load(folder / "vectors.npz"), json.loads((folder / "vectors_order.json").read_text())
    category = task.aliases[0]
    rows = vectors[f"queries_{category}"].astype(float)
    queries = {f"{category}:{number}": vector for number, vector in enumerate(rows, start=1)}
    keys = dict(zip(order[f"gallery_{category}"], vectors[f"gallery_{category}"].astype(float), strict=True))
    return answers_of(task, dataset.queries(task), queries, dataset.keys(str(task.pool)), keys, excludes)


@pytest.mark.parametrize(("excludes", "words"), [(False, "reference kept"), (True, "reference removed")])
def test_both_galleries_score_as_defined(
    folder: Path, whole: Path, expected: dict[str, Any], excludes: bool, words: str
) -> None:
    results = scored(folder, whole, excludes)
    assert len(results) == 6
    dataset = open_dataset(whole)
    for candidates, (_, title) in TITLES.items():
        theirs = expected["formula"][f"{title}, {words}"]
        tasks = [task for task in results if task.candidates == candidates]
        for task in tasks:
            for k in (10, 50):
                value = results[task].numbers[f"success@{k}"].value
                assert 100 * value == pytest.approx(theirs[task.aliases[0]][f"R@{k}"], abs=1e-9)
        (mean,) = dataset.means(tasks)
        number = mean_number(mean, results, None)
        assert number is not None
        assert 100 * number.value == pytest.approx(theirs["mean over categories"]["R@10"], abs=1e-9)


@pytest.mark.parametrize(
    ("evaluator", "excludes", "names", "digits"),
    [
        ("CLIP4Cir", False, ("R@10", "R@50"), 1e-5),  # in float32
        ("composed_image_retrieval", False, ("R@10", "R@50"), 1e-5),
        ("CoVR", True, ("R10", "R50"), 0.005 + 1e-9),  # rounds to two digits
    ],
)
def test_three_public_evaluators_agree(
    folder: Path, whole: Path, expected: dict[str, Any], evaluator: str, excludes: bool, names: Any, digits: float
) -> None:
    for task, result in scored(folder, whole, excludes).items():
        theirs = expected["original"][TITLES[task.candidates][0]]
        assert len(result.queries) == theirs["queries"][task.aliases[0]]
        for k, name in zip((10, 50), names, strict=True):
            value = 100 * result.numbers[f"success@{k}"].value
            assert value == pytest.approx(theirs[evaluator][task.aliases[0]][name], abs=digits)


def test_each_rank_is_the_definitions(folder: Path, whole: Path) -> None:
    for words, excludes in (("kept", False), ("removed", True)):
        results = scored(folder, whole, excludes)
        ranks = {
            query: ranks
            for task, result in results.items()
            if task.candidates == ORIGINAL
            for query, ranks in zip(result.queries, result.ranks, strict=True)
        }
        for row in map(json.loads, (folder / "expected" / "val_ranks.jsonl").read_text().splitlines()):
            assert ranks[f"{row['category']}:{row['row'] + 1}"] == (row[f"rank_reference_{words}"],)


def test_galleries_are_the_splits_and_the_judged_images(folder: Path, whole: Path) -> None:
    dataset = open_dataset(whole)
    for task in dataset.tasks():
        if task.candidates == ORIGINAL:
            path = whole / "image_splits" / f"split.{task.aliases[0]}.val.json"
        else:
            path = folder / "galleries" / f"reference_or_target.{task.aliases[0]}.val.json"
        assert dataset.keys(str(task.pool)) == set(json.loads(path.read_text()))
    assert dataset.warnings(dataset.tasks()) == []


def test_captions_are_joined_as_covr_does(folder: Path, whole: Path) -> None:
    dataset = open_dataset(whole)
    texts = {query.id: query.text for task in dataset.tasks() for query in dataset.queries(task)}
    rows = list(map(json.loads, (folder / "expected" / "joined_captions.jsonl").read_text().splitlines()))
    assert len(rows) == len(texts)
    for row in rows:
        assert texts[f"{row['category']}:{row['row'] + 1}"] == row["CoVR"]


def test_missing_keys_are_left_out_and_counted_and_right_answers_score_one(folder: Path, tmp_path: Path) -> None:
    root = folder / "fashion-iq"
    knowing = KnowingService(open_dataset(root))
    with serving(knowing.service) as fake:
        assert main(["quality", "--dataset", str(root), "--url", fake.url, "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert [row["num_keys"] for row in report["results"]] == [51, 53, 50, 25, 32, 19]
    for row in report["results"]:
        assert set(row["metrics"].values()) == {1.0}
    assert report["warnings"] == [
        f"fashioniq_{category}, original: 1 of {size} keys are left out, whose images are missing"
        for category, size in (("dress", 52), ("shirt", 54), ("toptee", 51))
    ]
    assert [(mean["table"], mean["metrics"]["headline"]) for mean in report["means"]] == [
        ("Original", 1.0),
        ("Reference or target", 1.0),
    ]
    assert not any("exclude" in body for body in knowing.bodies), "two of three evaluators keep the reference"


def test_the_reference_is_excluded_where_that_is_wanted(folder: Path, tmp_path: Path) -> None:
    root = folder / "fashion-iq"
    knowing = KnowingService(open_dataset(root))
    with serving(knowing.service) as fake:
        arguments = ["--dataset", str(root), "--url", fake.url, "--output", str(tmp_path)]
        assert main(["quality", *arguments, "--exclude-reference", "--tasks", "toptee"]) == 0
    assert [len(body["exclude"]) for body in knowing.bodies] == [1] * 22


def test_queries_without_their_images_stop_the_run_or_are_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(folder / "fashion-iq", tmp_path / "fashion-iq"))
    rows = json.loads((root / "captions" / "cap.dress.val.json").read_text())
    name = rows[1]["candidate"]
    (root / "images" / f"{name}.jpg").unlink()
    affected = sum(name in (row["candidate"], row["target"]) for row in rows)
    knowing = KnowingService(open_dataset(root, options=["missing=skip"]))
    with serving(knowing.service) as fake:
        arguments = ["--dataset", str(root), "--url", fake.url, "--output", str(tmp_path / "out"), "--tasks", "dress"]
        assert main(["quality", *arguments]) == 2
        assert knowing.bodies == []
        said = capsys.readouterr().err
        assert main(["quality", *arguments, "--options", "missing=skip"]) == 0
    assert "cap.dress.val.json: row 2: the reference or target has no image in" in said
    assert f"for {affected} of 14 queries; --options missing=skip leaves them out" in said
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["num_queries"] for row in report["results"]] == [14 - affected] * 2
    assert report["warnings"] == [
        f"fashioniq_dress, original: 2 of 52 keys are left out, whose images are missing, and {affected} of 14 queries",
        "fashioniq_dress, reference or target: 1 of 25 keys are left out, whose images are missing, and "
        f"{affected} of 14 queries",
    ]
    assert report["dataset"]["options"] == {"missing": "skip"}


def test_the_corpus_has_each_image_once_with_all_its_pools(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "corpus.jsonl"
    assert main(["corpus", "--dataset", str(folder / "fashion-iq"), "--output", str(output)]) == 0
    rows = {row["key"]: row for row in map(json.loads, output.read_text().splitlines())}
    splits = [json.loads(path.read_text()) for path in sorted((folder / "fashion-iq/image_splits").glob("*.val.json"))]
    missing = set(json.loads((folder / "expected" / "missing_images.json").read_text())["missing_images"])
    assert rows.keys() == {name for split in splits for name in split} - missing
    assert max(len(row["pool"]) for row in rows.values()) > 2, "a reference of toptee is a shirt"
    assert "1 of 52 keys are left out" in capsys.readouterr().err


def test_png_files_are_images_too(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder / "fashion-iq", tmp_path / "fashion-iq"))
    before = {entry.key for entry in open_dataset(root).corpus()}
    for path in (root / "images").iterdir():
        path.rename(path.with_suffix(".png"))
    entries = list(open_dataset(root).corpus())
    assert {entry.key for entry in entries} == before
    assert {path.suffix for entry in entries for path in entry.images if isinstance(path, Path)} == {".png"}


def test_the_test_split_has_queries_and_no_answers(folder: Path) -> None:
    dataset = open_dataset(folder / "fashion-iq", split="test")
    tasks = dataset.tasks()
    assert [task.candidates for task in tasks] == [ORIGINAL] * 3
    assert [len(dataset.queries(task)) for task in tasks] == [3, 3, 3]
    assert not any(query.relevant for task in tasks for query in dataset.queries(task))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": None}, "target must be a string that is not blank, got None"),
        ({"target": "B000000000"}, r"target 'B000000000' is not in .*split\.dress\.val\.json"),
        ({"candidate": 7}, "candidate must be a string that is not blank, got 7"),
        ({"target": "B00V5ZQ0FU", "candidate": "B00V5ZQ0FU"}, "'B00V5ZQ0FU' is both candidate and target"),
        ({"captions": "is red"}, "captions must be a list of strings, got 'is red'"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_number(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    root = Path(shutil.copytree(folder / "fashion-iq", tmp_path / "fashion-iq"))
    path = root / "captions" / "cap.dress.val.json"
    rows = json.loads(path.read_text())
    rows[2].update(change)
    path.write_text(json.dumps(rows))
    with pytest.raises(DatasetFormatError, match=rf"cap\.dress\.val\.json: row 3: {said}"):
        open_dataset(root).tasks()


def test_files_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder / "fashion-iq", tmp_path / "fashion-iq"))
    (root / "image_splits" / "split.shirt.val.json").unlink()
    with pytest.raises(DatasetFormatError, match=r"split\.shirt\.val\.json: the file does not exist"):
        open_dataset(root).tasks()
    shutil.rmtree(root / "images")
    with pytest.raises(DatasetError, match=r"images does not exist"):
        list(open_dataset(root, split="test").corpus())
    for category in CATEGORIES:
        (root / "captions" / f"cap.{category}.val.json").unlink()
    with pytest.raises(DatasetError, match=r"has no captions such as .*cap\.dress\.val\.json"):
        open_dataset(root).tasks()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["target", "candidate", "captions"]), VALUES), max_size=3)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, split=VALUES)
def test_whatever_files_hold_is_read_or_named(tmp_path: Path, rows: list[Any], split: Any) -> None:
    for name, value in (("captions/cap.dress.val.json", rows), ("image_splits/split.dress.val.json", split)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "a.jpg").touch()
    dataset = FashionIQ(tmp_path, "val", {"missing": "skip"})
    with suppress(DatasetFormatError):
        for task in dataset.tasks():
            dataset.queries(task)
    with suppress(DatasetFormatError):
        list(dataset.corpus())
