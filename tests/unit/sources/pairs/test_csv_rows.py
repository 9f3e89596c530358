"""Tables as text: records end where RFC 4180 says, columns go by their names, and a bad cell is one bad row."""

import csv
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.sources.columns import parse_columns
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.csv_rows import CsvRows
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from tests.drawn_pairs import read_all


def table(path: Path, content: str | bytes, name: str = "pairs.csv") -> CsvRows:
    (path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return CsvRows(DataFile(path / name))


def test_a_row_is_a_pair_with_its_image_beside_the_file(tmp_path: Path) -> None:
    rows = table(tmp_path, "image,caption\na.jpg,one\nb/c.jpg,two\n")
    assert rows[1] == Pair("b/c.jpg", tmp_path / "b/c.jpg", ("two",), f"{tmp_path / 'pairs.csv'}:3")
    assert len(rows) == 2


def test_open_clip_s_default_columns_and_separator_are_known(tmp_path: Path) -> None:
    rows = table(tmp_path, "filepath\ttitle\na.jpg\tone, or two\n", "train.csv")
    assert (rows[0].image, rows[0].captions) == (tmp_path / "a.jpg", ("one, or two",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "image\ttext\na.jpg\tone\n"),
        ("a.tsv", "image,text\na.jpg,one\n"),
        ("a.csv", "Image ; TEXT\na.jpg;one\n"),
        ("a.csv", '"text","image"\r\n"one","a.jpg"\r\n'),
        ("a.csv", "\ufeffimage,text\na.jpg,one"),
        ("a.csv", "\n\nimage,text\na.jpg,one".lstrip("\n")),
        ("a.csv", "id,image,text,path\n7,a.jpg,one,b.jpg\n"),
    ],
)
def test_separator_and_columns_are_found_in_the_header(tmp_path: Path, name: str, content: str) -> None:
    rows = table(tmp_path, content, name)
    assert [(pair.image, pair.captions) for pair in read_all(rows) if isinstance(pair, Pair)] == [
        (tmp_path / "a.jpg", ("one",))
    ]


def test_addresses_of_images_are_refused_and_not_taken_for_texts(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"pairs.csv: column 'URL' holds addresses, and images are not fetched"):
        table(tmp_path, "URL,TEXT\nhttps://host/a.jpg,one\n")
    assert table(tmp_path, "url,image,text\nhttps://host/a.jpg,a.jpg,one\n")[0].image == tmp_path / "a.jpg"


def test_numbered_captions_belong_to_one_image(tmp_path: Path) -> None:
    rows = table(tmp_path, "image,name,caption_0,caption1,caption_2\na.jpg,cat,one,,three\n")
    assert (rows[0].name, rows[0].captions) == ("cat", ("one", "three"))


def test_a_quoted_cell_may_hold_separators_line_ends_and_quotes(tmp_path: Path) -> None:
    rows = table(tmp_path, 'image,text\na.jpg,"one, ""two""\r\nthree\u2028four"\n\nb.jpg,last\u2028one\n')
    assert [rows[n].captions for n in range(2)] == [('one, "two"\r\nthree\u2028four',), ("last\u2028one",)]
    assert rows[1].where.endswith("pairs.csv:5")


def test_a_column_that_is_missing_says_that_there_is_no_such_half(tmp_path: Path) -> None:
    assert table(tmp_path, "text\none\n")[0].image is None
    assert table(tmp_path, "image\na.jpg\n")[0].captions == ()


@pytest.mark.parametrize("end", ["", ",", ",,, "])
def test_what_a_spreadsheet_leaves_at_the_end_is_no_cell(tmp_path: Path, end: str) -> None:
    for header in ("image,text", f"image,text{end}"):
        rows = table(tmp_path, f"{header}\n a.jpg , one {end}\n,{end}\nb.jpg,two{end}\n")
        assert [pair.captions for pair in read_all(rows) if isinstance(pair, Pair)] == [("one",), ("two",)]
        assert (rows[0].name, rows[0].image) == ("a.jpg", tmp_path / "a.jpg")


