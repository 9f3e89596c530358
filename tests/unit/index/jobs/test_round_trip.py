"""What is exported, built from again: every key with all that it had."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from anykey.encoder.item import Item
from anykey.index import FaissIndex, StoredImage
from anykey.index.errors import LiveKeysError
from anykey.index.jobs.build import preview_build
from anykey.index.jobs.shards import read_encoder, read_shard, write_shard
from anykey.index.jobs.transfer import export_faiss, export_shards
from anykey.index.key_index import NewKey
from anykey.sources.errors import SourceError
from tests.factories import BLUE, GREEN, RED, build_settings, build_with, image_bytes, mixed_corpus, write_jsonl
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.live_index import everything

NUM_KEYS = 9


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An index of a corpus, with keys that were stored live: several images, names and values of all kinds."""
    build_with(mixed_corpus(tmp_path / "corpus", NUM_KEYS), tmp_path / "source")
    images = [
        StoredImage(image_bytes(colour, image_format=kind), media)
        for colour, kind, media in (
            (RED, "PNG", "image/png"),
            (GREEN, "JPEG", "image/jpeg"),
            (BLUE, "WEBP", "image/webp"),
        )
    ]
    metadata: dict[str, Any] = {
        "vector": [1.5, None],
        "crc32": 3,
        "name": 'Zoë \0 "x"',
        "nested": {"a": [True, {}]},
        "text": "t",
        "big": 2**60,
        "small": -1e-300,
        "date": "2026-01-01T00:00:00+00:00",
        "images": [],
    }
    vector_D = FakeEncoder().encode([Item("some words")])[0]
    live = [
        NewKey("live/1 ü", vector_D, " two\nlines \0 ", tuple(images), metadata, ('p "q"', "even", "ü")),
        NewKey("live 2", vector_D, None, (images[0], images[0])),
        NewKey("007", vector_D, "text only"),
    ]
    with FaissIndex.open(tmp_path / "source", writable=True) as index:
        index.upsert(live)
    return tmp_path / "source"


def exported(index_dir: Path, shard_keys: int = 5) -> Path:
    output = index_dir.with_name("exported")
    export_shards(index_dir, output, lambda count: None, shard_keys)
    return output


def same(first: Path, second: Path) -> None:
    assert everything(first) == everything(second)
    with FaissIndex.open(first) as one, FaissIndex.open(second) as other:
        assert one.info().pools == other.info().pools
        assert one.encoder == other.encoder


def test_exported_parquet_gives_the_same_keys_without_embedding(source: Path, tmp_path: Path) -> None:
    encoder = FakeEncoder()

    report = build_with(f"{exported(source)}/*.parquet", tmp_path / "built", encoder)

    assert (encoder.batches, report.num_taken, report.bad_rows) == ([], NUM_KEYS + 3, [])
    same(source, tmp_path / "built")
    again = build_with(f"{tmp_path / 'exported'}/*.parquet", tmp_path / "built", encoder)
    assert (again.is_new, encoder.batches) == (False, [])


def test_another_encoder_embeds_what_was_exported(source: Path, tmp_path: Path) -> None:
    encoder = FakeEncoder("another")

    report = build_with(f"{exported(source)}/*.parquet", tmp_path / "built", encoder)

    assert (sum(encoder.batches), report.num_taken) == (NUM_KEYS + 3, 0)
    assert everything_but_vectors(source) == everything_but_vectors(tmp_path / "built")


def everything_but_vectors(index_dir: Path) -> dict[str, Any]:
    return {key: (stored, images) for key, (stored, _, images) in everything(index_dir).items()}


def test_keys_stored_live_by_another_encoder_are_not_lost_where_the_corpus_has_them(
    source: Path, tmp_path: Path
) -> None:
    before = everything_but_vectors(source)
    shards, encoder = exported(source), FakeEncoder("another")
    with pytest.raises(LiveKeysError, match=r"3 keys .*stored live, by another encoder.*reembed"):
        build_with(tmp_path / "corpus" / "corpus.jsonl", source, encoder)

    report = build_with(f"{shards}/*.parquet", source, encoder)

    assert report.num_embedded == NUM_KEYS + 3
    assert everything_but_vectors(source) == before


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_images_that_are_referred_to_are_embedded_as_they_are_now(tmp_path: Path, images: str) -> None:
    corpus = mixed_corpus(tmp_path / "corpus", NUM_KEYS)
    build_with(corpus, tmp_path / "source", images="reference")
    shards = exported(tmp_path / "source")
    (tmp_path / "corpus" / "images" / "1.png").write_bytes(image_bytes(GREEN))
    build_with(corpus, tmp_path / "fresh", images=images)
    encoder = FakeEncoder()

    roots = [str(tmp_path / "corpus")] if images == "reference" else []
    report = build_with(f"{shards}/*.parquet", tmp_path / "built", encoder, images=images, image_root=roots)

    assert (sum(encoder.batches), report.num_taken) == (6, 3)
    assert everything(tmp_path / "built") == everything(tmp_path / "fresh")


