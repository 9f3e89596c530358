"""Karpathy's splits: which images are chosen, and where they are looked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from anykey.sources.errors import SourceError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.karpathy import KarpathyRows
from anykey.sources.pairs.pair import Pair
from tests.drawn_pairs import read_all


def row(name: str, split: Any = "train", **more: Any) -> dict[str, Any]:
    return {"filename": name, "split": split, "sentences": [{"raw": f"{name} one"}, {"raw": " two "}], **more}


def dataset(path: Path, *rows: Any, part: str = "") -> KarpathyRows:
    file = path / "dataset_coco.json"
    file.write_text(json.dumps({"images": rows, "dataset": "coco"}))
    for item in rows:
        if isinstance(item, dict):
            image = path / str(item.get("filepath") or "") / str(item.get("filename"))
            image.parent.mkdir(exist_ok=True, parents=True)
            image.touch()
    return KarpathyRows(DataFile(file, part))


def names(source: KarpathyRows) -> list[str]:
    return [pair.name for pair in read_all(source) if isinstance(pair, Pair)]


SPLITS = [row("a"), row("b", "restval"), row("c", "val"), row("d", "test"), row("e")]


@pytest.mark.parametrize(
    ("part", "chosen"), [("", "abe"), ("train", "ae"), ("restval", "b"), ("val", "c"), ("val,test", "cd")]
)
def test_a_part_names_the_splits(tmp_path: Path, part: str, chosen: str) -> None:
    assert "".join(names(dataset(tmp_path, *SPLITS, part=part))) == chosen


def test_without_a_restval_the_train_split_is_all(tmp_path: Path) -> None:
    assert names(dataset(tmp_path, row("a"), row("c", "val"))) == ["a"]


@pytest.mark.parametrize(("part", "rows"), [("dev", SPLITS), ("train,", SPLITS), ("", [row("c", "val")])])
def test_a_split_that_is_not_there_is_refused(tmp_path: Path, part: str, rows: list[Any]) -> None:
    with pytest.raises(SourceError, match=r"has no image in split '\w*': it has .*val"):
        dataset(tmp_path, *rows, part=part)


def test_images_lie_in_the_folder_of_filepath_or_beside_the_file(tmp_path: Path) -> None:
    source = dataset(tmp_path, row("a.jpg", filepath="train2014"), row("b.jpg"))
    (tmp_path / "c.jpg").touch()
    found = read_all(dataset(tmp_path, row("a.jpg", filepath="train2014"), row("b.jpg")))
    assert [pair.image for pair in found if isinstance(pair, Pair)] == [
        tmp_path / "train2014/a.jpg",
        tmp_path / "b.jpg",
    ]
    assert source[0].captions == ("a.jpg one", "two")
    (tmp_path / "train2014/a.jpg").rename(tmp_path / "a.jpg")
    assert source[0].image == tmp_path / "a.jpg"
    (tmp_path / "a.jpg").unlink()
    assert read_all(source)[0] == f"there is no image {tmp_path}/train2014/a.jpg or {tmp_path}/a.jpg"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"filename": "x", "sentences": [{"raw": "one"}]}, "expected 'split', a string"),
        (row("x", 3), "expected 'split', a string"),
        (row("x") | {"filename": 3}, "expected 'filename'"),
        (row("x") | {"sentences": "one"}, "expected 'sentences', a list"),
        (row("x") | {"sentences": ["one"]}, "expected 'sentences', a list of objects"),
        (row("x") | {"sentences": []}, "with a non-empty 'raw'"),
        (row("x") | {"sentences": [{"raw": " "}, {"tokens": []}]}, "with a non-empty 'raw'"),
        (row("x") | {"sentences": [{"raw": None}]}, "expected a text, got NoneType"),
        ("x", "expected a JSON object, got a string"),
        (None, "expected a JSON object, got null"),
    ],
)
def test_a_bad_row_spoils_no_other(tmp_path: Path, bad: Any, reason: str) -> None:
    found = read_all(dataset(tmp_path, row("a"), bad, row("b")))
    assert len(found) == 3
    assert reason in str(found[1])
    assert [pair.name for pair in (found[0], found[2]) if isinstance(pair, Pair)] == ["a", "b"]


def test_the_file_is_known_by_its_content(tmp_path: Path) -> None:
    dataset(tmp_path, *SPLITS)
    (tmp_path / "dataset_coco.json").rename(tmp_path / "any.json")
    assert len(open_pairs([f"{tmp_path}/any.json#val"])) == 1
    assert open_pairs([f"{tmp_path}/any.json#{{train,test}}"]).lengths == [3]


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    dataset(tmp_path, *SPLITS)
    path = tmp_path / "dataset_coco.json"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"cannot read .*dataset_coco\.json as JSON"):
        open_pairs([str(path)])