def test_an_empty_cell_says_that_there_is_no_such_half(tmp_path: Path) -> None:
    rows = table(tmp_path, "image,text,name\na.jpg,,\n ,one,\n,,c\n")
    assert (rows[0].image, rows[0].captions) == (tmp_path / "a.jpg", ())
    assert (rows[1].image, rows[1].captions) == (None, ("one",))
    assert read_all(rows)[2] == "expected an image, a text or both, found neither"


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("sku,photo,words,image,brand\n1,a.jpg,one,b.jpg,x\n,c.jpg,two,,\n")
    columns = parse_columns(["key=sku", "image=photo", "text=words", "group=brand"])
    pair, other = open_pairs([str(tmp_path / "pairs.csv")], columns=columns)
    assert (pair.name, pair.image, pair.captions, pair.group) == ("1", tmp_path / "a.jpg", ("one",), "x")
    assert (other.name, other.group) == ("c.jpg", None)


def test_a_record_in_another_encoding_spoils_no_other(tmp_path: Path) -> None:
    rows = table(tmp_path, b"image,text\na.jpg,\xff\nb.jpg,two\n")
    assert [row if isinstance(row, str) else row.captions for row in read_all(rows)] == ["not UTF-8", ("two",)]


def test_long_cells_are_read(tmp_path: Path) -> None:
    rows = table(tmp_path, f"image,text,note\na.jpg,one,{'x' * 200_000}\n")
    assert rows[0].captions == ("one",)


def test_long_cells_are_read_by_threads_at_once(tmp_path: Path) -> None:
    rows = table(tmp_path, "text\n" + ('"' + "x\n" * 75_000 + 'x"\n') * 8)

    def num_chars(_: int) -> int:
        return sum(len(rows[n].captions[0]) for n in range(8))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they meet
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(num_chars, range(4))) == [8 * 150_001] * 4
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.jpg", "expected 2 cells, got 1"),
        ("a.jpg,one, or two", "expected 2 cells, got 3"),
        ('"[""a.jpg"", ""b.jpg""]",one', "expected one image in 'image', got 2"),
        ('a.jpg,"one" two', "',' expected after '\"'"),
        ("a.jpg,one\rtwo", "new-line character seen in unquoted field"),
        ("a\0.jpg,one", "zero byte"),
    ],
)
def test_a_bad_row_spoils_no_other(tmp_path: Path, row: str, reason: str) -> None:
    rows = table(tmp_path, f"image,text\n{row}\ngood.jpg,fine\n")
    assert len(rows) == 2
    with pytest.raises(InvalidRowError, match=reason) as caught:
        rows[0]
    assert caught.value.where == f"{tmp_path / 'pairs.csv'}:2"
    assert rows[1].captions == ("fine",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected a column 'text' or 'image', found none"),
        (b"a,b\n1,2\n", "expected a column 'text' or 'image', found a, b; `--columns text=NAME,image=NAME`"),
        (b"image,image,text\n", "column 'image' is there twice"),
        ("image,text\na.jpg,one\n".encode("utf-16"), "1: not UTF-8"),
        (b'image,text\na.jpg,"one\nb.jpg,two\nc.jpg,three\n', r"pairs\.csv:2: unexpected end of data: is a quote left"),
        (b'image,text\na.jpg,"one', r"pairs\.csv:2: unexpected end of data: is a quote left open"),
        (b'image,text\na.jpg,"one\nb.jpg,"two"\n', r"pairs\.csv:2: .*: is a quote left open"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        table(tmp_path, content)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        CsvRows(DataFile(tmp_path / "absent.csv"))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6))
def test_every_position_holds_what_the_standard_library_reads(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[str, str]]
) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("image", "text"), *written])
    rows = table(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    written = [(image, text) for image, text in written if image.strip() or text.strip()]
    assert len(rows) == len(written)
    for found, (image, text) in zip(read_all(rows), written, strict=True):
        if isinstance(found, Pair):
            captions = (text.strip(),) if text.strip() else ()
            assert (found.name, found.captions) == (image.strip() or found.where, captions)
        else:
            assert "://" in image or image.strip().startswith("[")
