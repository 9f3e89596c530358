"""Elements of a JSON array are found where the standard library finds them, and parsed one by one."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.json_rows import JsonRows, first_element


def json_file(path: Path, content: str | bytes) -> DataFile:
    (path / "rows.json").write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return DataFile(path / "rows.json")


VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5),
    before=VALUES,
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_every_element_is_what_the_standard_library_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], before: Any, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json")
    plain = json_file(path, json.dumps(rows, indent=indent, ensure_ascii=ascii_only))
    found = JsonRows(plain)
    assert [found[n] for n in range(len(found))] == rows
    keyed = json.dumps({"before": before, "rows": rows, "after": before}, indent=indent, ensure_ascii=ascii_only)
    found = JsonRows(json_file(path, keyed), "rows")
    assert [found[n] for n in range(len(found))] == rows


def test_elements_can_be_chosen_and_keep_their_numbers(tmp_path: Path) -> None:
    rows = JsonRows(json_file(tmp_path, '[{"n": 1}, {"n": 2}, 3, {"n": 4}]'), keep=lambda row: row != {"n": 2})
    assert [rows.where(n).rpartition(" ")[2] for n in range(len(rows))] == ["1", "3", "4"]
    assert rows[2] == {"n": 4}
    with pytest.raises(InvalidRowError, match=r"rows\.json: row 3: expected a JSON object, got a number"):
        rows[1]


def test_a_mark_at_the_beginning_and_any_line_ends_do_no_harm(tmp_path: Path) -> None:
    rows = JsonRows(json_file(tmp_path, '\ufeff\r\n[\r\n {"text": "\u65e5"} ,\r\n{}\r\n]\r\n'))
    assert [rows[0], rows[1]] == [{"text": "\u65e5"}, {}]


def test_bytes_that_are_no_utf_8_spoil_one_row(tmp_path: Path) -> None:
    rows = JsonRows(json_file(tmp_path, b'[{"text": "\xff"}, {"text": "fine"}]'))
    assert rows[1] == {"text": "fine"}
    with pytest.raises(InvalidRowError, match="not UTF-8"):
        rows[0]


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        ("", None, "Expecting '\\['"),
        ("{}", None, "Expecting '\\['"),
        ("[{}", None, "Expecting ','"),
        ('[{}, {"a":', None, "Expecting value"),
        ("[{},]", None, "Expecting value"),
        ("[{} {}]", None, "Expecting ','"),
        ("[" * 100_000, None, "recursion"),
        ("{}", "rows", "expected a list 'rows'"),
        ('{"a": 1}', "rows", "expected a list 'rows'"),
        ('{"a" 1}', "rows", "Expecting ':'"),
        ('{"a": 1 "rows": []}', "rows", "Expecting ','"),
        ('{"rows": {}}', "rows", "Expecting '\\['"),
        ("[]", "rows", "Expecting '{'"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str, key: str | None, reason: str) -> None:
    file = json_file(tmp_path, content)
    with pytest.raises(SourceError, match=rf"cannot read .*rows\.json as JSON: .*{reason}"):
        JsonRows(file, key)


def test_the_first_element_tells_what_a_file_is(tmp_path: Path) -> None:
    assert first_element(json_file(tmp_path, '[{"a": 1}, {"b":')) == {"a": 1}
    assert first_element(json_file(tmp_path, "[]")) is None
    assert first_element(json_file(tmp_path, "rubbish")) is None
    assert first_element(DataFile(tmp_path / "absent.json")) is None
