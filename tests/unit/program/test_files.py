"""Files and folders that are replaced whole."""

from pathlib import Path

import pytest

from anykey.program.files import replace_file, replace_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_another_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for content in (b"one", b"another"):
        replace_file(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == content
    assert names(tmp_path) == ["a.json"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"one")
    (tmp_path / "a.json.new").mkdir()
    with pytest.raises(OSError, match=r"a\.json\.new"):
        replace_file(tmp_path / "a.json", b"another")
    assert (tmp_path / "a.json").read_bytes() == b"one"


def test_what_a_stopped_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.json.new").write_bytes(b"something longer than the content")
    replace_file(tmp_path / "a.json", b"one")
    assert (tmp_path / "a.json").read_bytes() == b"one"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for content in ("one", "another"):
        aside = tmp_path / "aside"
        aside.mkdir()
        (aside / content).touch()
        replace_folder(aside, tmp_path / "folder")
        assert names(tmp_path / "folder") == [content]
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "folder" / "one").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "absent", tmp_path / "folder")
    assert names(tmp_path / "folder") == ["one"]
    assert names(tmp_path) == ["folder"]
