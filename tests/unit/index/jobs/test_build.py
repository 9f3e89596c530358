"""Builds: what is embedded, what is kept, what is skipped, and what a reader gets to see."""

import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from anykey.encoder.errors import CheckpointNotFoundError
from anykey.encoder.images import ImageLimits
from anykey.encoder.item import Item
from anykey.index import FaissIndex, StoredImage, StoredKey
from anykey.index.errors import (
    IndexCorruptError,
    IndexLockedError,
    InvalidStructureError,
    LiveKeysError,
    UnusableOptionError,
)
from anykey.index.jobs.build import build_index
from anykey.index.key_index import Scope
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, publish_next
from anykey.index.store.manifest import EncoderFacts, FoldOptions
from anykey.index.store.store import Store
from anykey.sources.errors import InvalidRowError, SourceError
from tests.factories import BLUE, GREEN, RED, build_settings, build_with, image_bytes, mixed_corpus, write_jsonl
from tests.fakes import FakeEncoder, FakeEncoderSource, FakePrepared
from tests.full_disk import no_file_beyond
from tests.killed_once import killed_once
from tests.pictures import encoded, huge_png, plain

NUM_WITH_IMAGES = 6  # of the keys of `mixed_corpus`


@dataclass(frozen=True)
class Content:
    """Everything a reader can learn of one key."""

    vector: bytes
    stored: StoredKey
    images: list[StoredImage]


def keys_of(output: Path) -> list[str]:
    """All keys by name."""
    with FaissIndex.open(output) as index:
        return [stored.key for stored in index.scan()]


def contents(output: Path) -> list[Content]:
    """Everything that a reader sees, by name; every key is found by its own vector."""
    found = []
    with FaissIndex.open(output) as index:
        for stored in index.scan():
            vector_D = index.vector(stored.key)
            (hits,) = index.search(vector_D[None], 1, Scope(within=[stored.key]), exact=True)
            assert [(hit.key, hit.payload) for hit in hits] == [(stored.key, stored.payload)]
            assert hits[0].score == pytest.approx(1, abs=1e-6)
            images = [index.image(stored.key, position) for position in range(stored.payload.num_images)]
            found.append(Content(vector_D.tobytes(), stored, images))
        assert len(found) == index.count()
    return found


def order_of_ties(output: Path, words: str) -> list[str]:
    """The keys with these words as their text, in the order in which a search gives them."""
    with FaissIndex.open(output) as index:
        (hits,) = index.search(FakeEncoder().encode([Item(words)]), 100, exact=True)
    return [hit.key for hit in hits if hit.payload.text == words]


def edit(corpus: Path, **changes: object) -> None:
    """Changes the corpus row whose key is `key`."""
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    for row in rows:
        if row["key"] == changes["key"]:
            row.update(changes)
    write_jsonl(corpus, rows)


def test_vectors_payload_pools_and_images_arrive(tmp_path: Path) -> None:
    (tmp_path / "g.png").write_bytes(image_bytes(GREEN))
    rows = [
        {"key": "t", "text": "two words", "metadata": {"price": 1.5}},
        {"key": "f", "text": "a", "image": ["g.png", "g.png"], "pool": "shop"},
    ]
    encoder = FakeEncoder()

    report = build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i", encoder)

    assert (report.is_new, report.num_embedded, report.bad_rows) == (True, 2, [])
    fused, text = contents(tmp_path / "i")
    assert text.vector == encoder.encode([Item("two words")])[0].tobytes()
    assert (text.stored.key, text.stored.payload.metadata) == ("t", {"price": 1.5})
    assert (fused.stored.key, fused.stored.pools) == ("f", ("shop",))
    assert fused.images == [StoredImage(image_bytes(GREEN), "image/png")] * 2


