"""How a file tells its format: by its suffix, or else by its first bytes."""

import io
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.corpus.entry import CorpusFile
from anykey.sources.corpus.formats import FOLDER, FORMATS, format_of
from anykey.sources.errors import SourceError
from tests.corpora import tar_bytes


def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"key": ["a"]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("a.jsonl", "JSONL"),
        ("a.NDJSON", "JSONL"),
        ("a.csv", "CSV"),
        ("a.tsv", "CSV"),
        ("a.parquet", "Parquet"),
        ("a.tar", "a tar shard"),
    ],
)
def test_suffix_tells_without_a_look(name: str, title: str) -> None:
    assert format_of(CorpusFile(f"/nowhere/{name}")).title == title
    assert format_of(CorpusFile(f"https://host/{name}?signature=x.jsonl")).title == title


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (b'\xef\xbb\xbf\n {"key": "a"}', "JSONL"),
        (parquet_bytes(), "Parquet"),
        (tar_bytes([("a.txt", b"x")]), "a tar shard"),
    ],
)
@pytest.mark.parametrize("name", ["data", "data.json", "data.bin"])
def test_first_bytes_tell_where_no_suffix_does(tmp_path: Path, data: bytes, title: str, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert format_of(CorpusFile(str(tmp_path / name))).title == title


def test_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[1]")
    with pytest.raises(SourceError, match=r"a\.json: expected JSONL \(\.jsonl, \.ndjson\), CSV .*, or a folder"):
        format_of(CorpusFile(str(tmp_path / "a.json")))


def test_folder_is_told_by_whoever_found_it() -> None:
    assert format_of(CorpusFile("/nowhere.tar", is_folder=True)) is FOLDER


def test_every_format_is_in_the_docs() -> None:
    page = (Path(__file__).parents[4] / "docs" / "corpus.md").read_text()
    for known in FORMATS:
        assert all(f"`{suffix}`" in page for suffix in known.kind.suffixes)
