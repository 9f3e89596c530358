"""Karpathy's files are read as training reads them, and fixed vectors score as papers' own loops say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.benchmark.__main__ import main
from anykey.benchmark.dataset import Query, Task
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.scoring import mean_number, score
from anykey.sources.pairs import open_pairs
from tests.pictures import encoded, plain
from tests.unit.benchmark.fake_service import serving
from tests.unit.benchmark.knowing_service import KnowingService
from tests.unit.benchmark.ranked_vectors import answers_of

NUM_CAPTIONS = [5, 7, 3, 5, 6, 5, 5, 5, 1, 5, 5, 5]  # of the photos of the test split
OTHERS = {"val": 2, "train": 3, "restval": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write(folder, "coco", rows())
    return folder


def rows() -> list[dict[str, Any]]:
    """Photos in the order of the file, those of other splits between the test split's."""
    found = [row(f"COCO_val2014_{n:04}.jpg", "test", num, n) for n, num in enumerate(NUM_CAPTIONS)]
    for split, num in OTHERS.items():
        found[2:2] = [row(f"COCO_train2014_{split}{n}.jpg", split, 5, n) for n in range(num)]
    return found


def row(name: str, split: str, num_captions: int, number: int) -> dict[str, Any]:
    sentences = [{"raw": f" photo {number} of {split}, told for time {n} ", "sentid": n} for n in range(num_captions)]
    return {"filepath": "val2014", "filename": name, "split": split, "sentences": sentences, "imgid": number}