def test_manifest_tells_what_made_the_version(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 9)

    manifest = build_with(corpus, tmp_path / "i", batch_size=4).manifest

    assert manifest.encoder.fingerprint == FakeEncoder().fingerprint
    assert (manifest.encoder.width, manifest.encoder.fusion, manifest.encoder.name) == (8, "raw", "fake")
    assert manifest.encoder.computed_in == ["fp32 by torch on cpu"]
    assert (manifest.num_keys, manifest.seq, manifest.num_bad_rows) == (9, 9, 0)
    assert manifest.modalities == {"text": 3, "image": 3, "fused": 3}
    assert manifest.pools == {"even": 5, "odd": 4}
    assert manifest.corpus == [str(corpus)]
    assert manifest.settings["batch_size"] == 4
    assert sorted(manifest.files) == ["bad_rows.jsonl", "fields.sqlite", "rows.npy", "vectors.faiss"]
    assert set(manifest.libraries) == {"faiss", "numpy", "python", "sqlite"}


def test_bad_rows_are_skipped_counted_and_listed_with_place_and_reason(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "cut.png").write_bytes(image_bytes()[:40])
    rows = [
        {"key": "good", "text": "x"},
        {"text": "no key"},
        {"key": "good", "text": "again"},
        {"key": "text-file", "image": "text.jpg"},
        {"key": "truncated", "image": "cut.png"},
        {"key": "missing", "image": "missing.jpg"},
        "{",
    ]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)

    report = build_with(corpus, tmp_path / "i")

    reasons = [
        (row.where.rpartition(":")[2], row.reason.split(":")[0].split("(")[0].strip()) for row in report.bad_rows
    ]
    assert [line for line, _ in reasons] == ["2", "3", "4", "5", "6", "7"]
    assert reasons[0][1] == "no key"
    assert report.bad_rows[1].reason == f"duplicate key 'good', first at {corpus}:1"
    assert "text.jpg" in report.bad_rows[2].reason
    assert "cut.png" in report.bad_rows[3].reason
    assert "missing.jpg" in report.bad_rows[4].reason
    assert report.manifest.num_bad_rows == 6
    assert keys_of(tmp_path / "i") == ["good"]


@pytest.mark.parametrize(
    "bad_row", [{"text": "no key"}, {"key": "a", "image": "bad.png"}, {"key": "good", "text": "x"}]
)
def test_strict_fails_at_the_first_bad_row_and_publishes_nothing(tmp_path: Path, bad_row: dict[str, str]) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "good", "text": "x"}, bad_row])

    for _ in range(2):  # the second time, the store remembers the refusal
        with pytest.raises(InvalidRowError, match=r"c\.jsonl:2: "):
            build_with(corpus, tmp_path / "i", strict=True)
    assert WritableDirectory(tmp_path / "i").current() is None


def test_corpus_without_a_usable_row_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")

    for rows in ([], [{"text": "no key"}], [{"key": "k", "image": "bad.png"}]):
        corpus = write_jsonl(tmp_path / "c.jsonl", rows)
        with pytest.raises(SourceError, match=f"nothing to index in .*no usable row, {len(rows)} bad rows"):
            build_with(corpus, tmp_path / "i")


def test_unchanged_corpus_publishes_nothing_and_loads_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    corpus = mixed_corpus(tmp_path)
    with corpus.open("a") as file:
        file.write('{"key": "bad", "image": "bad.png"}\n{"text": "no key"}\n')
    build_with(corpus, tmp_path / "i")
    source = FakeEncoderSource()

    report = build_index(build_settings(corpus, tmp_path / "i"), source, Console(quiet=True))

    assert (report.is_new, report.num_embedded, report.manifest.version) == (False, 0, "1")
    assert len(report.bad_rows) == 2
    assert source.num_loads == 0
    assert not (tmp_path / "i" / "building").exists()


