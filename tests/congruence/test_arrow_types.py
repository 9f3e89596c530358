"""Every type that Arrow writes to Parquet gives a value, a null or a bad row that names the column: never a traceback.

An index build, `embed` and training read the same files.
"""

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from rich.console import Console

from anykey.index import FaissIndex
from anykey.index.jobs.embedding_job import embed_corpus
from anykey.index.settings import EmbedSettings
from anykey.sources.errors import SourceError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.pair import Pair
from tests.corpora import read
from tests.drawn_pairs import read_all
from tests.factories import build_with
from tests.fakes import FakeEncoderSource

UUID = uuid.UUID("6f1c0a52-8d3e-4c1b-9f70-3a2b5c7d9e01")
FAR = 2**31 - 1  # days: some five million years
BAD_UTF8 = pyarrow.Array.from_buffers(
    pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")]
)


def counted(number: int, kind: pyarrow.DataType) -> pyarrow.Array:
    """One time, date or span, so many units after its beginning."""
    return pyarrow.array([number], pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()).cast(kind)


def of(value: Any, kind: pyarrow.DataType) -> pyarrow.Array:
    return pyarrow.array([value], kind)


def extension(value: Any, kind: pyarrow.DataType) -> pyarrow.Array:
    return pyarrow.ExtensionArray.from_storage(kind, of(value, kind.storage_type))


def struct(inner: pyarrow.Array, *names: str) -> pyarrow.Array:
    return pyarrow.StructArray.from_arrays([inner] * len(names), names=list(names))


def listed(inner: pyarrow.Array) -> pyarrow.Array:
    return pyarrow.ListArray.from_arrays([0, 1], inner)


UUIDS = extension(UUID.bytes, pyarrow.uuid())
DATES = counted(FAR, pyarrow.date32())
INT, TEXT = pyarrow.int64(), pyarrow.string()

