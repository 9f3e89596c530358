"""Staging: what a build has embedded lies in the store, is seen by nobody, and becomes live all at once."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anykey.encoder.item import Modality
from anykey.index.errors import IndexCorruptError, KeyCorruptError
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.records import NewImage, Record
from anykey.index.store.store import Store
from anykey.index.store.store_reader import StoreReader
from anykey.index.store.store_records import BuildFacts, Known, Refusal

ENCODER = EncoderFacts(name="n", fingerprint="sha256:0", width=4, fusion="raw", computed_in=["fp32 on cpu"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.sqlite")
    store.note_encoder(ENCODER)
    store.staging.begin("sha256:0")
    store.staging.note_encoder(ENCODER)
    yield store
    store.close()


def record(key: str, value: float = 0.5, text: str = "text", is_live: bool = False) -> Record:
    images = (NewImage("image/png", None, b"png of " + text.encode()),)
    built = None if is_live else BuildFacts(b"p", text.encode(), ())
    return Record(key, Modality.FUSED, text, "{}", (), images, np.full(4, value, np.float32), built)


def refusal(key: str) -> Refusal:
    return Refusal(key, b"p", (), "limits", "too dark")


def live(store: Store) -> dict[str, tuple[float, str | None, bytes | None]]:
    """What a reader sees: each key's vector, text and image."""
    found = {}
    with contextlib.closing(StoreReader(store.path)) as reader, reader.transaction() as transaction:
        for key in transaction.page(None):
            vector_D = transaction.vector(key.key)
            found[key.key] = (float(vector_D[0]), key.payload.text, transaction.image(key.key, 0).data)
    return found


def rows(store: Store, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        return db.execute(query).fetchall()


def test_nobody_sees_what_is_staged_before_it_is_moved_in(store: Store) -> None:
    store.commit([record("a"), record("b", is_live=True)])
    before, seq = live(store), store.seq

    store.staging.add([record("a", 1.0, "new"), record("c", 0.25)], [refusal("d")])
    assert (live(store), store.seq) == (before, seq)
    assert store.known("d") is None

    store.move_in()
    assert live(store) == {
        "a": (1.0, "new", b"png of new"),
        "b": (0.5, "text", b"png of text"),
        "c": (0.25, "text", b"png of text"),
    }
    assert store.seq == seq + 2
    assert store.known("d") == Known(b"p", (), limits="limits", reason="too dark")
    assert (store.staging.num_keys(), store.staging.facts) == (0, None)


def test_what_was_staged_takes_numbers_in_its_order_and_ends_what_it_replaces(store: Store) -> None:
    store.commit([record("a"), record("b")])
    store.staging.add([record("z"), record("b", text="new")])
    store.staging.add([record("y")])
    store.move_in()

    with contextlib.closing(StoreReader(store.path)) as reader, reader.transaction() as transaction:
        changes = transaction.changes_since(0)
    assert {key.key: seq for key, seq in zip(changes.keys, changes.seqs_R, strict=True)} == {
        "a": 1,
        "z": 3,
        "b": 4,
        "y": 5,
    }
    assert changes.removed.tolist() == [2]


def test_vectors_and_images_are_written_once_and_go_with_what_is_dropped(store: Store) -> None:
    store.covered_seq = 0
    store.staging.add([record("a"), record("b"), record("a", text="again")])
    parts = "SELECT (SELECT count(*) FROM vectors), (SELECT count(*) FROM images)"
    assert rows(store, parts) == [(2, 2)]
    (first, _) = store.staging.ids_and_keys()

    store.staging.drop([first[0]])
    assert rows(store, parts) == [(1, 1)]
    before = rows(store, "SELECT id, vector FROM vectors")
    store.move_in()
    assert rows(store, "SELECT id, vector FROM vectors") == before
    assert list(live(store)) == ["a"]


def test_record_without_a_vector_takes_the_staged_one_or_else_the_live_one(store: Store) -> None:
    store.commit([record("a", 0.1), record("b", 0.2)])
    store.staging.add([record("a", 0.9)])
    same = [Record(key, Modality.TEXT, "t", "{}", (), (), None, BuildFacts(b"q", b"c", ())) for key in "ab"]
    store.staging.add(same)
    store.move_in()

    with contextlib.closing(StoreReader(store.path)) as reader, reader.transaction() as transaction:
        assert [round(float(transaction.vector(key)[0]), 4) for key in "ab"] == [0.9, 0.2]


def test_damaged_vector_is_not_taken_along_so_that_what_is_staged_stays_sound(store: Store) -> None:
    store.commit([record("a"), record("b")])
    store.staging.add([record("b", 0.25)])
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 1")

    with pytest.raises(KeyCorruptError, match="the vector of key 'a' differs from its checksum"):
        store.staging.add([Record("a", Modality.TEXT, "t", "{}", (), (), None, BuildFacts(b"q", b"c", ()))])
    store.staging.begin("sha256:0")
    assert [key for _, key in store.staging.ids_and_keys()] == ["b"]


def test_refused_key_that_a_build_stored_goes_and_one_that_was_stored_live_stays(store: Store) -> None:
    store.commit([record("built"), record("live", is_live=True)])
    store.staging.add([record("x")], [refusal("built"), refusal("live"), refusal("x")])
    assert not store.staging.has("x")

    store.move_in()
    assert list(live(store)) == ["live"]


def test_key_that_was_deleted_live_is_forgotten_as_deleted_when_it_is_moved_in(store: Store) -> None:
    store.commit([record("a"), record("b")])
    store.commit([], deleted=["a", "b"])
    store.staging.add([record("a")])
    assert list(store.deleted()) == ["a", "b"]

    store.move_in()
    assert list(store.deleted()) == ["b"]


def test_live_records_and_staged_ones_never_share_an_id(store: Store) -> None:
    store.staging.add([record("a"), record("b")])
    store.commit([record("live", 0.75, is_live=True)])
    store.staging.add([record("c", 0.25)])
    store.move_in()

    assert {key: value for key, (value, *_) in live(store).items()} == {"a": 0.5, "b": 0.5, "c": 0.25, "live": 0.75}


def test_next_run_goes_on_only_with_what_is_of_its_encoder_and_origin(store: Store) -> None:
    store.staging.add([record("a")])
    store.staging.begin("sha256:0")
    assert store.staging.num_keys() == 1

    store.staging.begin("sha256:0", "of a file")
    assert (store.staging.num_keys(), rows(store, "SELECT * FROM vectors")) == (0, [])
    store.staging.add([record("a")])
    store.staging.begin("sha256:1", "of a file")
    assert store.staging.num_keys() == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET vector = zeroblob(length(vector))",
        "UPDATE images SET data = x'00'",
        "UPDATE staged SET text = 'other'",
        "UPDATE staged_failures SET reason = 'other'",
    ],
)
def test_next_run_starts_over_where_what_is_staged_is_damaged(
    store: Store, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store.staging.add([record("a")], [refusal("b")])
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        db.execute(damage)

    store.staging.begin("sha256:0")
    assert (store.staging.num_keys(), rows(store, "SELECT * FROM vectors")) == (0, [])
    assert "starting over" in caplog.text


def test_damaged_staged_record_is_not_moved_in(store: Store) -> None:
    store.commit([record("a")])
    store.staging.add([record("b")])
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE staged SET text = 'other'")

    with pytest.raises(IndexCorruptError, match="the staged record of key 'b' differs from its checksum"):
        store.move_in()
    assert list(live(store)) == ["a"]
