"""A named group reaches the pair from every format that a person writes."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.pairs import open_pairs
from tests.drawn_pairs import read_all

ROWS = [("a.jpg", "one", "x"), ("b.jpg", "two", None), ("c.jpg", "three", "x")]


def write_jsonl(path: Path) -> None:
    rows = [{"image": image, "caption": text, "group": group} for image, text, group in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path) -> None:
    path.write_text("image,caption,Group\n" + "".join(f"{i},{t},{g or ''}\n" for i, t, g in ROWS))


def write_parquet(path: Path) -> None:
    columns = dict(zip(("image", "caption", "group"), zip(*ROWS, strict=True), strict=True))
    parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), path)


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_groups_are_read(write: object, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{write.__name__.removeprefix('write_')}"
    write(path)
    assert [pair.group for pair in read_all(open_pairs([str(path)]))] == ["x", None, "x"]
