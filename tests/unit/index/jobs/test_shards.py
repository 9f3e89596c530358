"""Shards: what is written comes back, and what was damaged since is refused and never taken."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from anykey.index.errors import InvalidKeyError, InvalidShardError, SearchIndexError
from anykey.index.jobs.shards import common_encoder, read_facts, read_shard, write_shard
from anykey.index.store.new_keys import to_record
from anykey.index.store.records import Record
from tests.live_index import ENCODER, WIDTH, new_keys

FACTS = {"digest": "d", "bad_rows": []}
SOME_BYTES, MANY_BYTES = 31, 3  # one in so many is changed
OLDER_COLUMNS = ["key", "vector", "text", "metadata", "pools", "images"]


def records(count: int) -> list[Record]:
    return [to_record(key, WIDTH) for key in new_keys(count)]


@pytest.fixture(params=["float32", "float16"])
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "keys.parquet"
    write_shard(str(path), records(12), ENCODER, request.param, FACTS)
    return path


def content(path: Path) -> Any:
    """All that is read of a shard, to be compared."""
    keys = [
        {**dataclasses.asdict(record), "vector_D": np.asarray(record.vector_D).tobytes()}
        for batch in read_shard(str(path))
        for record in batch
    ]
    return common_encoder([str(path)]), read_facts(str(path)), keys


def test_what_is_written_comes_back(shard: Path) -> None:
    encoder, facts, keys = content(shard)

    assert (encoder, facts) == (ENCODER, FACTS)
    assert [key["key"] for key in keys] == [record.key for record in records(12)]


@pytest.mark.parametrize("every_bytes", [SOME_BYTES, pytest.param(MANY_BYTES, marks=pytest.mark.slow)])
def test_flipped_bit_is_refused_by_name_or_changes_nothing(shard: Path, every_bytes: int) -> None:
    expected, whole = content(shard), shard.read_bytes()
    found = []
    for place in range(0, len(whole), every_bytes):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        shard.write_bytes(flipped)
        found.append(content_or_refusal(shard))

    refusals = [each for each in found if isinstance(each, SearchIndexError)]
    assert [each for each in found if each != expected and each not in refusals] == []
    assert all(str(shard) in str(refusal) for refusal in refusals)
    assert len(refusals) > len(found) / 2


def content_or_refusal(path: Path) -> Any:
    try:
        return content(path)
    except SearchIndexError as error:
        return error


def footer(path: Path) -> dict[bytes, bytes]:
    """What a shard's footer says, but for Arrow's own."""
    said = pq.ParquetFile(path).metadata.metadata
    return {name: value for name, value in said.items() if name.startswith(b"anykey.")}


def test_shard_without_checksums_is_of_an_earlier_release_and_read(shard: Path) -> None:
    expected, said = content(shard), footer(shard)
    del said[b"anykey.crc32"]
    pq.write_table(pq.read_table(shard).select(OLDER_COLUMNS).replace_schema_metadata(said), shard)

    assert content(shard) == expected


@pytest.mark.parametrize("dropped", ["crc32", "anykey.crc32"])
def test_shard_with_half_of_its_checksums_is_damaged(shard: Path, dropped: str) -> None:
    table, said = pq.read_table(shard), footer(shard)
    said.pop(dropped.encode(), None)
    columns = [name for name in table.column_names if name != dropped]
    pq.write_table(table.select(columns).replace_schema_metadata(said), shard)

    with pytest.raises(InvalidShardError, match=r"keys\.parquet .*footer is damaged"):
        content(shard)


@pytest.mark.parametrize(
    ("column", "value", "error", "reason"),
    [
        ("metadata", "{broken", InvalidShardError, r"keys\.parquet, row 5 is damaged: Expecting property name"),
        ("metadata", "[1]", InvalidKeyError, r"keys\.parquet, row 5: key 'k4' .*metadata to be an object"),
        ("key", " ", InvalidKeyError, r"keys\.parquet, row 5: key ' ' cannot be stored: .* not blank"),
        ("vector", [0.0] * WIDTH, InvalidKeyError, r"keys\.parquet, row 5: key 'k4' .*unit vector"),
    ],
)
def test_key_that_another_tool_wrote_wrongly_is_named_with_its_row(
    tmp_path: Path, column: str, value: Any, error: type[SearchIndexError], reason: str
) -> None:
    path = tmp_path / "keys.parquet"
    write_shard(str(path), records(8), ENCODER, "float32")
    table = pq.read_table(path)
    metadata = {b"anykey.encoder": table.schema.metadata[b"anykey.encoder"]}
    rows = table.select(OLDER_COLUMNS).to_pylist()
    rows[4][column] = value
    schema = table.select(OLDER_COLUMNS).schema.with_metadata(metadata)
    pq.write_table(type(table).from_pylist(rows, schema=schema), path)

    with pytest.raises(error, match=reason):
        list(read_shard(str(path)))


@pytest.mark.parametrize("field", ["anykey.encoder", "anykey.facts"])
def test_broken_json_in_the_footer_names_the_file(shard: Path, field: str) -> None:
    table = pq.read_table(shard).select(OLDER_COLUMNS)
    encoder = json.dumps(ENCODER.model_dump()).encode()
    pq.write_table(table.replace_schema_metadata({b"anykey.encoder": encoder, field.encode(): b"{broken"}), shard)

    with pytest.raises(InvalidShardError, match=r"keys\.parquet"):
        content(shard)
