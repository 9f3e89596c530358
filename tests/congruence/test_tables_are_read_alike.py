"""An index and training read the same rows of tables and lines: the same images, captions and bad rows."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.columns import parse_columns
from anykey.sources.errors import InvalidRowError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.pair import Pair
from tests.corpora import read
from tests.drawn_pairs import read_all

Cells = list[dict[str, str | None]]
FOUND = tuple[str | None, list[str]] | None  # the image and the captions; `None` for a bad row


def as_csv(folder: Path, rows: Cells) -> Path:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"


def as_jsonl(folder: Path, rows: Cells) -> Path:
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8-sig")
    return folder / "rows.jsonl"


def as_parquet(folder: Path, rows: Cells) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def in_training(path: Path, columns: list[str]) -> list[FOUND]:
    rows = read_all(open_pairs([str(path)], columns=parse_columns(columns)))
    return [(str(r.image) if r.image else None, list(r.captions)) if isinstance(r, Pair) else None for r in rows]


def in_an_index(path: Path, columns: list[str]) -> list[FOUND]:
    found: list[FOUND] = []
    for row in read(path, columns=parse_columns(columns)):
        if isinstance(row, InvalidRowError):
            found.append(None)
        else:
            image = str(row.images[0]) if row.images else None
            found.append((image, [line.strip() for line in (row.text or "").split("\n") if line.strip()]))
    return found


ROWS: dict[str, tuple[Cells, list[str]]] = {
    "own names": ([{"key": "k", "image": "a.jpg", "text": "one"}], []),
    "known names": ([{"key": "k", "filepath": "a.jpg", "title": "one"}], []),
    "several known names": ([{"key": "k", "path": "b.jpg", "image_path": "a.jpg", "caption": "one", "title": "t"}], []),
    "a text beside captions": ([{"key": "k", "captions": "two", "text": "one"}], []),
    "blanks": ([{"key": "k", "image": " ", "text": "one"}, {"key": "l", "image": "a.jpg", "text": ""}], []),
    "nulls": ([{"key": "k", "image": None, "text": "one"}, {"key": "l", "image": "a.jpg", "text": None}], []),
    "neither": ([{"key": "k", "image": "", "text": ""}, {"key": "l", "image": "a.jpg", "text": "one"}], []),
    "names of a user": ([{"key": "k", "photo": "a.jpg", "words": "one", "text": "t"}], ["image=photo", "text=words"]),
    "no image": ([{"key": "k", "path": "a", "text": "one"}], ["image="]),
    "no text": ([{"key": "k", "image": "a.jpg", "title": "one"}], ["text="]),
    "numbered captions": ([{"key": "k", "image": "a.jpg", "text": "one", "caption_0": "two", "Caption1": ""}], []),
}


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_a_table(tmp_path: Path, write: Callable[[Path, Cells], Path], rows: str) -> None:
    cells, columns = ROWS[rows]
    path = write(tmp_path, cells)
    found = in_an_index(path, columns)
    assert found == in_training(path, columns)
    assert any(found)


LINES = {
    "no JSON": b'{"key": "k", "text": ',
    "no object": b"[1]",
    "no UTF-8": b'{"key": "k", "text": "\xff"}',
    "a field twice": b'{"key": "k", "text": "one", "text": "two"}',
    "no number": b'{"key": "k", "text": "one", "size": NaN}',
    "half a character": b'{"key": "k", "text": "\\ud800"}',
    "nested too deeply": b"[" * 100_000,
    "a mark": b'\xef\xbb\xbf{"key": "k", "text": "one"}',
    "a mark alone": b"\xef\xbb\xbf",
    "white space": b" \t",
}


@pytest.mark.parametrize("line", LINES)
def test_lines(tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES[line] + b'\n{"key": "l", "text": "last"}\n')
    assert in_an_index(tmp_path / "rows.jsonl", []) == in_training(tmp_path / "rows.jsonl", [])


RECORDS = {
    "too few cells": b"k,a.jpg",
    "too many cells": b"k,a.jpg,one,two",
    "no UTF-8": b"k,a.jpg,\xff",
    "a zero byte": b"k,a.jpg,o\0ne",
    "a stray quote": b'k,a.jpg,"one" two',
    "blank": b" ,,",
    "what a spreadsheet leaves": b"k,a.jpg,one,,",
    "white space": b" k , a.jpg , one ",
    "a list": b'k,"[""a.jpg""]",one',
}


@pytest.mark.parametrize("record", RECORDS)
def test_records(tmp_path: Path, record: str) -> None:
    (tmp_path / "rows.csv").write_bytes(b"key,image,text\n" + RECORDS[record] + b"\nl,b.jpg,last\n")
    assert in_an_index(tmp_path / "rows.csv", []) == in_training(tmp_path / "rows.csv", [])


GOOD = b'{"file_name": "b.png", "text": "two"}\n'
TABLES = {  # and the images that are theirs
    "whole.jsonl": (GOOD, "b"),
    "a wrong text.jsonl": (b'{"file_name": "a.png", "text": 3}\n' + GOOD, "ab"),
    "a line that is cut.jsonl": (GOOD + b'{"file_name": "\\u0061.png", "text": "one', "ab"),
    "a line that may name any image.jsonl": (GOOD + b'{"te', "abc"),
    "a row without a name.jsonl": (GOOD + b'{"text": "of no image"}', "b"),
    "cells too many.csv": (b"file_name,text\nb.png,two\na.png,red, large\n", "ab"),
    "cells that are shifted.csv": (b"text,file_name\nred, large,a.png\ntwo,b.png\n", "ab"),
    "a stray quote.csv": (b'file_name,text\na.png,"one"?\nb.png,two\n', "ab"),
    "another encoding.csv": (b"file_name,text\na.png,\xff\nb.png,two\n", "ab"),
    "another column of images.csv": (b"file_name,image,title\nb.png,c.png,two\n", "b"),
}


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_table_of_images(tmp_path: Path, table: str) -> None:
    """A bad row has its image, whatever lies beside it; where it may name any, all below the table are bad."""
    folder, (data, named) = tmp_path / "photos", TABLES[table]
    (folder / "in").mkdir(parents=True)
    for name in ("in/a", "in/b", "in/c", "d"):
        (folder / f"{name}.png").write_bytes(b"x")
        (folder / f"{name}.txt").write_text("of another time")
    (folder / f"in/metadata.{table.rpartition('.')[2]}").write_bytes(data)

    found = [row for row in in_an_index(folder, []) if row and row[0]]  # without the texts that are keys of their own

    alone = [f"in/{name}" for name in "abc" if name not in named]
    expected = [(f"{folder}/{name}.png", ["of another time"]) for name in (*alone, "d")]
    assert sorted(map(str, found)) == sorted(map(str, [(f"{folder}/in/b.png", ["two"]), *expected]))
    assert sorted(map(str, found)) == sorted(str(row) for row in in_training(folder, []) if row)


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.JSONL.1"])
def test_a_file_without_a_known_suffix_is_told_by_its_first_bytes(
    tmp_path: Path, write: Callable[[Path, Cells], Path], name: str
) -> None:
    path = write(tmp_path, ROWS["own names"][0]).rename(tmp_path / name)
    assert in_an_index(path, []) == in_training(path, []) == [(f"{tmp_path}/a.jpg", ["one"])]
