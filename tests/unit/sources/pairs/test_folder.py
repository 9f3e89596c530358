"""A folder of photos with their captions beside them: sorted, recursive, and strict about what is missing."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.errors import InvalidRowError, NoPairsError, SourceError
from anykey.sources.pairs import open_pairs, source_states
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.folder import ImageFolder
from anykey.sources.pairs.pair import Pair
from tests.drawn_pairs import read_all


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


def test_an_image_that_is_a_link_to_nowhere_does_not_end_the_reading(tmp_path: Path) -> None:
    folder_with(tmp_path, {"a.jpg": b"A", "a.txt": b"one", "b.txt": b"two"})
    (tmp_path / "b.jpg").symlink_to("nowhere")
    assert [pair.captions for pair in read_all(open_pairs([str(tmp_path)]))] == [("one",), ("two",)]
    before = source_states([str(tmp_path)])
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes(b"B")
    assert source_states([str(tmp_path)]) != before


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b" \n", "expected a caption in a.txt or a.json"),
        ("a.txt", b"\xff", "not UTF-8"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"[]", "expected a JSON object"),
        ("a.json", b'{"width": 3}', "expected a caption in"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_caption_file_that_holds_none_is_a_bad_row(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRowError, match=reason):
        folder_with(tmp_path, {"a.jpg": b"A", name: data})[0]


def test_a_folder_of_other_files_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(
        NoPairsError, match=r"expected images or \.parquet files, found \.md, \.tar, LICENSE\. Files of"
    ):
        folder_with(tmp_path, {"a.tar": b"", "in/b.tar": b"", "README.md": b"", "LICENSE": b""})


def test_suffixes_may_be_in_any_case(tmp_path: Path) -> None:
    rows = folder_with(tmp_path, {"a.JPG": b"A", "a.TXT": b"one", "b.jpg": b"B", "b.Json": b'{"text": "two"}'})
    assert [row.captions for row in read_all(rows) if isinstance(row, Pair)] == [("one",), ("two",)]


def test_a_txt_counts_where_the_json_has_no_caption(tmp_path: Path) -> None:
    files = {"a.jpg": b"A", "a.txt": b"txt", "a.json": b'{"caption": null, "text": " ", "width": 3}'}
    assert folder_with(tmp_path, files)[0].captions == ("txt",)


HUB_ROWS = [
    {"file_name": "b.png", "text": "two"},
    {"file_name": "in/../a.png", "text": "one"},
    {"file_name": "gone.png"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_table_names_the_images_of_a_folder(tmp_path: Path, suffix: str) -> None:
    table = tmp_path / "train" / f"metadata.{suffix}"
    files = {"train/a.png": b"A", "train/b.png": b"B", "train/c.png": b"C", "d.jpg": b"D", "d.txt": b"four"}
    folder_with(tmp_path, files)
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(HUB_ROWS), table)
    elif suffix == "csv":
        table.write_text("file_name,text\nb.png,two\nin/../a.png,one\ngone.png,\n")
    else:
        table.write_text("".join(f"{json.dumps(row)}\n" for row in HUB_ROWS), encoding="utf-8-sig")

    rows = read_all(open_pairs([str(tmp_path)]))

    pairs = [(row.image, row.captions) for row in rows if isinstance(row, Pair) and row.captions]
    images = [tmp_path / "train/b.png", tmp_path / "train/in/../a.png", tmp_path / "d.jpg"]
    assert pairs == list(zip(images, [("two",), ("one",), ("four",)], strict=True))
    assert len(rows) == 5  # that of `gone.png`, and `c.png`, which nothing names
    assert "expected c.txt or c.json beside c.png" in rows


def test_a_table_is_known_by_any_of_its_rows(tmp_path: Path) -> None:
    lines = ['{"made": "by hand"}', "5", '{"file_name": "a.png", "text": "one"}']
    rows = folder_with(tmp_path, {"a.png": b"A", "metadata.jsonl": "\n".join(lines).encode()})
    assert [row.captions for row in read_all(rows) if isinstance(row, Pair)] == [("one",)]


WRONG_CAPTION = [{"file_name": "a.png", "text": 3}, {"file_name": "b.png", "text": "two"}]
WRONG_TABLE = pyarrow.table({"file_name": ["a.png", "b.png"], "text": [b"\xff", b"two"]})
BAD_ROWS = {
    "jsonl": "".join(f"{json.dumps(row)}\n" for row in WRONG_CAPTION).encode(),
    "cut.jsonl": b'{"file_name": "b.png", "text": "two"}\n{"file_name": "\\u0061.png", "text": "one',
    "alone.jsonl": b'{"file_name": "a.png", "text": }\n{"file_name": "b.png", "text": "two"',
    "csv": b"file_name,text\na.png,\xff\nb.png,two\n",
    "cells.csv": b"file_name,text\nb.png,two\na.png,red, large\n",
    "shifted.csv": b"text,file_name\nred, large,a.png\ntwo,b.png\n",
    "quote.csv": b'file_name,text\na.png,"one"?\nb.png,two\n',
}


def image_or_table(rows: ImageFolder, position: int) -> str:
    """The image of a pair, or the table of a bad row."""
    try:
        return str(rows[position].image)
    except InvalidRowError as error:
        return error.where.partition(":")[0]


@pytest.mark.parametrize("beside", [{}, {"a.txt": b"of another time"}], ids=["bare", "with a text"])
@pytest.mark.parametrize("kind", [*BAD_ROWS, "parquet"])
def test_the_image_of_a_bad_row_is_that_bad_row_alone(tmp_path: Path, kind: str, beside: dict[str, bytes]) -> None:
    table = tmp_path / f"metadata.{kind.rpartition('.')[2]}"
    if kind == "parquet":
        parquet.write_table(WRONG_TABLE, table)
    else:
        table.write_bytes(BAD_ROWS[kind])
    rows = folder_with(tmp_path, {"a.png": b"A", "b.png": b"B", **beside})
    said = {image_or_table(rows, position) for position in range(len(rows))}
    assert len(rows) == 2
    assert {str(table)} <= said <= {str(table), str(tmp_path / "b.png")}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_where_a_row_may_name_any_image_those_below_it_are_bad(tmp_path: Path, suffix: str) -> None:
    table = tmp_path / f"in/metadata.{suffix}"
    table.parent.mkdir()
    if suffix == "parquet":
        parquet.write_table(WRONG_TABLE, table, write_page_checksum=True, compression="none")
        table.write_bytes(table.read_bytes().replace(b"b.png", b"q.png", 1))
    else:
        table.write_bytes(b'{"file_name": "b.png", "text": "two"}\n{"te')
    files = {"in/a.png": b"A", "in/a.txt": b"one", "c.png": b"C", "c.txt": b"three"}
    rows = read_all(folder_with(tmp_path, files))
    assert [row.image for row in rows if isinstance(row, Pair)][-1] == tmp_path / "c.png"
    assert f"a row of {table} that cannot be read may name it" in rows


def test_a_folder_of_parquet_parts_is_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("10", "9", "a/0", "a-b/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table({"text": [name], "image": [b"x"]}), tmp_path / f"{name}.parquet")
    rows = read_all(open_pairs([str(tmp_path)]))
    assert [row.image for row in rows if isinstance(row, Pair)] == [b"x"] * 4
    assert [row.captions for row in rows if isinstance(row, Pair)] == [("10",), ("9",), ("a-b/0",), ("a/0",)]


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"metadata\.parquet is no readable Parquet file"):
        folder_with(tmp_path, {"a.png": b"A", "metadata.parquet": b"PAR1"})


def test_metadata_without_names_of_files_is_left_aside(tmp_path: Path) -> None:
    files = {"a.png": b"A", "a.txt": b"one", "metadata.csv": b"width,height\n1,2\n", "in/metadata.jsonl": b"["}
    assert len(folder_with(tmp_path, files)) == 1


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