def rewrite(shard: Path, table: pa.Table, **facts: bytes | None) -> None:
    """Writes other rows into a shard, or says other things in its footer."""
    said = {**pq.read_metadata(shard).metadata, **{f"anykey.{name}".encode(): fact for name, fact in facts.items()}}
    kept = {name: value for name, value in said.items() if value is not None and name != b"ARROW:schema"}
    pq.write_table(table.replace_schema_metadata(kept), shard)


def stop_build(source: Path, output: Path) -> list[Path]:
    """Begins to build an index from what another exports, and is stopped; gives what is exported."""
    export_shards(source, source.with_name("shards"), lambda count: None)
    source.with_name("bad.png").write_bytes(b"no image")
    bad = write_jsonl(source.with_name("bad.jsonl"), [{"key": "bad", "image": "bad.png"}])
    shards = sorted(source.with_name("shards").glob("*.parquet"))
    with pytest.raises(SourceError):
        build_with([*shards, bad], output, strict=True)
    return shards


def test_a_stopped_build_of_vectors_that_were_taken_is_gone_on_from(source: Path, tmp_path: Path) -> None:
    report = build_with(stop_build(source, tmp_path / "i"), tmp_path / "i")

    assert everything(tmp_path / "i").keys() == everything(source).keys()
    assert report.manifest.encoder.name == "fake"


@pytest.mark.parametrize("is_wide_first", [False, True])
@pytest.mark.parametrize("has_index", [False, True])
def test_shards_that_say_different_things_of_one_encoder_are_refused_before_anything_is_changed(
    source: Path, tmp_path: Path, is_wide_first: bool, has_index: bool
) -> None:
    (shard,) = exported(source, 100).iterdir()
    (first,) = next(read_shard(str(shard)))[:1]
    other = tmp_path / ("a.parquet" if is_wide_first else "z.parquet")
    wide = replace(first, key="wide", images=(), text="wide", vector_D=np.repeat(first.vector_D, 2) / np.sqrt(2))
    encoder = read_encoder(str(shard)).model_copy(update={"width": 16})
    write_shard(str(other), [wide], encoder, "float32")
    if has_index:
        build_with(tmp_path / "corpus" / "corpus.jsonl", tmp_path / "i")
    before = {path: path.read_bytes() for path in (tmp_path / "i").rglob("*") if path.is_file()}
    pair = [other, shard] if is_wide_first else [shard, other]

    said = (
        rf"{pair[0]} and {pair[1]} have vectors of the encoder sha256:.* its width is .* by the one and .* leave it out"
    )
    with pytest.raises(SourceError, match=said):
        preview_build(build_settings(pair, tmp_path / "i"), FakeEncoderSource(), Console(quiet=True))
    with pytest.raises(SourceError, match=said):
        build_with(pair, tmp_path / "i")

    after = {path: path.read_bytes() for path in (tmp_path / "i").rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == {path: data for path, data in before.items() if path.name != ".lock"}


def test_a_damaged_row_may_be_any_keys_so_that_none_goes(source: Path, tmp_path: Path) -> None:
    (shard,) = exported(source, 100).iterdir()
    build_with(shard, tmp_path / "built")
    table = pq.read_table(shard)
    texts = table["text"].to_pylist()
    texts[texts.index("text only")] = "text onlx"
    rewrite(shard, table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts, pa.string())))

    report = build_with(shard, tmp_path / "built")

    assert [row.reason for row in report.bad_rows] == ["its checksum differs from its content"]
    assert report.is_any_unread
    same(source, tmp_path / "built")


def test_shards_without_checksums_by_another_tool_are_read_too(source: Path, tmp_path: Path) -> None:
    (shard,) = exported(source, 100).iterdir()
    rewrite(shard, pq.read_table(shard).drop_columns(["crc32"]), crc32=None)

    build_with(shard, tmp_path / "built")

    same(source, tmp_path / "built")


def test_a_shard_that_says_anything_else_of_itself_is_refused(source: Path, tmp_path: Path) -> None:
    (shard,) = exported(source, 100).iterdir()
    table = pq.read_table(shard)
    rewrite(shard, table, encoder=b"{}")
    with pytest.raises(SourceError, match="what it says of its encoder is damaged"):
        build_with(shard, tmp_path / "built")
    rewrite(shard, table.drop_columns(["images", "crc32"]), crc32=None)
    with pytest.raises(SourceError, match="expected what `export` writes, found no column images"):
        build_with(shard, tmp_path / "built")


def test_faiss_export_gives_the_same_keys_and_vectors(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    export_faiss(source, output, lambda count: None)
    shutil.move(output, tmp_path / "moved")

    build_with(tmp_path / "moved" / "keys.jsonl", tmp_path / "built")
    with FaissIndex.open(source) as index:
        live = {name: index.vector(name).tobytes() for name in ("live/1 ü", "live 2", "007")}

    expected, found = everything(source), everything(tmp_path / "built")
    assert expected.keys() == found.keys()
    for key, (stored, vector, images) in expected.items():
        assert (stored, images) == (found[key][0], found[key][2])
        assert vector == found[key][1] or live[key] == vector  # which were not embedded from their content
    lines = (tmp_path / "moved" / "keys.jsonl").read_text().splitlines()
    assert len(lines) == NUM_KEYS + 3
    assert json.loads(lines[-1])["key"] == "007"
