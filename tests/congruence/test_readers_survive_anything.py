"""Whatever a file holds, an index and training read rows and bad rows in it, or end with one error that names it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.pair import Pair
from tests.corpora import read, tar_bytes
from tests.drawn_pairs import read_all

MARK = b"\xef\xbb\xbf"
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=2000)


def parquet_bytes(row_group_size: int = 2, **options: Any) -> bytes:
    columns = {
        "key": ["a", "b", "c"],
        "text": ["one", None, "three"],
        "image": [b"1", b"22", None],
        "caption": [["x"], ["y", "z"], None],
        "when": pyarrow.array([1, 2, None], pyarrow.timestamp("ns")),
        "more": [{"a": [1.5], "b": "x"}, None, {"a": [], "b": None}],
    }
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer, row_group_size=row_group_size, **options)
    return buffer.getvalue()


MEMBERS = [("a.jpg", b"1"), ("a.json", b'{"caption": "one", "w": 1}'), ("b/c.png", b"2"), ("b/c.txt", b"two\nlines")]
WHOLE = {
    "c.jsonl": b'{"key": "a", "text": "one", "image": ["a.jpg"], "metadata": {"n": 1.5}}\n{"key": 7, "caption": "two"}',
    "c.csv": b'key,text,image,metadata\na,"one ""two""",a.jpg,"{""n"": 1}"\n\nb,"two\nlines",,\n',
    "c.tsv": b"image\tcaption_0\tkey\na.jpg\tone\ta\n",
    "c.parquet": parquet_bytes(),
    "d.parquet": parquet_bytes(3, compression="none", data_page_version="2.0", use_dictionary=False),
    "c.tar": tar_bytes(MEMBERS),
    "c.json": b'[{"id": "1", "image": "a.jpg", "conversations": [{"from": "gpt", "value": "two dogs"}]}]',
    "k.json": b'{"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "two dogs"}]}]}',
}

NUMBERS = st.integers() | st.floats() | st.just(10**400)
TEXTS = st.text() | st.sampled_from(["", " ", "a.jpg", "https://host/a.jpg", "\0", "\ud800", "\ufeffa", "../a", "1:1"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = ("key", "text", "image", "metadata", "pool", "did", "txt", "img_path", "modality", "src_content", "caption")
NAMES += ("captions", "file_name", "url", "name", "group", "query", "negatives", "qid", "title")
ROWS = st.dictionaries(st.sampled_from(NAMES) | TEXTS, JSON, max_size=6)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """One of the files with some bytes changed, taken out, doubled or cut off."""
    name = draw(st.sampled_from(sorted(WHOLE)))
    data = WHOLE[name]
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(0, 20))
        put = draw(st.one_of(st.binary(max_size=8), st.just(MARK), st.just(b'"'), st.just(b"\n"), st.just(b"\0" * 512)))
        data = draw(
            st.sampled_from(
                [
                    data[:start] + put + data[start + len(put) :],
                    data[:start] + data[start + length :],
                    data[:start] + data[start : start + length] * 2 + data[start + length :],
                    data[:start],
                ]
            )
        )
    return name, data


def assert_read(path: Path) -> None:
    """Both readers end, with rows or with an error of their own."""
    for reads in READERS:
        rows, said = outcome(reads, path)
        assert path.name in said
        assert all(isinstance(row, CorpusEntry | InvalidRowError | Pair | str) for row in rows)
        for entry in (row for row in rows if isinstance(row, CorpusEntry)):
            kept = json.dumps([entry.key, entry.text, entry.metadata, entry.pools], ensure_ascii=False, allow_nan=False)
            assert kept.encode()  # so that a store can keep it


def in_training(path: Path) -> list[Pair | str]:
    return read_all(open_pairs([str(path)]))


READERS: list[Callable[[Path], list[Any]]] = [read, in_training]


def outcome(reads: Callable[[Path], list[Any]], path: Path) -> tuple[list[Any], str]:
    """The rows, and what is said where there are none."""
    try:
        return reads(path), path.name
    except SourceError as error:
        return [], str(error)


def assert_bytes_are_read(folder: Path, file: tuple[str, bytes]) -> None:
    name, data = file
    (folder / name).write_bytes(data)
    assert_read(folder / name)


def assert_rows_are_read(folder: Path, rows: list[dict[str, Any]]) -> None:
    """As lines, as a JSON file, and beside images in a shard and in a folder."""
    lines = [json.dumps(row) for row in rows]
    assert_bytes_are_read(folder, ("r.jsonl", "\n".join(lines).encode()))
    assert_bytes_are_read(folder, ("r.json", f"[{','.join(lines)}]".encode()))
    members = [(f"{n}.{suffix}", line.encode()) for n, line in enumerate(lines) for suffix in ("jpg", "json")]
    assert_bytes_are_read(folder, ("r.tar", tar_bytes(members)))
    (folder / "inner").mkdir(exist_ok=True)
    (folder / "inner" / "a.png").write_bytes(b"x")
    assert_bytes_are_read(folder / "inner", ("metadata.jsonl", "\n".join(lines).encode()))
    assert_read(folder / "inner")


def assert_tables_are_read(folder: Path, cells: list[list[str]]) -> None:
    text = "\n".join(",".join(row) for row in [["key", "text", "image", "caption"], *cells])
    assert_bytes_are_read(folder, ("t.csv", text.encode("utf-8", "surrogateescape")))
    assert_bytes_are_read(folder, ("metadata.csv", text.encode("utf-8", "surrogateescape")))


CELLS = st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.just('"'), max_size=5), max_size=4)
CHECKS: dict[str, tuple[Callable[[Path, Any], None], Any]] = {
    "damaged files": (assert_bytes_are_read, damaged()),
    "any bytes": (assert_bytes_are_read, st.tuples(st.sampled_from(sorted(WHOLE)), st.binary(max_size=600))),
    "any rows": (assert_rows_are_read, st.lists(ROWS, max_size=3)),
    "any cells": (assert_tables_are_read, CELLS),
}


@pytest.mark.parametrize("check", CHECKS)
def test_reading_ends_with_rows_or_one_error(tmp_path: Path, check: str) -> None:
    holds, strategy = CHECKS[check]
    FEW(given(strategy)(lambda value: holds(tmp_path, value)))()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_reading_ends_with_rows_or_one_error_many_times(tmp_path: Path, check: str) -> None:
    holds, strategy = CHECKS[check]
    MANY(given(strategy)(lambda value: holds(tmp_path, value)))()


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_files_are_read(tmp_path: Path, name: str) -> None:
    """What is damaged above is sound as it is, for an index, for training or for both."""
    for made, data in ((name, WHOLE[name]), ("a.jpg", b"x"), ("1.jpg", b"x")):
        (tmp_path / made).write_bytes(data)
    rows = [row for reads in READERS for row in outcome(reads, tmp_path / name)[0]]
    assert any(isinstance(row, CorpusEntry | Pair) for row in rows)
