"""CSV and TSV: cells become fields, other columns metadata, and damage stays where it is."""

import csv
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.sources.columns import parse_columns
from anykey.sources.errors import SourceError, UnreadableStretchError
from tests.corpora import bad_rows, entries, read


def table(tmp_path: Path, content: str | bytes, name: str = "c.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_columns_become_fields_and_others_metadata_as_strings(tmp_path: Path) -> None:
    path = table(tmp_path, "key,text,image,pool,price,zip\na,red shoe,i/1.png,shoes,49.5,01234\nb,hat,,,,\n")

    first, second = entries(path)

    assert (first.key, first.text, first.images) == ("a", "red shoe", (f"{tmp_path}/i/1.png",))
    assert (first.metadata, first.pools) == ({"price": "49.5", "zip": "01234"}, ("shoes",))
    assert (second.images, second.metadata, second.pools, second.where) == ((), {}, (), f"{path}:3")


def test_lists_and_metadata_are_json(tmp_path: Path) -> None:
    cells = ["a", '["1.png", "[2].png"]', '["p", "q"]', '{"price": 2, "size": null}', "x", "y"]
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["key", "image", "pool", "metadata", "price", "colour"], cells])

    (entry,) = entries(table(tmp_path, buffer.getvalue()))

    assert entry.images == (f"{tmp_path}/1.png", f"{tmp_path}/[2].png")
    assert entry.pools == ("p", "q")
    assert entry.metadata == {"price": 2, "size": None, "colour": "y"}


def test_cell_that_is_no_json_list_is_one_name(tmp_path: Path) -> None:
    (entry,) = entries(table(tmp_path, "key,image\na,[1].png\n"))
    assert entry.images == (f"{tmp_path}/[1].png",)


def test_separator_is_told_from_the_header(tmp_path: Path) -> None:
    for content, name in (
        ("key\ttext\na\tx,y\n", "c.tsv"),
        ("key;text\na;x,y\n", "c.csv"),
        ("key\ttext\na\tx,y\n", "c.csv"),
    ):
        (entry,) = entries(table(tmp_path, content, name))
        assert (entry.key, entry.text) == ("a", "x,y")


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = table(tmp_path, "sku,title,text\n1,shoe,a long one\n")
    (entry,) = entries(path, columns=parse_columns(["key=sku", "text=title"]))
    assert (entry.key, entry.text, entry.metadata) == ("1", "shoe", {"text": "a long one"})


def test_table_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"c\.csv: expected a column 'key', found sku, text"):
        read(table(tmp_path, "sku,text\n1,x\n"))


def test_quoted_cells_hold_line_ends_and_places_count_lines(tmp_path: Path) -> None:
    path = table(tmp_path, b'\xef\xbb\xbfkey,text\r\na,"two\r\nlines, ""quoted"""\r\n\r\nb,x\r\n')

    first, second = entries(path)

    assert (first.text, first.where) == ('two\r\nlines, "quoted"', f"{path}:2")
    assert (second.key, second.where) == ("b", f"{path}:5")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a", "expected 3 cells, got 1"),
        (b"a,x,y,z", "expected 3 cells, got 4"),
        (b",x,", "no key: expected 'key'"),
        (b"a,,", "neither text nor image"),
        (b"a,\xff,", "not UTF-8"),
        (b'a,"x"y,', "',' expected after '\"'"),
        (b"a,x,[1]", "'metadata': expected a JSON object, got a list"),
        (b"a,x,{", "'metadata': not JSON"),
    ],
)
def test_bad_record_does_not_spoil_its_neighbours(tmp_path: Path, line: bytes, reason: str) -> None:
    path = table(tmp_path, b"key,text,metadata\ngood,x,\n" + line + b"\nalso,x,\n")

    ((where, found),) = bad_rows(path)

    assert (where, len(read(path))) == (f"{path}:3", 3)
    assert found.startswith(reason)


def test_what_follows_a_quote_that_is_left_open_cannot_be_read(tmp_path: Path) -> None:
    for rest in ("", '"swallowed",x\n'):
        good, bad = read(table(tmp_path, f'key,text\na,x\nb,"open\nc,x\n{rest}'))
        assert (good.key, isinstance(bad, UnreadableStretchError)) == ("a", True)
        assert (bad.where, str(bad).endswith(": is a quote left open?")) == (f"{tmp_path}/c.csv:3", True)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_header_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(SourceError, match=r"c\.csv:1: not UTF-8 \(character (14|1) of the header\)"):
        read(table(tmp_path, "key,text,prix\xe9\na,x,1\n".encode(encoding)))


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected a column 'key', found none"):
        read(table(tmp_path, ""))


@pytest.mark.parametrize("end", ["", ",", ",,, "])
def test_what_a_spreadsheet_leaves_at_the_end_is_no_cell(tmp_path: Path, end: str) -> None:
    for header in ("key,text", f"key,text{end}", f"\ufeffkey, text {end}"):
        found = entries(table(tmp_path, f"{header}\n a , red shoe {end}\n,{end}\nb,hat{end}\n"))
        assert [(row.key, row.text, row.metadata) for row in found] == [("a", "red shoe", {}), ("b", "hat", {})]


def test_long_cells_are_read(tmp_path: Path) -> None:
    (entry,) = entries(table(tmp_path, f"key,text\na,{'x' * 200_000}\n"))
    assert len(entry.text or "") == 200_000


def test_long_cells_are_read_by_threads_at_once(tmp_path: Path) -> None:
    path = table(tmp_path, "key,text\n" + "".join(f'{n},"' + "x\n" * 75_000 + 'x"\n' for n in range(8)))

    def num_chars(_: int) -> int:
        return sum(len(entry.text or "") for entry in entries(path))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they meet
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(num_chars, range(4))) == [8 * 150_001] * 4
    finally:
        sys.setswitchinterval(interval)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r")).filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"))
def test_what_python_writes_comes_back(tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("key", "text", "size"), *rows])

    found = [(row.key, row.text, row.metadata["size"]) for row in entries(table(tmp_path, buffer.getvalue()))]

    assert found == [tuple(cell.strip() for cell in row) for row in rows]
    assert json.dumps(found)