# What the index keeps as metadata; None where it keeps nothing.
VALUES: dict[str, tuple[pyarrow.Array, Any]] = {
    **{f"int_{kind}": (of(7, kind), 7) for kind in map(pyarrow.type_for_alias, ("i1", "i2", "i4", "u1", "u2", "u4"))},
    "uint64": (of(2**64 - 1, pyarrow.uint64()), 2**64 - 1),
    "half": (of(1.5, pyarrow.float16()), 1.5),
    "float": (of(1.5, pyarrow.float32()), 1.5),
    "nan": (of(float("nan"), pyarrow.float64()), None),
    "null": (pyarrow.nulls(1), None),
    "bool": (of(True, pyarrow.bool_()), True),
    "string": (of("a", TEXT), "a"),
    "large_string": (of("a", pyarrow.large_string()), "a"),
    "string_view": (of("a", pyarrow.string_view()), "a"),
    "date32": (counted(1, pyarrow.date32()), "1970-01-02"),
    "date64": (counted(86_400_000, pyarrow.date64()), "1970-01-02"),
    "time32": (counted(5, pyarrow.time32("s")), "00:00:05"),
    "time64_us": (counted(5, pyarrow.time64("us")), "00:00:00.000005"),
    "time64_ns": (counted(5, pyarrow.time64("ns")), "00:00:00.000000005"),
    "time64_ns_even": (counted(10**9, pyarrow.time64("ns")), "00:00:01"),
    "stamp_s": (counted(5, pyarrow.timestamp("s")), "1970-01-01T00:00:05"),
    "stamp_ms": (counted(5, pyarrow.timestamp("ms")), "1970-01-01T00:00:00.005000"),
    "stamp_ns": (counted(-1, pyarrow.timestamp("ns")), "1969-12-31T23:59:59.999999999"),
    "stamp_ns_even": (counted(10**9, pyarrow.timestamp("ns")), "1970-01-01T00:00:01"),
    "stamp_zone": (counted(0, pyarrow.timestamp("us", "Europe/Berlin")), "1970-01-01T01:00:00+01:00"),
    "stamp_zone_ns": (counted(1, pyarrow.timestamp("ns", "+05:30")), "1970-01-01T05:30:00.000000001+05:30"),
    "span_s": (counted(2**62, pyarrow.duration("s")), float(2**62)),
    "span_ns": (counted(1, pyarrow.duration("ns")), 1e-9),
    "decimal32": (of(Decimal("1.5"), pyarrow.decimal32(5, 2)), 1.5),
    "decimal128": (of(Decimal(17), pyarrow.decimal128(38, 0)), 17),
    "decimal256": (of(Decimal(10) ** 70, pyarrow.decimal256(76, 0)), 10**70),
    "uuid": (UUIDS, str(UUID)),
    "json": (of('{"a": 1}', pyarrow.json_()), '{"a": 1}'),
    "bool8": (extension(1, pyarrow.bool8()), True),
    "tensor": (extension([1, 2], pyarrow.fixed_shape_tensor(pyarrow.float32(), (2,))), [1.0, 2.0]),
    "opaque": (extension("a", pyarrow.opaque(TEXT, "x", "y")), "a"),
    "dictionary": (of("a", TEXT).dictionary_encode(), "a"),
    "list": (of([1], pyarrow.list_(INT)), [1]),
    "large_list": (of([1], pyarrow.large_list(INT)), [1]),
    "fixed_list": (of([1, 2], pyarrow.list_(INT, 2)), [1, 2]),
    "list_view": (of([1], pyarrow.list_view(INT)), [1]),
    "large_list_view": (of([1], pyarrow.large_list_view(INT)), [1]),
    "list_of_uuids": (listed(UUIDS), [str(UUID)]),
    "list_of_nan": (of([float("nan"), 1.0], pyarrow.list_(pyarrow.float64())), [None, 1.0]),
    "map": (of([("a", 1)], pyarrow.map_(TEXT, INT)), {"a": 1}),
    "map_of_days": (pyarrow.MapArray.from_arrays([0, 1], counted(0, pyarrow.date32()), of(1, INT)), {"1970-01-01": 1}),
    "empty_map": (of([], pyarrow.map_(TEXT, INT)), {}),
    "struct": (struct(UUIDS, "a"), {"a": str(UUID)}),
    # left aside as a whole, with a note: JSON has no bytes
    "binary": (of(b"\xff", pyarrow.binary()), None),
    "large_binary": (of(b"\xff", pyarrow.large_binary()), None),
    "binary_view": (of(b"\xff", pyarrow.binary_view()), None),
    "fixed_binary": (of(b"\xff", pyarrow.binary(1)), None),
    "binary_dictionary": (of(b"\xff", pyarrow.binary()).dictionary_encode(), None),
    "opaque_binary": (extension(b"\xff", pyarrow.opaque(pyarrow.binary(), "x", "y")), None),
    "struct_of_binary": (struct(of(b"\xff", pyarrow.binary()), "a"), None),
}
YEARS = "a date or time outside the years 1 to 9999, or outside the day"
REFUSED: dict[str, tuple[pyarrow.Array, str]] = {
    "far_date": (DATES, YEARS),
    "early_date": (counted(-FAR, pyarrow.date32()), YEARS),
    "far_date64": (counted(2**55, pyarrow.date64()), YEARS),
    "far_stamp": (counted(2**62, pyarrow.timestamp("us")), YEARS),
    "far_stamp_ms": (counted(2**62, pyarrow.timestamp("ms")), YEARS),
    "far_in_its_zone": (counted(253402300799999999, pyarrow.timestamp("us", "Asia/Tokyo")), YEARS),
    "no_such_zone": (counted(0, pyarrow.timestamp("us", "Mars/Base")), "a time zone that is not known here"),
    "beyond_the_day": (counted(2**60, pyarrow.time64("us")), YEARS),
    "dictionary_of_dates": (DATES.dictionary_encode(), YEARS),
    "list_of_dates": (listed(DATES), YEARS),
    "struct_of_dates": (struct(DATES, "a"), YEARS),
    "struct_of_twins": (struct(of(1, INT), "a", "a"), "its field 'a' is there twice"),
    "map_of_twins": (of([("a", 1), ("a", 2)], pyarrow.map_(TEXT, INT)), "its field 'a' is there twice"),
    "infinite": (of(float("inf"), pyarrow.float32()), "not standard JSON (an infinite number)"),
    "list_of_infinite": (of([float("-inf")], pyarrow.list_(pyarrow.float64())), "not standard JSON"),
    "no_utf8": (BAD_UTF8, "not UTF-8 (byte 0)"),
}
COLUMNS = {name: array for name, (array, _) in {**VALUES, **REFUSED}.items()}


def write_table(path: Path, **columns: pyarrow.Array) -> Path:
    """A table of one row for each column, which is null in all the other rows."""
    cells = {
        name: pyarrow.concat_arrays([pyarrow.nulls(number, array.type), array, pyarrow.nulls(count, array.type)])
        for (number, (name, array)), count in zip(
            enumerate(columns.items()), reversed(range(len(columns))), strict=True
        )
    }
    rows = list(columns)
    parquet.write_table(pyarrow.table({"key": rows, "text": rows, **cells}), path)
    return path


