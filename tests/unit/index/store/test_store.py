"""The store: all or nothing, one sequence number for each change, and errors that name a damaged file."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.errors import IndexCorruptError
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.records import NewImage, Record
from anykey.index.store.store import Store
from anykey.index.store.store_file import open_read_only
from anykey.index.store.store_reader import Changes, StoreReader
from anykey.index.store.store_records import BuildFacts, Known, Refusal, SeenImage, read_records
from anykey.sources.files.images import ImageStamp

ENCODER = EncoderFacts(name="n", fingerprint="sha256:0", width=4, fusion="raw")
SEEN = SeenImage(ImageStamp("/a.png", 3, "7"), "00")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.sqlite")
    store.note_encoder(ENCODER)
    yield store
    store.close()


def record(key: str, **changes: Any) -> Record:
    """A key that a build stored; `built=None` makes it one that was stored live."""
    facts = {
        "modality": Modality.FUSED,
        "text": "text",
        "metadata": '{"n": 1}',
        "pools": ("p",),
        "images": (NewImage("image/png", None, b"png"),),
        "vector_D": np.full(4, 0.5, np.float32),
        "built": BuildFacts(b"p", b"c", (SEEN,)),
    }
    return Record(key, **{**facts, **changes})


def refusal(key: str) -> Refusal:
    return Refusal(key, b"p", (SEEN,), "limits", "too dark")


def refuse(store: Store, *keys: str) -> None:
    store.staging.add([], [refusal(key) for key in keys])
    store.move_in()


def changes_since(store: Store, seq: int) -> Changes:
    with contextlib.closing(StoreReader(store.path)) as reader, reader.transaction() as transaction:
        return transaction.changes_since(seq)


def read_all(store: Store) -> None:
    with contextlib.closing(StoreReader(store.path)) as reader, reader.transaction() as transaction:
        transaction.get("a")
        transaction.image("a", 0)
        list(transaction.vectors(1))


def seqs_of(store: Store) -> dict[str, int]:
    changes = changes_since(store, 0)
    return {key.key: seq for key, seq in zip(changes.keys, changes.seqs_R.tolist(), strict=True)}


def test_each_change_takes_the_next_number(store: Store) -> None:
    assert store.seq == 0
    store.commit([record("a"), record("b"), record("c")])
    assert store.seq == 3
    assert store.commit([record("a")], gone=["c", "unknown"]) == 1
    assert store.seq == 5
    store.staging.add([record("e"), record("a")], [refusal("b"), refusal("d")])
    assert store.seq == 5
    store.move_in()
    assert store.seq == 8


def test_keys_are_known_by_the_numbers_of_their_last_changes(store: Store) -> None:
    store.commit([record("a"), record("b"), record("c")])
    store.commit([record("a")], gone=["b"])
    store.commit([record("b")])

    assert seqs_of(store) == {"c": 3, "a": 4, "b": 6}


def test_removals_name_what_went(store: Store) -> None:
    store.commit([record("a"), record("b"), record("c")])
    store.commit([record("a")], gone=["b"])

    assert changes_since(store, 0).removed.tolist() == [1, 2]
    assert changes_since(store, 4).removed.tolist() == [2]
    assert changes_since(store, 5).removed.tolist() == []


def test_only_removals_up_to_a_number_are_pruned(store: Store) -> None:
    store.commit([record("a"), record("b"), record("c")])
    store.commit([record("a")], gone=["b"])

    store.prune_removals(4)

    assert changes_since(store, 0).removed.tolist() == [2]


def test_key_that_is_stored_twice_at_once_is_as_it_came_last(store: Store) -> None:
    store.commit([record("a", text="first"), record("b"), record("a", text="last")])

    assert (store.record("a").text, seqs_of(store)) == ("last", {"b": 2, "a": 3})


def test_failed_commit_changes_nothing(store: Store) -> None:
    store.commit([record("a"), record("gone")])

    with pytest.raises(IndexCorruptError, match="NOT NULL"):
        store.commit([record("b"), record("a", text="new"), record("c", metadata=None)], gone=["gone"])

    assert (store.num_keys(), store.seq, store.record("a").text) == (2, 2, "text")
    store.commit([record("b")])
    assert (store.num_keys(), store.seq) == (3, 3)


@pytest.mark.parametrize("built", [None, BuildFacts(b"p", b"c", (SEEN, SEEN))])
def test_record_comes_back_as_it_was_stored(store: Store, built: BuildFacts | None) -> None:
    images = (NewImage("image/png", None, b"png"), NewImage("image/jpeg", "/there.jpg", None))
    stored = record(
        "\u9375 \0", text=None, metadata='{"\u00e9": "\u9375"}', pools=("p", "q"), images=images, built=built
    )

    store.commit([stored])

    found = store.record(stored.key)
    assert found.vector_D is not None
    assert found.vector_D.tolist() == [0.5] * 4
    assert {**vars(found), "vector_D": None} == {**vars(stored), "vector_D": None}


@pytest.mark.parametrize(("vector_type", "size_bytes"), [("float32", 16), ("float16", 8)])
def test_vectors_are_kept_as_the_store_was_made(tmp_path: Path, vector_type: Any, size_bytes: int) -> None:
    with contextlib.closing(Store(tmp_path / "s.sqlite", vector_type)) as store:
        store.note_encoder(ENCODER)
    with contextlib.closing(Store(tmp_path / "s.sqlite", "float32")) as store:  # as it was made, not as asked for
        store.commit([record("a")])
        assert changes_since(store, 0).vectors_RD.tolist() == [[0.5] * 4]
        assert changes_since(store, 0).vectors_RD.dtype == np.float32
    with contextlib.closing(sqlite3.connect(tmp_path / "s.sqlite")) as db:
        assert db.execute("SELECT length(vector) FROM vectors").fetchone() == (size_bytes,)


def test_known_key_is_told_with_digests_and_images(store: Store) -> None:
    store.commit([record("a"), record("live", built=None)])

    known = store.known("a")

    assert known is not None
    assert (known.payload_sha256, known.content_sha256, known.reason, known.images) == (b"p", b"c", None, (SEEN,))
    assert store.known("b") is None
    assert store.known("live") is None


def test_keys_are_told_apart_by_where_they_came_from(store: Store) -> None:
    store.commit([record("a"), record("b"), record("live", built=None)])
    store.commit([record("b", built=None)])

    assert (sorted(store.keys("corpus")), sorted(store.keys("live"))) == (["a"], ["b", "live"])
    assert (store.has("b"), store.has("c"), store.num_keys()) == (True, False, 3)


def test_refused_key_is_forgotten_and_its_reason_kept_until_it_is_stored(store: Store) -> None:
    store.commit([record("a")])

    refuse(store, "a")
    assert store.known("a") == Known(b"p", (SEEN,), limits="limits", reason="too dark")
    assert store.num_keys() == 0

    store.commit([record("a")])
    assert store.known("a") == Known(b"p", (SEEN,), content_sha256=b"c")
    assert store.num_keys() == 1


def test_key_that_was_deleted_live_is_remembered_until_it_is_stored_again(store: Store) -> None:
    store.commit([record("a"), record("b"), record("c", built=None)])

    assert store.commit([], gone=["a"], deleted=["b", "c", "d"]) == 3
    assert list(store.deleted()) == ["b", "c"]
    store.commit([record("b")])
    assert (list(store.deleted()), store.has("b"), store.has("c")) == (["c"], True, False)


def delete_and_fail(store: Store, key: str) -> None:
    """Deletes a key live in a transaction that is taken back."""
    with store.transaction():
        store.commit([], deleted=[key])
        raise IndexCorruptError(store.path, "for the test")


def test_deletion_that_is_taken_back_is_not_remembered(store: Store) -> None:
    """In a store of a release that had no table for them."""
    store.commit([record("a")])
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        db.execute("DROP TABLE deletions")
    with contextlib.closing(Store(store.path)) as older:
        assert list(older.deleted()) == []
        with pytest.raises(IndexCorruptError):
            delete_and_fail(older, "a")
        older.commit([record("b")])
        assert (list(older.deleted()), older.has("a")) == ([], True)
        older.commit([], deleted=["a"])
        assert list(older.deleted()) == ["a"]


def note_and_fail(store: Store) -> None:
    with store.transaction():
        store.note(name="another")
        store.commit([record("b", built=None)])
        raise ZeroDivisionError


def test_what_is_noted_is_as_it_was_after_a_change_that_is_taken_back(store: Store) -> None:
    store.commit([record("a", built=None)])
    with pytest.raises(ZeroDivisionError):
        note_and_fail(store)
    assert (store.meta["name"], store.meta["seq"], store.seq) == ("n", 1, 1)
    store.commit([record("c", built=None)])
    assert store.meta["seq"] == store.seq == 2


def test_what_another_connection_notes_is_told_and_so_is_damage_by_it(store: Store) -> None:
    assert store.meta["name"] == "n"
    other = sqlite3.connect(store.path, isolation_level=None)
    with contextlib.closing(other):
        other.execute("UPDATE meta SET value = 'another' WHERE name = 'name'")
    with pytest.raises(IndexCorruptError, match="differs from its checksum"):
        store.commit([record("a", built=None)])


def test_refusals_can_be_forgotten(store: Store) -> None:
    refuse(store, "a", "b")

    store.forget_refusals(["a", "c"])

    assert (store.known("a"), store.known("b")) == (None, Known(b"p", (SEEN,), limits="limits", reason="too dark"))


def test_key_without_a_new_vector_keeps_its_own(store: Store) -> None:
    vector_D = np.arange(4, dtype=np.float32)
    store.commit([record("a", vector_D=vector_D)])
    store.commit([record("a", vector_D=None, images=(), text="new")])

    found = store.record("a")
    assert (found.vector_D.tolist(), found.text, found.images) == (vector_D.tolist(), "new", ())  # type: ignore[union-attr]


def test_changes_carry_vectors_and_payload_in_the_order_of_rows(store: Store) -> None:
    vectors: dict[str, NDArray[np.float32]] = {name: np.full(4, ord(name), np.float32) for name in "abc"}
    store.commit([record(name, vector_D=vector_D) for name, vector_D in vectors.items()])
    store.commit([record("a", vector_D=vectors["a"] + 1, text="new")])

    changes = changes_since(store, 1)

    assert [(key.key, key.payload.text) for key in changes.keys] == [("b", "text"), ("c", "text"), ("a", "new")]
    assert changes.vectors_RD[:, 0].tolist() == [ord("b"), ord("c"), ord("a") + 1]
    assert (changes.seqs_R.tolist(), changes.seq) == ([2, 3, 4], 4)
    assert changes_since(store, 4).vectors_RD.shape == (0, 4)


@pytest.mark.parametrize(("covered_seq", "num_left"), [(None, 2), (2, 2), (1, 2), (0, 1)])
def test_deleted_key_takes_its_parts_along_unless_a_version_covers_it(
    store: Store, covered_seq: int | None, num_left: int
) -> None:
    store.commit([record("a"), record("b")])
    store.covered_seq = covered_seq
    store.commit([], gone=["a"])

    with contextlib.closing(sqlite3.connect(store.path)) as db:
        counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("vectors", "images")]
        assert counts == [num_left, num_left]


def test_retired_records_are_kept_for_the_versions_that_cover_them(store: Store) -> None:
    for text in ("first", "second", "third"):
        store.commit([record("a", text=text)])
    store.commit([], gone=["a"])

    def texts() -> list[str | None]:
        with contextlib.closing(open_read_only(store.path)) as db:
            return [found.text for found in read_records(db, "true", table="retired")]

    assert texts() == ["first", "second", "third"]
    store.prune_retired([1, 3, 4])
    assert texts() == ["first", "third"]
    store.prune_retired([4])
    assert texts() == []
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (0,)


def test_precisions_add_up_and_the_encoder_is_told(store: Store) -> None:
    store.note_computed_in(["fp32 on cpu"])
    store.note_encoder(EncoderFacts(**{**ENCODER.model_dump(), "computed_in": ["bf16 on cuda", "fp32 on cpu"]}))

    assert store.meta["computed_in"] == '["bf16 on cuda", "fp32 on cpu"]'
    assert {name: store.meta[name] for name in ("name", "fingerprint", "width", "fusion")} == ENCODER.model_dump(
        exclude={"computed_in"}
    )


def test_closed_store_is_one_file(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path / "store.sqlite")) as store:
        store.commit([record("a")])
        assert len(list(tmp_path.iterdir())) > 1

    assert [path.name for path in tmp_path.iterdir()] == ["store.sqlite"]


def test_store_that_others_read_is_closed_without_loss(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    with contextlib.closing(StoreReader(store.path)) as reader:
        with reader.transaction() as before:
            store.commit([record("a")])
            store.close()
            assert before.num_keys() == 0
        with reader.transaction() as after:
            assert after.num_keys() == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE keys SET text = 'other'",
        "UPDATE keys SET row = 7",
        "UPDATE keys SET metadata = '{}'",
        "UPDATE keys SET modality = 'text'",
        "UPDATE keys SET pools = '[]'",
        "UPDATE vectors SET vector = zeroblob(16)",
        "UPDATE vectors SET vector = zeroblob(8)",
        "UPDATE images SET data = x'00'",
        "UPDATE images SET media_type = 'image/jpeg'",
        "UPDATE images SET position = 1",
        "DELETE FROM images",
        "DELETE FROM vectors",
    ],
)
def test_changed_record_is_refused_wherever_it_is_read(store: Store, damage: str) -> None:
    store.commit([record("a")])
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        db.execute(damage)

    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged"):
        read_all(store)
    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged"):
        store.record("a")


def test_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged: file is not a database"):
        open_read_only(path)

    path.unlink()
    sqlite3.connect(path).close()
    with pytest.raises(IndexCorruptError, match="expected a store of schema 2"):
        open_read_only(path)


def test_reader_cannot_write(store: Store) -> None:
    readonly = pytest.raises(sqlite3.OperationalError, match="readonly")
    with contextlib.closing(open_read_only(store.path)) as db, readonly:
        db.execute("DELETE FROM keys")


HALF_WRITTEN = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE keys SET text = hex(randomblob(200000))")
os._exit(0)
"""


def test_transaction_that_a_killed_writer_left_half_written_is_rolled_back_for_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(path)
    store.commit([record(f"key {n}") for n in range(3)])
    store.close()
    before = path.read_bytes()
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, path], check=True)
    assert path.with_name("store.sqlite-journal").stat().st_size > 0
    assert path.read_bytes() != before
    with contextlib.closing(open_read_only(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert path.read_bytes()[: len(before)] == before


def test_large_change_is_moved_into_the_main_file_after_the_next_one(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path / "store.sqlite")) as store:
        store.note_encoder(ENCODER)
        store.commit([])
        before = store.path.stat().st_size
        images = (NewImage("image/png", None, b"x" * 2**15),)
        with store.transaction():
            store.commit([record(f"k{number}", images=images) for number in range(1_000)])
        assert store.path.stat().st_size == before

        store.commit([record("last")])
        assert store.path.stat().st_size > 1_000 * 2**15
