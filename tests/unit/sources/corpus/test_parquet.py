"""Parquet: types become JSON, images are named or held, and a damaged row group costs its rows."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.columns import parse_columns
from anykey.sources.errors import SourceError
from anykey.sources.files.images import ImageStamp, digest_stamp
from anykey.sources.files.locations import InlineLocation
from tests.corpora import as_parquet, bad_rows, entries, read, small_rows
from tests.site import Site


def write(tmp_path: Path, row_group_size: int | None = None, **columns: Any) -> Path:
    path = tmp_path / "c.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


def test_columns_become_fields_and_others_metadata(tmp_path: Path) -> None:
    path = write(tmp_path, key=["a", "b"], text=["x", None], image=[None, "i/1.png"], pool=["p", None], price=[1, None])

    first, second = entries(path)

    assert (first.text, first.images, first.metadata, first.pools) == ("x", (), {"price": 1}, ("p",))
    assert (second.text, second.images, second.metadata) == (None, (f"{tmp_path}/i/1.png",), {})
    assert second.where == f"{path}: row 2"


def test_types_become_json(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    values: dict[str, Any] = {
        "a_bool": True,
        "a_float": 0.5,
        "a_decimal": Decimal("49.90"),
        "a_moment": moment,
        "a_day": date(2024, 5, 6),
        "a_time": time(7, 8),
        "a_span": timedelta(seconds=90),
        "a_list": [1, 2],
        "a_struct": {"inner": [Decimal("0.5")], "none": None},
        "a_nan": float("nan"),
    }
    columns = {name: [value] for name, value in values.items()}
    a_map = pyarrow.array([[("x", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    a_word = pyarrow.array(["red"]).dictionary_encode()

    (entry,) = entries(write(tmp_path, key=["a"], text=["x"], a_map=a_map, a_word=a_word, **columns))

    assert entry.metadata == {
        "a_map": {"x": 1},
        "a_word": "red",
        "a_bool": True,
        "a_float": 0.5,
        "a_decimal": 49.9,
        "a_moment": "2024-05-06T07:08:09+00:00",
        "a_day": "2024-05-06",
        "a_time": "07:08:00",
        "a_span": 90.0,
        "a_list": [1, 2],
        "a_struct": {"inner": [0.5], "none": None},
    }


def test_metadata_column_is_an_object_or_json(tmp_path: Path) -> None:
    (struct,) = entries(write(tmp_path, key=["a"], text=["x"], metadata=[{"price": 2}], price=[1], size=["m"]))
    (string,) = entries(write(tmp_path, key=["a"], text=["x"], metadata=['{"price": 2}'], price=[1], size=["m"]))
    assert struct.metadata == string.metadata == {"price": 2, "size": "m"}


def test_number_as_key_is_its_decimal_text(tmp_path: Path) -> None:
    (entry,) = entries(write(tmp_path, id=[17], text=["x"]), columns=parse_columns(["key=id"]))
    assert entry.key == "17"


def test_held_images_are_stamped_by_their_bytes(tmp_path: Path) -> None:
    binary = write(tmp_path, key=["a", "b"], image=[b"1", b"2"])
    first, second = entries(binary)
    assert first.images == (digest_stamp(str(InlineLocation(str(binary), 1, 0, "image")), b"1"),)
    assert second.images == (digest_stamp(str(InlineLocation(str(binary), 2, 0, "image")), b"2"),)

    struct = write(tmp_path, key=["a"], image=[[{"bytes": b"1", "path": "x"}, {"bytes": None, "path": "y.png"}]])
    ((held, named),) = [entry.images for entry in entries(struct)]
    assert isinstance(held, ImageStamp)
    assert named == f"{tmp_path}/y.png"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"key": [None], "text": ["x"]}, "no key"),
        ({"key": [0.5], "text": ["x"]}, "'key' must be a string or a whole number, got 0.5"),
        ({"key": ["a"], "text": [None]}, "neither text nor image"),
        ({"key": ["a"], "text": [[1]]}, "'text' must be a string, a list of strings or null, got a number in it"),
        ({"key": ["a"], "image": [7]}, "'image' must hold bytes or names of files, got a number in it"),
        ({"key": ["a"], "image": [b""]}, "'image' must hold bytes or names of files, got an empty value in it"),
        (
            {"key": ["a"], "text": ["x"], "size": [float("inf")]},
            "column 'size': not standard JSON (an infinite number)",
        ),
        ({"key": ["a"], "text": ["x"], "metadata": [3]}, "'metadata' must be an object, got a number"),
        ({"key": [b"\xff"], "text": ["x"]}, "column 'key': not UTF-8 (byte 0)"),
    ],
)
def test_bad_row_is_an_error_with_place_and_reason(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    path = write(tmp_path, **columns)
    ((where, found),) = bad_rows(path)
    assert where == f"{path}: row 1"
    assert found.startswith(reason)


def test_blank_names_and_nulls_are_no_images(tmp_path: Path) -> None:
    path = write(tmp_path, key=["a", "b", "c"], text=["x"] * 3, image=[[""], [" ", None, "1.png"], [None, None]])
    assert [entry.images for entry in entries(path)] == [(), (f"{tmp_path}/1.png",), ()]
    (entry,) = entries(write(tmp_path, key=["a"], text=["x"], image=[""], pool=[""]))
    assert (entry.images, entry.pools) == ((), ())


def test_columns_of_bytes_are_left_aside_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, key=[b"a"], text=["x"], blob=[b"1"], inner=[{"sound": b"1"}])
    (entry,) = entries(path)
    assert (entry.key, entry.metadata) == ("a", {})
    assert f"{path}: columns blob, inner hold bytes and are left aside" in caplog.text


def damage_group(path: Path, group: int) -> None:
    """Overwrites the pages of a row group's text column."""
    data = bytearray(path.read_bytes())
    column = parquet.ParquetFile(path).metadata.row_group(group).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)


def test_damaged_row_group_costs_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path, 4, key=[f"k{number}" for number in range(10)], text=["x"] * 10)
    damage_group(path, 1)

    rows = read(path)

    assert [row.key for row in rows] == ["k0", "k1", "k2", "k3", None, "k8", "k9"]
    ((where, reason),) = bad_rows(path)
    assert where == f"{path}: rows 5 to 8"
    assert reason.startswith("cannot read row group 1: ")


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, key=["a"], text=["x"])
    for data in (b"", b"PAR1 no", path.read_bytes()[:-10]):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"c\.parquet is no readable Parquet file: "):
            read(path)


def test_table_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected a column 'key', found sku, text; `--columns key=NAME`"):
        read(write(tmp_path, sku=["1"], text=["x"]))


def test_file_elsewhere_is_read_alike(tmp_path: Path, site: Site, memory: fsspec.AbstractFileSystem) -> None:
    path = as_parquet(small_rows(), tmp_path, is_inline=True)
    site.pages["/c.parquet"] = path.read_bytes()
    memory.pipe("/c.parquet", path.read_bytes())
    facts = [(row.key, row.text, row.metadata, row.pools, len(row.images)) for row in entries(path)]
    for url in (site.url("/c.parquet"), "memory://c.parquet"):
        assert [(row.key, row.text, row.metadata, row.pools, len(row.images)) for row in entries(url)] == facts