def write(folder: Path, photos: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"dataset_{photos}.json"
    path.write_text(json.dumps({"dataset": photos, "images": rows}))
    for number, each in enumerate(rows):
        image = folder / each.get("filepath", "") / each["filename"]
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(encoded(plain((number, 10, 10)), "PNG"))
    return path


def task_of(tasks: list[Task], name: str) -> Task:
    return next(task for task in tasks if name in task.aliases)


def ranks_of_papers(scores_IT: NDArray[np.float64], owner_T: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Ranks from 0 as VSE++ and its successors count them: of the best caption, and of the one photo."""
    photos = []
    for image, scores_T in enumerate(scores_IT):
        order = np.argsort(-scores_T)
        photos.append(min(int(np.where(order == caption)[0][0]) for caption in np.flatnonzero(owner_T == image)))
    captions = [int(np.where(np.argsort(-scores_IT[:, c]) == owner)[0][0]) for c, owner in enumerate(owner_T)]
    return photos, captions


def test_numbers_are_those_of_the_loops_that_papers_use(root: Path) -> None:
    dataset, generator = open_dataset(root), np.random.default_rng(3)
    owner_T = np.repeat(np.arange(len(NUM_CAPTIONS)), np.minimum(NUM_CAPTIONS, 5))
    images_ID = generator.standard_normal((len(NUM_CAPTIONS), 16))
    captions_TD = images_ID[owner_T] + 4.0 * generator.standard_normal((len(owner_T), 16))
    images = {e.key: v for e, v in zip((e for e in dataset.corpus() if e.images), images_ID, strict=True)}
    texts = {e.key: v for e, v in zip((e for e in dataset.corpus() if e.text), captions_TD, strict=True)}
    vectors, results = images | texts, {}
    for task in dataset.tasks():
        keys = dataset.keys(str(task.pool))
        queries = dataset.queries(task)
        results[task] = score(task, 1, queries, answers_of(task, queries, vectors, keys, vectors), [50])
    photos, captions = ranks_of_papers(images_ID @ captions_TD.T, owner_T)
    sums = 0.0
    for name, ranks in (("image_to_text", photos), ("text_to_image", captions)):
        numbers = results[task_of(dataset.tasks(), name)].numbers
        for k in (1, 5, 10):
            theirs = 100.0 * sum(rank < k for rank in ranks) / len(ranks)
            assert 100 * numbers[f"success@{k}"].value == pytest.approx(theirs)
            sums += theirs
        assert 0 < numbers["success@1"].value < 1
    (mean,) = dataset.means(dataset.tasks())
    means = [mean_number(mean, results, f"success@{k}") for k in (1, 5, 10)]
    assert 200 * sum(number.value for number in means if number) == pytest.approx(sums), "papers' rsum"


def test_tasks_are_both_directions_over_the_split_alone(root: Path) -> None:
    dataset = open_dataset(root)
    to_image, to_text = dataset.tasks()
    assert [(t.pool, t.headline, t.cutoffs) for t in (to_image, to_text)] == [
        ("coco_test_images", "success@1", (1, 5, 10)),
        ("coco_test_texts", "success@1", (1, 5, 10)),
    ]
    captions = dataset.queries(to_image)
    first = "COCO_val2014_0000.jpg"
    assert captions[0] == Query(f"{first}#0", "photo 0 of test, told for time 0", relevant={first: 1})
    assert len(captions) == sum(min(num, 5) for num in NUM_CAPTIONS), "the first five of each"
    photos = dataset.queries(to_text)
    assert [len(photo.relevant) for photo in photos] == [min(num, 5) for num in NUM_CAPTIONS]
    assert dataset.keys("coco_test_images") == {photo.id for photo in photos}
    assert dataset.keys("coco_test_texts") == {caption.id for caption in captions}
    assert dataset.num_keys() == len(photos) + len(captions)


@pytest.mark.parametrize(("split", "num"), OTHERS.items())
def test_other_splits_are_apart_as_in_training(root: Path, split: str, num: int) -> None:
    dataset = open_dataset(root, split=split)
    pairs = open_pairs([f"{root}/dataset_coco.json#{split}"])
    read = {pairs[n].name: (pairs[n].image, pairs[n].captions) for n in range(len(pairs))}
    assert len(read) == num
    photos = {query.id: query.images[0] for query in dataset.queries(task_of(dataset.tasks(), "image_to_text"))}
    texts = {entry.key: entry.text for entry in dataset.corpus() if entry.text}
    assert {name: (photos[name], tuple(texts[f"{name}#{n}"] for n in range(5))) for name in photos} == read
    assert dataset.keys(f"coco_{split}_images").isdisjoint(open_dataset(root).keys("coco_test_images"))


def test_an_endpoint_that_knows_the_answers_scores_one(root: Path, tmp_path: Path) -> None:
    knowing = KnowingService(open_dataset(root))
    with serving(knowing.service) as fake:
        asked = ["quality", "--dataset", str(root), "--url", fake.url, "--output", str(tmp_path)]
        assert main(asked) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert [each["metrics"]["success@1"] for each in report["results"]] == [1.0, 1.0]
    assert report["warnings"] == []
    assert [mean["name"] for mean in report["means"]] == ["mean over tasks"]


def test_of_several_files_one_is_chosen(tmp_path: Path) -> None:
    for photos in ("flickr8k", "flickr30k"):
        found = row(f"{photos}.jpg", "test", 5, 1)
        del found["filepath"]
        write(tmp_path, photos, [found])
    with pytest.raises(DatasetError, match=r"say which with --options photos=flickr30k or photos=flickr8k"):
        open_dataset(tmp_path).tasks()
    dataset = open_dataset(tmp_path, options=["photos=flickr8k"])
    assert [task.name for task in dataset.tasks()] == ["flickr8k_text_to_image", "flickr8k_image_to_text"]
    assert [entry.images[0] for entry in dataset.corpus() if entry.images] == [tmp_path / "flickr8k.jpg"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has none of dataset_coco\.json, dataset_flickr30k\.json"):
        open_dataset(tmp_path, "karpathy").tasks()
    for wrong, said in (
        ([row("a.jpg", "val", 5, 1)], r"dataset_coco\.json has no image in split 'test': it has val"),
        ([row("a.jpg", "test", 5, 1)] * 2, r"dataset_coco\.json: row 2: photo 'a\.jpg' comes a second time"),
        ([row("a.jpg", "test", 0, 1)], r"dataset_coco\.json: row 1: expected 'sentences' with a non-empty 'raw'"),
    ):
        write(tmp_path, "coco", wrong)
        dataset = open_dataset(tmp_path)
        for task in dataset.tasks():
            with pytest.raises(DatasetError, match=said):
                dataset.queries(task)
    write(tmp_path, "coco", [row("b.jpg", "test", 5, 1)])
    (tmp_path / "val2014/b.jpg").unlink()
    with pytest.raises(DatasetError, match=r"row 1: there is no image .*val2014/b\.jpg or .*b\.jpg"):
        next(iter(open_dataset(tmp_path).corpus()))
