"""Names of fields: what a user says, and how a table's header spells it."""

import pytest

from index.errors import InvalidCorpusError
from index.readers.columns import Columns, find_columns, parse_columns


def test_fields_take_the_names_that_are_said() -> None:
    assert parse_columns([]) == Columns("key", "text", "image", "metadata", "pool")
    assert parse_columns(["key=sku", "pool=a=b"]) == Columns(key="sku", pool="a=b")


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
        (["key", "title"], "f: expected a column 'text' or 'image', found key, title"),
        (["key", "text", "a", "a"], "f: column 'a' is there twice"),
        (["Key", "KEY", "text"], "f: expected one column 'key', found Key, KEY"),
        ([], "found none"),
    ],
)
def test_tables_without_the_columns_are_refused(header: list[str], reason: str) -> None:
    with pytest.raises(InvalidCorpusError, match=reason):
        find_columns(header, Columns(), "f")


def test_other_fields_are_those_beyond_the_five() -> None:
    columns = parse_columns(["text=title"])
    assert columns.others({"key": "k", "title": "t", "text": "x", "none": None}) == {"text": "x"}
