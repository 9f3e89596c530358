"""A folder of photos with their captions beside them: sorted, recursive, and strict about what is missing."""

from pathlib import Path

import pytest

from tests.drawn_pairs import read_all
from training.errors import InvalidRowError, NoPairsError
from training.pairs import Pair
from training.sources import open_pairs
from training.sources.file import DataFile
from training.sources.folder import ImageFolder


def folder_with(path: Path, files: dict[str, bytes]) -> ImageFolder:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return ImageFolder(DataFile(path))


def test_every_photo_below_the_folder_is_a_pair_sorted_by_path(tmp_path: Path) -> None:
    files = {"b.jpg": b"B", "b.txt": b"two\nlines\r\n\n", "a/z.PNG": b"Z", "a/z.json": b'{"caption": "one"}'}
    rows = folder_with(tmp_path, files)
    assert read_all(rows) == [
        Pair("a/z.PNG", tmp_path / "a/z.PNG", ("one",), str(tmp_path / "a/z.PNG")),
        Pair("b.jpg", tmp_path / "b.jpg", ("two", "lines"), str(tmp_path / "b.jpg")),
    ]


def test_a_photo_without_a_caption_is_a_bad_row_that_says_what_was_expected(tmp_path: Path) -> None:
    rows = folder_with(tmp_path, {"a.jpg": b"A", "b.jpg": b"B", "b.txt": b"fine"})
    with pytest.raises(InvalidRowError, match=r"expected a\.txt or a\.json beside a\.jpg") as caught:
        rows[0]
    assert caught.value.where == str(tmp_path / "a.jpg")
    assert rows[1].captions == ("fine",)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b" \n", "non-empty"),
        ("a.txt", b"\xff", "codec can't decode"),
        ("a.json", b"{", "Expecting"),
        ("a.json", b"[]", "expected an object"),
        ("a.json", b'{"width": 3}', "non-empty"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_caption_file_that_holds_none_is_a_bad_row(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRowError, match=reason):
        folder_with(tmp_path, {"a.jpg": b"A", name: data})[0]


def test_json_beats_txt_and_a_mark_at_the_beginning_is_no_part_of_the_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    files = {
        "a.jpg": b"A",
        "a.txt": b"txt",
        "a.json": mark + b'{"text": "json"}',
        "b.jpg": b"B",
        "b.txt": mark + b"one",
    }
    assert [row.captions for row in read_all(folder_with(tmp_path, files)) if isinstance(row, Pair)] == [
        ("json",),
        ("one",),
    ]


def test_hidden_files_lone_texts_and_other_files_are_left_aside(tmp_path: Path) -> None:
    files = {"a.jpg": b"A", "a.txt": b"one", "README.txt": b"x", "._a.jpg": b"x", ".cache/b.jpg": b"x", "a.mp4": b"x"}
    assert len(folder_with(tmp_path, files)) == 1


def test_photos_in_formats_that_cannot_be_read_are_pairs_to_be_listed_as_bad(tmp_path: Path) -> None:
    files = {"a.heic": b"A", "a.txt": b"one", "b.NEF": b"B", "b.txt": b"two", "c.gif": b"C", "c.txt": b"three"}
    assert [row.name for row in read_all(folder_with(tmp_path, files)) if isinstance(row, Pair)] == [
        "a.heic",
        "b.NEF",
        "c.gif",
    ]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    folder_with(tmp_path / "data", {"a.jpg": b"A", "a.txt": b"one"})
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b.jpg").symlink_to(tmp_path / "data" / "a.jpg")
    (tmp_path / "data" / "b.txt").symlink_to(tmp_path / "data" / "a.txt")
    assert len(read_all(ImageFolder(DataFile(tmp_path / "data")))) == 2


def test_names_may_hold_dots_and_any_letters(tmp_path: Path) -> None:
    files = {"a.b.jpg": b"A", "a.b.txt": b"one", "f\u00fcr \u65e5.jpg": b"B", "f\u00fcr \u65e5.txt": b"two"}
    assert [row.captions for row in read_all(folder_with(tmp_path, files)) if isinstance(row, Pair)] == [
        ("one",),
        ("two",),
    ]


def test_a_folder_is_opened_by_its_name(tmp_path: Path) -> None:
    folder_with(tmp_path / "photos.v2", {"a.jpg": b"A", "a.txt": b"one"})
    assert open_pairs([str(tmp_path / "photos.v2")])[0].captions == ("one",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoPairsError, match=r"no pairs in .*empty"):
        open_pairs([str(tmp_path / "empty")])
