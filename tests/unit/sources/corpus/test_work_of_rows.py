"""What a row of a large corpus costs, counted in calls, which are as many on a busy machine."""

import cProfile
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from anykey.index.jobs.corpus import read_file
from anykey.sources.corpus.entry import CorpusFile


def rows_of(num_rows: int) -> list[dict[str, Any]]:
    plain = {"text": "a text", "price": 1.5, "year": 2000, "tags": ["a", "b"]}
    return [{"key": f"k{number}", **plain} for number in range(num_rows)]


def write_parquet(path: Path, num_rows: int) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows_of(num_rows)), path)


def write_jsonl(path: Path, num_rows: int) -> None:
    lines = ({"key": row.pop("key"), "text": row.pop("text"), "metadata": row} for row in rows_of(num_rows))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write_csv(path: Path, num_rows: int) -> None:
    lines = (f"{row['key']},{row['text']},{row['price']},{row['year']},a\n" for row in rows_of(num_rows))
    path.write_text("".join(["key,text,price,year,tag\n", *lines]))


def num_calls(path: Path) -> int:
    with cProfile.Profile() as profile:
        for _ in read_file(CorpusFile(str(path))):
            pass
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize(("write", "most"), [(write_parquet, 75), (write_jsonl, 64), (write_csv, 67)])
def test_a_row_of_plain_values_costs_few_calls(tmp_path: Path, write: Callable[[Path, int], None], most: int) -> None:
    few, many = tmp_path / f"few.{write.__name__[6:]}", tmp_path / f"many.{write.__name__[6:]}"
    write(few, 64)
    write(many, 64 + 320)
    num_calls(few)  # imports and caches

    calls_per_row = (num_calls(many) - num_calls(few)) / 320

    assert calls_per_row < most
