"""A dataset directory appears whole or not at all, and only our own is ever replaced."""

from pathlib import Path

import pytest

from anykey.benchmark.directory import built_aside, is_current, read_manifest, write_manifest
from anykey.benchmark.errors import DatasetExistsError


def build(output: Path, text: str) -> None:
    """Builds a dataset of one file."""
    with built_aside(output) as root:
        (root / "query").mkdir()
        (root / "query" / "rows").write_text(text, encoding="utf-8")
        write_manifest(root, "test", {"text": text}, {})


def test_a_finished_build_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "dataset"
    build(output, "old")
    build(output, "new")
    assert (output / "query/rows").read_text(encoding="utf-8") == "new"
    assert is_current(output, {"text": "new"})
    assert not is_current(output, {"text": "old"})
    assert [path.name for path in output.parent.iterdir()] == ["dataset"]


def test_a_failed_build_leaves_the_older_one_and_no_rest(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    build(output, "old")
    with pytest.raises(FileNotFoundError), built_aside(output) as root:
        (root / "no" / "such" / "folder").mkdir()
    assert (output / "query/rows").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_an_empty_directory_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    build(tmp_path / "dataset", "new")
    assert is_current(tmp_path / "dataset", {"text": "new"})


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset").write_text("x", encoding="utf-8")
    with pytest.raises(DatasetExistsError, match="is not a directory"):
        build(tmp_path / "dataset", "new")


def test_our_dataset_with_a_strangers_file_in_it_is_kept(tmp_path: Path) -> None:
    build(tmp_path / "dataset", "old")
    (tmp_path / "dataset" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DatasetExistsError, match=r"holds 'notes.txt' beside the dataset"):
        build(tmp_path / "dataset", "new")
    assert (tmp_path / "dataset" / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_broken_manifest_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    assert read_manifest(tmp_path) is None
