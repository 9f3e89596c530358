"""Parquet tables: every layout of an image cell, any order over row groups, and damage that ends in a message."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.parquet import ParquetRows
from tests.drawn_pairs import drawn_pairs, read_all


def written(path: Path, columns: dict[str, Any], **options: Any) -> ParquetRows:
    parquet.write_table(pa.table(columns), path / "pairs.parquet", **options)
    return ParquetRows(DataFile(path / "pairs.parquet"))


def pictures(path: Path, count: int = 32, group: int = 5) -> ParquetRows:
    pairs = drawn_pairs(count)
    columns = {
        "name": [pair.name for pair in pairs],
        "image": [pair.image for pair in pairs],
        "captions": [list(pair.captions) for pair in pairs],
    }
    return written(path, columns, row_group_size=group)


@pytest.mark.parametrize("group", [1, 5, 1000])
def test_every_row_is_read_at_its_position(tmp_path: Path, group: int) -> None:
    pairs, rows = drawn_pairs(32), pictures(tmp_path, group=group)
    assert len(rows) == 32
    order = list(range(32))
    random.Random(0).shuffle(order)
    for position in order:
        found = rows[position]
        assert (found.name, found.image, found.captions) == tuple(vars(pairs[position]).values())
    assert rows[7].where == f"{tmp_path / 'pairs.parquet'}: row 8"


@pytest.mark.parametrize(
    ("cell", "image", "name"),
    [
        ("a.jpg", "a.jpg", "a.jpg"),
        (b"bytes", b"bytes", None),
        ({"bytes": b"bytes", "path": "a.jpg"}, b"bytes", "a.jpg"),
        ({"bytes": None, "path": "a.jpg"}, "a.jpg", "a.jpg"),
        ({"bytes": b"bytes", "path": None}, b"bytes", None),
    ],
)
def test_an_image_cell_is_a_path_bytes_or_both(tmp_path: Path, cell: Any, image: Any, name: str | None) -> None:
    pair = written(tmp_path, {"image": [cell], "text": ["one"]})[0]
    assert pair.image == (tmp_path / image if isinstance(image, str) else image)
    assert pair.name == (name or pair.where)


def test_nulls_and_missing_columns_say_that_there_is_no_such_half(tmp_path: Path) -> None:
    rows = written(tmp_path, {"image": ["a.jpg", None, None], "caption": [None, "one", None]})
    assert read_all(rows) == [
        Pair("a.jpg", tmp_path / "a.jpg", (), rows[0].where),
        Pair(rows[1].where, None, ("one",), rows[1].where),
        "expected an image, a text or both, found neither",
    ]
    assert written(tmp_path, {"text": ["one"]})[0].image is None
    assert written(tmp_path, {"jpg": [b"x"]})[0].captions == ()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": [""], "text": [[" "]]}, "expected an image, a text or both, found neither"),
        ({"image": [b""], "text": ["one"]}, "'image' must hold bytes or names of files, got an empty value"),
        ({"image": [3], "text": ["one"]}, "'image' must hold bytes or names of files, got a number"),
        ({"image": [["a.jpg", "b.jpg"]], "text": ["one"]}, "expected one image in 'image', got 2"),
        ({"image": ["a.jpg"], "text": [3]}, "expected a text, a list of texts or null, got a number"),
        ({"image": ["a.jpg"], "text": [b"\xff"]}, "column 'text': not UTF-8"),
        ({"image": ["s3://a/b.jpg"], "text": ["one"]}, "is a URL"),
    ],
)
def test_a_cell_of_another_kind_is_a_bad_row(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRowError, match=reason):
        written(tmp_path, columns)[0]


def test_addresses_of_images_are_refused_and_not_taken_for_texts(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"pairs.parquet: column 'URL' holds addresses, and images are not"):
        written(tmp_path, {"URL": ["https://host/a.jpg"], "TEXT": ["one"]})


def test_files_that_are_no_parquet_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path)
    whole = (tmp_path / "pairs.parquet").read_bytes()
    for number, data in enumerate((b"", b"rubbish" * 100, whole[:-1], whole[: len(whole) // 2])):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(data)
        with pytest.raises(SourceError, match=rf"{number}\.parquet is no readable Parquet file"):
            ParquetRows(DataFile(path))
    with pytest.raises(SourceError, match=r"cannot read .*absent\.parquet: No such file"):
        ParquetRows(DataFile(tmp_path / "absent.parquet"))


def test_a_damaged_group_spoils_no_other(tmp_path: Path) -> None:
    rows = pictures(tmp_path, count=6, group=3)
    path = tmp_path / "pairs.parquet"
    start = parquet.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = read_all(ParquetRows(DataFile(path)))
    assert [isinstance(row, Pair) for row in found] == [True] * 3 + [False] * 3
    assert len(rows) == 6


def test_a_page_that_differs_from_its_checksum_is_not_taken(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text number {number}" for number in range(6)]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3, **options)
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data.replace(b"text number 4", b"TEXT NUMBER 4", 1))

    found = read_all(ParquetRows(DataFile(tmp_path / "t.parquet")))
    assert [isinstance(row, Pair) for row in found] == [True] * 3 + [False] * 3


def test_other_columns_are_named_where_none_is_known(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected a column 'text' or 'image', found left, right"):
        written(tmp_path, {"left": [1], "right": [2]})


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    assert len(written(tmp_path, {"text": pa.array([], pa.string())})) == 0


def test_groups_too_large_to_read_for_one_row_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, group=2)
    ParquetRows(DataFile(tmp_path / "pairs.parquet"), max_group_bytes=10_000)
    pictures(tmp_path, group=32)
    with pytest.raises(SourceError, match=r"row group 0 takes .* GiB"):
        ParquetRows(DataFile(tmp_path / "pairs.parquet"), max_group_bytes=10_000)


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    rows = pictures(tmp_path, group=3)
    expected = read_all(rows)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rows.__getitem__, list(range(32)) * 5)) == expected * 5


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_reader_travels_to_another_process(tmp_path: Path) -> None:
    rows = pictures(tmp_path, count=6, group=2)
    expected = read_all(rows)  # a group is kept, and Arrow's threads are there, when the process is forked
    with get_context("fork").Pool(1) as pool:
        assert pool.map(rows.__getitem__, range(6)) == expected
    assert read_all(pickle.loads(pickle.dumps(rows))) == expected