def assert_bad_rows_name_columns(bad_rows: list[tuple[str | None, str]]) -> None:
    """Of each row its key, and its reason."""
    expected = [(name, reason(name)) for name in REFUSED]
    found = [(key, said[: len(wanted)]) for (key, said), (_, wanted) in zip(bad_rows, expected, strict=True)]
    assert found == expected


def reason(name: str) -> str:
    return f"column '{name}': {REFUSED[name][1]}"


def test_an_index_keeps_values_and_names_the_columns_of_others(tmp_path: Path) -> None:
    report = build_with(write_table(tmp_path / "c.parquet", **COLUMNS), tmp_path / "i")

    assert_bad_rows_name_columns([(row.key, row.reason) for row in report.bad_rows])
    with FaissIndex.open(tmp_path / "i") as index:
        found = {stored.key: stored.payload.metadata.get(stored.key) for stored in index.scan()}
    assert found == {name: value for name, (_, value) in VALUES.items()}


def test_embed_reads_them_alike(tmp_path: Path) -> None:
    corpus = write_table(tmp_path / "c.parquet", **COLUMNS)
    settings = EmbedSettings(corpus=[str(corpus)], checkpoint="unused", output=str(tmp_path / "shards"))

    report = embed_corpus(settings, FakeEncoderSource(), console=Console(quiet=True))

    bad_rows = [json.loads(line) for line in (tmp_path / "shards" / "bad_rows.jsonl").read_text().splitlines()]
    assert_bad_rows_name_columns([(row["key"], row["reason"]) for row in bad_rows])
    assert report.num_keys == len(VALUES)


@pytest.mark.parametrize("field", ["key", "text", "image", "pool", "metadata"])
def test_every_field_of_an_index_takes_every_type(tmp_path: Path, field: str) -> None:
    """A value that fits is used, any other makes a bad row."""
    for name, array in COLUMNS.items():
        columns = {"key": of("k", TEXT), "text": of("t", TEXT), "image": of("a.png", TEXT), field: array}
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
        rows = read(tmp_path / f"{name}.parquet")
        assert len(rows) == 1


@pytest.mark.parametrize("field", ["image", "caption", "name", "group"])
def test_every_column_of_training_takes_every_type(tmp_path: Path, field: str) -> None:
    for name, array in COLUMNS.items():
        path = tmp_path / f"{name}.parquet"
        columns = {"image": of(b"a", pyarrow.binary()), "caption": of("a", TEXT), field: array}
        parquet.write_table(pyarrow.table(columns), path)
        (row,) = read_all(open_pairs([str(path)]))
        if name in REFUSED and name not in ("infinite", "list_of_infinite", "map_of_twins"):
            assert str(row).startswith(f"column '{field}': ")
        elif name in ("string", "large_string", "string_view", "dictionary", "uuid") and field in ("name", "group"):
            assert isinstance(row, Pair)


@pytest.mark.parametrize("name", ["c.parquet", "metadata.parquet"])
def test_a_column_whose_name_is_no_utf8_is_refused(tmp_path: Path, name: str) -> None:
    table = pyarrow.table({"key": ["a"], "text": ["t"], "file_name": ["a.png"], "zzzz": [1]})
    parquet.write_table(table, tmp_path / name, store_schema=False)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"zzzz", b"\xff\xfe\xffz"))
    (tmp_path / "a.png").touch()
    for path in (tmp_path / name, *([tmp_path] if name == "metadata.parquet" else [])):
        with pytest.raises(SourceError, match="is no readable Parquet file"):
            read(path)
        with pytest.raises(SourceError, match="is no readable Parquet file"):
            open_pairs([str(path)])


def test_uuids_and_numbers_are_keys(tmp_path: Path) -> None:
    for kind, key in (("uuid", str(UUID)), ("uint64", str(2**64 - 1)), ("decimal128", "17"), ("date32", "1970-01-02")):
        parquet.write_table(pyarrow.table({"key": COLUMNS[kind], "text": ["t"]}), tmp_path / "c.parquet")
        assert [getattr(row, "key", None) for row in read(tmp_path / "c.parquet")] == [key]


@pytest.mark.parametrize(("kind", "found"), [("bool", "a boolean"), ("float", "1.5"), ("decimal32", "1.5")])
def test_other_values_are_no_keys(tmp_path: Path, kind: str, found: str) -> None:
    parquet.write_table(pyarrow.table({"key": COLUMNS[kind], "text": ["t"]}), tmp_path / "c.parquet")
    (row,) = read(tmp_path / "c.parquet")
    assert str(row).endswith(f"'key' must be a string or a whole number, got {found}")