def test_touched_images_are_compared_by_content(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    for image in (tmp_path / "images").iterdir():
        os.utime(image, ns=(1, 1))
    source = FakeEncoderSource()

    report = build_index(build_settings(corpus, tmp_path / "i"), source, Console(quiet=True))

    assert (report.is_new, source.num_loads) == (False, 0)


def test_only_changed_and_new_rows_are_embedded(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    edit(corpus, key="key-0", text="entirely new words")
    (tmp_path / "images" / "4.png").write_bytes(image_bytes(BLUE, 16))
    with corpus.open("a") as file:
        file.write('{"key": "key-new", "text": "one more"}\n')
    encoder = FakeEncoder()

    report = build_with(corpus, tmp_path / "i", encoder)

    assert (report.is_new, report.num_embedded, sum(encoder.batches)) == (True, 3, 3)
    assert report.manifest.version == "2"
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_changed_metadata_and_pools_are_stored_without_embedding(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    edit(corpus, key="key-1", metadata={"new": True}, pool="third")
    encoder = FakeEncoder()

    report = build_with(corpus, tmp_path / "i", encoder)

    assert (report.is_new, encoder.batches) == (True, [])
    assert (report.manifest.seq, report.manifest.pools) == (10, {"even": 5, "odd": 3, "third": 1})
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_removed_rows_are_followed_without_embedding(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[2:]))
    encoder = FakeEncoder()

    build_with(corpus, tmp_path / "i", encoder)

    assert encoder.batches == []
    assert keys_of(tmp_path / "i") == [f"key-{number}" for number in range(2, 9)]
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_corpus_that_was_only_reordered_is_up_to_date(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    corpus.write_text("".join(reversed(corpus.read_text().splitlines(keepends=True))))

    assert not build_with(corpus, tmp_path / "i").is_new


def test_equal_scores_come_by_the_time_of_the_last_change(tmp_path: Path) -> None:
    rows = [{"key": key, "text": "one two"} for key in "dbac"]
    build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i")
    assert order_of_ties(tmp_path / "i", "one two") == ["d", "b", "a", "c"]

    rows = [{"key": "new", "text": "one two"}, *rows[::-1]]
    build_with(write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i")
    edit(tmp_path / "c.jsonl", key="b", metadata={"changed": True})
    build_with(tmp_path / "c.jsonl", tmp_path / "i")

    assert order_of_ties(tmp_path / "i", "one two") == ["d", "a", "c", "new", "b"]


def test_key_whose_image_went_bad_leaves_the_index(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    (tmp_path / "images" / "1.png").write_text("no picture any more")

    report = build_with(corpus, tmp_path / "i")

    assert ([row.key for row in report.bad_rows], report.num_unreachable) == (["key-1"], 0)
    assert "key-1" not in keys_of(tmp_path / "i")


def test_refused_image_is_tried_again_when_it_or_the_limits_change(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "t", "text": "x"}, {"key": "i", "image": "i.png"}])
    (tmp_path / "i.png").write_bytes(b"broken")
    assert len(build_with(corpus, tmp_path / "i").bad_rows) == 1

    assert build_with(corpus, tmp_path / "i", max_image_pixels=10**6).manifest.num_keys == 1
    (tmp_path / "i.png").write_bytes(image_bytes())
    report = build_with(corpus, tmp_path / "i")

    assert (report.bad_rows, report.num_embedded, keys_of(tmp_path / "i")) == ([], 1, ["i", "t"])


def test_a_thin_image_is_one_bad_row_and_is_tried_again_under_another_limit(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(huge_png(300, 1))
    report = build_with(corpus, tmp_path / "i")
    assert [row.key for row in report.bad_rows] == ["key-1"]
    assert "300 x 1 pixels; the longer side may be at most 200 times the shorter" in report.bad_rows[0].reason
    assert report.manifest.num_keys == 8
    wider = FakeEncoder(limits=ImageLimits(max_aspect=300))
    assert build_with(corpus, tmp_path / "i", wider, max_image_aspect=300).manifest.num_keys == 9


@pytest.mark.parametrize(("image_format", "media_type"), [("AVIF", "image/avif"), ("TIFF", "image/tiff")])
def test_the_type_of_an_image_is_told_from_what_decodes_it(tmp_path: Path, image_format: str, media_type: str) -> None:
    odd = {"AVIF": (b"ftypavif", b"ftypmif1"), "TIFF": (b"", b"")}[image_format]
    options = {"big_tiff": True} if image_format == "TIFF" else {}
    (tmp_path / "a.img").write_bytes(encoded(plain(RED), image_format, **options).replace(*odd, 1))
    build_with(write_jsonl(tmp_path / "c.jsonl", [{"key": "a", "image": "a.img"}]), tmp_path / "i")
    with FaissIndex.open(tmp_path / "i") as index:
        assert index.image("a").media_type == media_type


def test_vector_type_is_for_new_indexes(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(), batch_size=2)
    build_with(corpus, tmp_path / "i", vectors="float16")

    with pytest.raises(UnusableOptionError, match=r"--vectors float32: .*/i keeps vectors as float16"):
        build_with(corpus, tmp_path / "i", vectors="float32")
    assert not build_with(corpus, tmp_path / "i").is_new
    assert not build_with(corpus, tmp_path / "i", vectors="float16").is_new
    with FaissIndex.open(tmp_path / "i") as index:
        assert index.info().details["vectors"] == "float16"


def test_manifest_names_every_precision_that_vectors_were_computed_in(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    edit(corpus, key="key-0", text="entirely new words")

    manifest = build_with(corpus, tmp_path / "i", FakeEncoder(precision="bf16")).manifest

    assert manifest.encoder.computed_in == ["bf16 by torch on cpu", "fp32 by torch on cpu"]


def test_without_a_checkpoint_nothing_is_read_or_left_behind(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "no key, which strict would refuse"}])

    with pytest.raises(CheckpointNotFoundError, match="no checkpoint 'unused'"):
        build_index(build_settings(corpus, tmp_path / "new" / "i", strict=True), console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == [corpus]


def test_another_encoder_starts_over(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    other = FakeEncoder(name="other")

    report = build_with(corpus, tmp_path / "i", other)

    assert (report.is_new, sum(other.batches), report.manifest.encoder.name) == (True, 9, "other")


def test_work_of_a_stopped_build_with_another_encoder_is_not_used(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(name="other"), batch_size=2)
    encoder = FakeEncoder()

    build_with(corpus, tmp_path / "i", encoder)

    assert sum(encoder.batches) == 9


def test_stopped_build_goes_on_without_embedding_twice(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    stopping, encoder = _StoppingEncoder(), FakeEncoder()
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", stopping, batch_size=2)
    edit(corpus, key="key-8", text="changed meanwhile")

    report = build_with(corpus, tmp_path / "i", encoder, batch_size=2)

    assert (sum(stopping.batches), report.num_embedded) == (4, 5)
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (None, "file is not a database"),
        ("CREATE TABLE keys (key)", "expected a store of schema 2"),
        ("CREATE TABLE keys (key); PRAGMA user_version = 2", "expected a store of schema 2"),
    ],
)
def test_store_that_nobody_can_read_is_not_taken_for_one_that_is_being_filled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, statements: str | None, reason: str
) -> None:
    corpus = mixed_corpus(tmp_path)
    (tmp_path / "i" / "stores" / "1").mkdir(parents=True)
    store = tmp_path / "i" / "stores" / "1" / "store.sqlite"
    if statements is None:
        store.write_bytes(b"no database" * 100)
    else:
        with closing(sqlite3.connect(store)) as db:
            db.executescript(f"PRAGMA user_version = 1; {statements}")

    with pytest.raises(LiveKeysError, match=f"{store} is damaged: {reason}.*--anew"):
        build_with(corpus, tmp_path / "i")
    assert build_with(corpus, tmp_path / "i", anew=True).num_embedded == 9


def test_what_was_staged_and_is_damaged_is_started_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = mixed_corpus(tmp_path)
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(), batch_size=2)
    with closing(sqlite3.connect(tmp_path / "i" / "stores" / "1" / "store.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 2")

    assert build_with(corpus, tmp_path / "i").num_embedded == 9
    assert "differs from its checksum" in caplog.text
    assert "starting over" in caplog.text


def test_key_whose_image_cannot_be_read_any_more_stays_as_it_is_published_and_not_as_it_was_staged(
    tmp_path: Path,
) -> None:
    corpus, picture = mixed_corpus(tmp_path), tmp_path / "images" / "8.png"
    build_with(corpus, tmp_path / "i")
    rows = [{**json.loads(line), "text": "first"} for line in corpus.read_text().splitlines()]
    write_jsonl(corpus, reversed(rows))
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(), batch_size=2)

    class LosingEncoder(FakeEncoder):
        def encode_prepared(self, prepared: Sequence[FakePrepared]) -> NDArray[np.float32]:
            picture.unlink(missing_ok=True)
            return super().encode_prepared(prepared)

    write_jsonl(corpus, [{**row, "text": "second"} for row in rows])
    report = build_with(corpus, tmp_path / "i", LosingEncoder(), batch_size=1)

    assert [row.key for row in report.bad_rows] == ["key-8"]
    with FaissIndex.open(tmp_path / "i") as index:
        texts = {stored.key: stored.payload.text for stored in index.scan()}
    assert texts == {**{f"key-{n}": "second" for n in range(8)}, "key-8": "ww www wwww wwwww"}


def ruin(store: Path, table: str) -> None:
    """Overwrites the first page of a table, so that SQLite can no longer read it."""
    with closing(sqlite3.connect(store, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with store.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"?" * page_bytes)


def test_store_of_a_stopped_first_build_that_is_damaged_is_started_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, store = mixed_corpus(tmp_path), tmp_path / "i" / "stores" / "1" / "store.sqlite"
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(), batch_size=2)
    ruin(store, "vectors")

    assert build_with(corpus, tmp_path / "i").num_embedded == 9
    assert "is damaged: database disk image is malformed; starting over" in caplog.text


@pytest.mark.parametrize(("num_published", "table"), [(0, "keys"), (4, "staged")])
def test_damage_of_a_store_that_is_met_late_is_named_and_left_behind_with_anew(
    tmp_path: Path, num_published: int, table: str
) -> None:
    corpus, store = mixed_corpus(tmp_path), tmp_path / "i" / "stores" / "1" / "store.sqlite"
    if num_published:
        build_with(mixed_corpus(tmp_path / "first", num_published), tmp_path / "i")
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(), batch_size=2)
    ruin(store, table)

    with pytest.raises(IndexCorruptError, match=f"{store} is damaged"):
        build_with(corpus, tmp_path / "i")
    assert build_with(corpus, tmp_path / "i", anew=True).num_embedded == 9


def test_killed_first_build_leaves_no_version_behind_that_nobody_published(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    killed_once(tmp_path / "i" / "versions" / "1", build_with, corpus, tmp_path / "i")
    assert WritableDirectory(tmp_path / "i").names() == ["1"]
    edit(corpus, key="key-0", text="another")

    assert build_with(corpus, tmp_path / "i").num_embedded == 1
    assert WritableDirectory(tmp_path / "i").names() == ["1"]
    assert len(keys_of(tmp_path / "i")) == 9


def test_build_goes_on_from_an_index_without_keys_of_an_earlier_release(tmp_path: Path) -> None:
    corpus, source = mixed_corpus(tmp_path), FakeEncoderSource()
    directory = WritableDirectory(tmp_path / "i")
    path = directory.begin_store()
    with closing(Store(path)) as store:  # published without a change of it
        encoder = EncoderFacts(name="n", fingerprint=source.fingerprint(), width=source.width(), fusion="raw")
        store.note_encoder(encoder)
    publish_next(directory, path, Provenance(), FoldOptions())

    assert build_with(corpus, tmp_path / "i", source.encoder).manifest.num_keys == 9
    assert len(keys_of(tmp_path / "i")) == 9
    assert (directory.store_names(), directory.names()) == (["1"], ["1", "2"])


def test_what_a_stopped_build_with_another_encoder_left_goes_when_all_is_up_to_date(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(name="other"), batch_size=2)
    assert WritableDirectory(tmp_path / "i").unfinished_store_names() == ["2"]

    assert not build_with(corpus, tmp_path / "i").is_new
    assert os.listdir(tmp_path / "i" / "stores") == ["1"]


def test_work_that_an_earlier_release_was_stopped_in_is_started_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "i" / "building").mkdir(parents=True)
    (tmp_path / "i" / "building" / "store.sqlite").write_bytes(b"of an earlier release")

    assert build_with(mixed_corpus(tmp_path), tmp_path / "i").num_embedded == 9
    assert "building is what a build of an earlier release was stopped in; starting over" in caplog.text
    assert not (tmp_path / "i" / "building").exists()


def test_stopped_build_that_kept_other_vectors_is_said_to_start_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = mixed_corpus(tmp_path)
    with pytest.raises(_Stop):
        build_with(corpus, tmp_path / "i", _StoppingEncoder(), batch_size=2)

    report = build_with(corpus, tmp_path / "i", batch_size=2, vectors="float16")

    assert report.num_embedded == 9
    assert "holds 4 keys that a stopped build embedded" in caplog.text


def test_plan_without_room_is_named(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)

    with no_file_beyond(10_000), pytest.raises(OSError, match=r"cannot read or write .*i/plan\.sqlite: "):
        build_with(corpus, tmp_path / "i")

    assert not (tmp_path / "i" / "plan.sqlite").exists()
    assert build_with(corpus, tmp_path / "i").manifest.num_keys == 9


@pytest.mark.parametrize("size_bytes", [60_000, 100_000, 200_000])
def test_work_in_progress_without_room_is_named_and_gone_on_with(tmp_path: Path, size_bytes: int) -> None:
    corpus = mixed_corpus(tmp_path)

    with no_file_beyond(size_bytes), pytest.raises(OSError, match=r"cannot read or write .*stores/1/store\.sqlite: "):
        build_with(corpus, tmp_path / "i")

    assert build_with(corpus, tmp_path / "i").manifest.num_keys == 9


def test_file_in_the_place_of_an_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "i").write_text("mine")

    with pytest.raises(NotADirectoryError, match=r"expected a folder for an index, found a file: '.*i'"):
        build_with(mixed_corpus(tmp_path), tmp_path / "i")

    assert (tmp_path / "i").read_text() == "mine"


