"""Names of fields: what a user says, and how a table's header spells it."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.columns import Columns, find_columns, parse_columns
from anykey.sources.errors import SourceError
from tests.corpora import entries


def test_fields_take_the_names_that_are_said() -> None:
    assert parse_columns([]) == Columns("key", "text", "image", "metadata", "pool")
    assert parse_columns(["key=sku", "pool=a=b", "group=g"]) == Columns(key="sku", pool="a=b", group="g")


@pytest.mark.parametrize("renaming", ["sku", "sku=key", "key=", "=sku"])
def test_other_forms_are_refused(renaming: str) -> None:
    with pytest.raises(ValueError, match="expected FIELD=COLUMN, each FIELD once, of key, text"):
        parse_columns([renaming])
    with pytest.raises(ValueError, match="each FIELD once"):
        parse_columns(["key=a", "key=b"])


def test_case_and_white_space_of_a_header_do_not_count() -> None:
    assert find_columns([" Key", "TEXT", "sku"], Columns(), "f") == Columns(key=" Key", text="TEXT")
    assert find_columns(["key", "Key", "text"], Columns(), "f").key == "key"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (["sku", "text"], r"f: expected a column 'key', found sku, text; `--columns key=NAME` says what it is called"),
        (["key", "size"], "f: expected a column 'text' or 'image', found key, size; `--columns text=NAME,image=NAME`"),
        (["key", "text", "a", "a"], "f: column 'a' is there twice"),
        (["Key", "KEY", "text"], "f: expected one column 'key', found Key, KEY"),
        ([], "found none"),
    ],
)
def test_tables_without_the_columns_are_refused(header: list[str], reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        find_columns(header, Columns(), "f")


WRITERS = {
    "c.csv": lambda path, row: path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n"),
    "c.jsonl": lambda path, row: path.write_text(json.dumps(row)),
    "c.parquet": lambda path, row: parquet.write_table(pyarrow.Table.from_pylist([row]), path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("row", "columns", "note"),
    [
        (
            {"key": "a", "text": "t", "url": "u"},
            [],
            "no column 'image', and 'url' is not embedded; `--columns ima",
        ),
        (
            {"key": "a", "image": "i", "caption": "c"},
            [],
            "'caption' is taken for the text; `--columns text=` says otherwise",
        ),
        ({"key": "a", "caption": "c", "URL": "u"}, ["text=caption"], "no column 'image', and 'URL' is not embedded"),
        ({"key": "a", "text": "t", "image": "i", "url": "u", "caption": "c"}, [], ""),
        ({"text": "t", "url": "u"}, ["key=url"], ""),
        ({"key": "a", "text": "t", "path": "u"}, [], "'path' is taken for the image; `--columns image=`"),
        ({"key": "a", "text": "t", "path": "u"}, ["image="], ""),
        ({"text": "t", "key": "k", "image_path": "u"}, ["image=image_path"], ""),
    ],
)
def test_a_column_with_a_name_as_if_it_were_embedded_is_told_of(
    tmp_path: Path, name: str, row: dict[str, str], columns: list[str], note: str, caplog: pytest.LogCaptureFixture
) -> None:
    WRITERS[name](tmp_path / name, row)
    assert len(entries(tmp_path / name, columns=parse_columns(columns))) == 1
    assert note in caplog.text
    assert bool(note) == bool(caplog.text)


def test_other_fields_are_those_beyond_the_five() -> None:
    columns = parse_columns(["text=title"])
    assert columns.others({"key": "k", "title": "t", "text": "x", "none": None}) == {"text": "x"}
