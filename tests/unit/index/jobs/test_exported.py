"""Damage of what `export` wrote, read as a corpus, ends in a bad row."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from anykey.index.jobs.transfer import export_shards
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import SourceError, UnreadableStretchError
from tests.corpora import read
from tests.factories import build_with, write_jsonl


def test_text_that_is_no_utf8_costs_its_row_group(tmp_path: Path) -> None:
    """In a shard that another tool wrote again, without checksums, so that nothing else tells."""
    corpus = write_jsonl(tmp_path / "c.jsonl", ({"key": f"k{n}", "text": f"text number {n}"} for n in range(6)))
    build_with(corpus, tmp_path / "i")
    export_shards(tmp_path / "i", tmp_path / "e", lambda count: None)
    exported = parquet.ParquetFile(tmp_path / "e" / "keys-00000.parquet")
    encoder = {b"anykey.encoder": exported.metadata.metadata[b"anykey.encoder"]}
    table = exported.read().drop(["crc32"]).replace_schema_metadata(encoder)
    parquet.write_table(table, tmp_path / "x.parquet", compression="none", use_dictionary=False, row_group_size=3)
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data.replace(b"text number 4", b"\xff\xffxt number 4"))

    *good, bad = read(tmp_path / "x.parquet")

    assert [row.key for row in good] == ["k0", "k1", "k2"]
    assert isinstance(bad, UnreadableStretchError)
    assert (bad.where, bad.num_rows) == (f"{tmp_path}/x.parquet: rows 4 to 6", 3)


def _written_again(folder: Path, column: str, values: Any, **encoder: Any) -> Path:
    """Three exported keys as another tool writes them again, with another column, or of another encoder."""
    build_with(write_jsonl(folder / "c.jsonl", ({"key": f"k{n}", "text": "a text"} for n in range(3))), folder / "i")
    export_shards(folder / "i", folder / "e", lambda count: None)
    table = parquet.read_table(folder / "e" / "keys-00000.parquet").drop(["crc32"])
    if values is not None:
        table = table.set_column(table.schema.get_field_index(column), column, values)
    facts = {**json.loads(table.schema.metadata[b"anykey.encoder"]), **encoder}
    parquet.write_table(table.replace_schema_metadata({b"anykey.encoder": json.dumps(facts)}), folder / "x.parquet")
    return folder / "x.parquet"


@pytest.mark.parametrize("values", [pa.array([["a"]] * 3), pa.array([1, 2, 3]), pa.array([None] * 3)])
def test_vectors_that_are_none_are_refused(tmp_path: Path, values: pa.Array) -> None:
    with pytest.raises(SourceError, match=r"expected what `export` writes, found .* as the column vector"):
        read(_written_again(tmp_path, "vector", values))


@pytest.mark.parametrize("column", ["key", "text", "metadata"])
def test_dates_that_python_does_not_have_cost_their_row_group(tmp_path: Path, column: str) -> None:
    (bad,) = read(_written_again(tmp_path, column, pa.array([2**62] * 3, pa.timestamp("us"))))
    assert isinstance(bad, UnreadableStretchError)
    assert (bad.where, bad.num_rows) == (f"{tmp_path}/x.parquet: rows 1 to 3", 3)


def test_vectors_of_another_width_than_is_said_of_their_encoder_are_embedded_anew(tmp_path: Path) -> None:
    corpus = _written_again(tmp_path, "vector", None, width=999)
    rows = read(corpus)
    assert [row.vector for row in rows if isinstance(row, CorpusEntry)] == [None] * 3
    report = build_with(corpus, tmp_path / "built")
    assert (report.num_embedded, report.num_taken) == (3, 0)


@pytest.mark.parametrize("digits", ["9" * 5000, str(2**70)])
@pytest.mark.parametrize("form", ["tar:{file}!{digits}+1!a.png", "parquet:{file}!{digits}:0!image"])
def test_places_beyond_all_files_are_no_images(tmp_path: Path, form: str, digits: str) -> None:
    image = form.format(file=tmp_path / "c.jsonl", digits=digits)
    images = pa.array([[{"media_type": "image/png", "path": image, "data": None}]] * 3)
    corpus = _written_again(tmp_path, "images", images)
    report = build_with(write_jsonl(tmp_path / "ok.jsonl", [{"key": "a", "text": "a"}]), tmp_path / "built")
    assert report.bad_rows == []

    report = build_with([corpus, tmp_path / "ok.jsonl"], tmp_path / "built")
    assert [row.key for row in report.bad_rows] == ["k0", "k1", "k2"]