def test_damaged_faiss_file_is_rebuilt_from_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = mixed_corpus(tmp_path)
    (build_with(corpus, tmp_path / "i").version_dir / "vectors.faiss").write_bytes(b"x")
    encoder = FakeEncoder()

    report = build_with(corpus, tmp_path / "i", encoder)

    assert (report.is_new, report.manifest.version, encoder.batches) == (True, "2", [])
    assert "vectors.faiss is damaged" in caplog.text


def test_images_can_be_referred_to_and_copied_later(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    referring = build_with(corpus, tmp_path / "i", images="reference")
    encoder = FakeEncoder()

    copying = build_with(corpus, tmp_path / "i", encoder)

    assert encoder.batches == []
    assert referring.is_new
    assert copying.is_new
    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_images_are_shown_of_a_first_build_that_was_killed_right_after_publishing(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 3)
    killed_once(tmp_path / "i" / "CURRENT", partial(build_with, images="reference"), corpus, tmp_path / "i")

    with FaissIndex.open(tmp_path / "i") as index:
        assert index.image("key-1").data == (tmp_path / "c" / "images" / "1.png").read_bytes()


def test_copied_index_can_be_moved_without_its_corpus(tmp_path: Path) -> None:
    build_with(mixed_corpus(tmp_path / "corpus"), tmp_path / "i")
    before = contents(tmp_path / "i")
    shutil.rmtree(tmp_path / "corpus")
    (tmp_path / "i").rename(tmp_path / "moved")

    assert contents(tmp_path / "moved") == before


def test_second_builder_is_refused(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)

    refused = pytest.raises(IndexLockedError, match=f"is being written by process {os.getpid()}")
    with WritableDirectory(tmp_path / "i").locked_for_writing("build"), refused:
        build_with(corpus, tmp_path / "i")
    assert build_with(corpus, tmp_path / "i").is_new


def test_mbeir_dataset_is_built_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mbeir_images").mkdir()
    (tmp_path / "mbeir_images" / "1.png").write_bytes(image_bytes())
    shared = {"did": "9:1", "txt": None, "img_path": "mbeir_images/1.png", "modality": "image", "src_content": None}
    local = tmp_path / "cand_pool" / "local"
    write_jsonl(local / "mbeir_x_task0_cand_pool.jsonl", [shared])
    write_jsonl(local / "mbeir_x_task1_cand_pool.jsonl", [{"did": "9:2", "txt": "t", "modality": "text"}, shared])

    report = build_with(tmp_path, tmp_path / "i")

    assert report.bad_rows == []
    assert report.manifest.pools == {"mbeir_x_task0": 1, "mbeir_x_task1": 2}
    assert keys_of(tmp_path / "i") == ["9:1", "9:2"]


@pytest.mark.parametrize("vectors", ["float32", "float16"])
def test_vectors_are_kept_as_asked_for(tmp_path: Path, vectors: str) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i", vectors=vectors)
    dtype = np.dtype(vectors)
    with FaissIndex.open(tmp_path / "i") as index:
        for stored in index.scan():
            vector_D = index.vector(stored.key)
            assert (vector_D == vector_D.astype(dtype)).all()
        expected = FakeEncoder().encode([Item(index.get("key-0").payload.text)])[0]
        assert index.vector("key-0") == pytest.approx(expected, abs=1e-6 if vectors == "float32" else 1e-3)


class _Stop(BaseException):
    """Ends a build as a signal would."""


class _StoppingEncoder(FakeEncoder):
    """Embeds two batches and is stopped in the third."""

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        if len(self.batches) == 2:
            raise _Stop
        return super().encode_prepared(prepared)


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_keys_whose_images_cannot_be_read_now_stay_as_they_were(tmp_path: Path, images: str) -> None:
    corpus = mixed_corpus(tmp_path)
    before = build_with(corpus, tmp_path / "i", images=images).manifest
    (tmp_path / "images").rename(tmp_path / "away")

    report = build_with(corpus, tmp_path / "i", images=images)

    assert report.manifest.num_keys == before.num_keys
    assert report.num_unreachable == len(report.bad_rows) == NUM_WITH_IMAGES
    again = build_with(corpus, tmp_path / "i", images=images)
    assert (again.is_new, again.num_unreachable) == (False, report.num_unreachable)

    (tmp_path / "away").rename(tmp_path / "images")
    report = build_with(corpus, tmp_path / "i", images=images)
    assert (report.bad_rows, report.num_unreachable, report.num_embedded) == ([], 0, 0)

    corpus.write_text("".join(line for line in corpus.read_text().splitlines(True) if '"image"' not in line))
    assert build_with(corpus, tmp_path / "i", images=images).manifest.num_keys == before.num_keys - NUM_WITH_IMAGES


def test_impossible_structure_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    source = FakeEncoderSource()
    settings = build_settings(mixed_corpus(tmp_path, 9), tmp_path / "i", structure="IVF4,PQ7")

    with pytest.raises(InvalidStructureError, match="'IVF4,PQ7'"):
        build_index(settings, source, Console(quiet=True))

    assert source.num_loads == 0
    assert not (tmp_path / "i").exists()


def test_structure_that_lacks_keys_to_train_on_gives_way_to_exact_search(tmp_path: Path) -> None:
    structure = build_with(mixed_corpus(tmp_path, 9), tmp_path / "i", structure="IVF64,Flat").manifest.structure
    assert structure is not None
    assert structure.is_exact
    assert structure.instead_of is not None
    assert structure.instead_of.factory == "IVF64,Flat"
