"""Damage of what `export` wrote, read as a corpus, ends in a bad row."""

from pathlib import Path

from pyarrow import parquet

from index.building.transfer import export_shards
from index.errors import UnreadableStretchError
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
