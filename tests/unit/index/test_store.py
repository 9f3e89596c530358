"""The store: all or nothing, one sequence number for each change, and errors that name a damaged file."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.errors import IndexCorruptError
from index.images import ImageStamp
from index.plan import Plan, PlannedEntry
from index.readers.entry import CorpusEntry
from index.store import NewImage, NewKey, Refusal, SeenImage, Store, open_read_only
from index.store_reader import StoreReader


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


def new_key(name: str, **changes: Any) -> NewKey:
    stamp = ImageStamp(f"/{name}.png", 3, "7")
    entry = PlannedEntry(1, name, "c.jsonl:1", "text", '{"n": 1}', ("p",), (stamp,))
    image = NewImage(SeenImage(stamp, "00"), "image/png", b"png")
    vector_D = np.full(4, 0.5, dtype=np.float32)
    facts = {"entry": entry, "payload_sha256": b"p", "content_sha256": b"c", "images": (image,), "vector_D": vector_D}
    return NewKey(**{**facts, **changes})


def follow(store: Store, tmp_path: Path, names: str) -> None:
    plan = Plan(tmp_path / "plan.sqlite")
    for name in names:
        plan.next_row()
        plan.add(CorpusEntry(name, "t", (), "c.jsonl:1"))
    plan.commit()
    store.follow(plan.path)
    plan.close()


def test_each_change_takes_the_next_number(store: Store, tmp_path: Path) -> None:
    assert store.seq == 0
    store.commit([new_key("a"), new_key("b"), new_key("c")])
    assert store.seq == 3
    store.commit([new_key("a")], gone=["c", "unknown"])
    assert store.seq == 5
    follow(store, tmp_path, "a")
    assert store.seq == 6


def test_failed_commit_changes_nothing(store: Store) -> None:
    store.commit([new_key("a")])

    with pytest.raises(sqlite3.IntegrityError):
        store.commit([new_key("b"), new_key("c", content_sha256=None)])

    assert (store.num_keys(), store.seq) == (1, 1)


def test_known_key_is_told_with_digests_and_images(store: Store) -> None:
    store.commit([new_key("a")])

    known = store.known("a")

    assert known is not None
    assert (known.payload_sha256, known.content_sha256, known.row, known.reason) == (b"p", b"c", None, None)
    assert known.images == (SeenImage(ImageStamp("/a.png", 3, "7"), "00"),)
    assert store.known("b") is None


def test_refused_key_is_forgotten_and_its_reason_kept_until_it_is_stored(store: Store) -> None:
    key = new_key("a")
    store.commit([key])

    store.commit([], [Refusal(key.entry, b"p", (), "limits", "too dark")])
    known = store.known("a")
    assert known is not None
    assert (known.reason, known.limits, known.content_sha256) == ("too dark", "limits", None)
    assert store.num_keys() == 0

    store.commit([key])
    known = store.known("a")
    assert known is not None
    assert known.reason is None


def test_key_without_a_new_vector_keeps_its_own(store: Store, tmp_path: Path) -> None:
    store.commit([new_key("a", vector_D=np.arange(4, dtype=np.float32))])
    store.commit([new_key("a", vector_D=None, images=())])
    follow(store, tmp_path, "a")

    (vectors_BD,) = store.vectors(10)
    assert vectors_BD.tolist() == [[0, 1, 2, 3]]


def test_rows_follow_the_plan(store: Store, tmp_path: Path) -> None:
    store.commit([new_key(name, vector_D=np.full(4, ord(name), dtype=np.float32)) for name in "abcd"])

    for order in ("abcd", "dba", "abd"):
        follow(store, tmp_path, order)
        rows = np.concatenate(list(store.vectors(2)))[:, 0]
        assert [chr(int(value)) for value in rows] == list(order)


def test_deleted_key_takes_its_parts_along(store: Store) -> None:
    store.commit([new_key("a"), new_key("b")])
    store.commit([], gone=["a"])
    store.finish()

    db = sqlite3.connect(store.path)
    counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("vectors", "images", "pools")]
    db.close()
    assert counts == [1, 1, 1]


def test_finished_store_is_one_file(store: Store) -> None:
    store.commit([new_key("a")])
    store.finish()

    assert [path.name for path in store.path.parent.iterdir()] == ["store.sqlite"]


def test_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged: file is not a database"):
        open_read_only(path)

    path.unlink()
    sqlite3.connect(path).close()
    with pytest.raises(IndexCorruptError, match="expected a store of schema 1"):
        open_read_only(path)


def test_reader_refuses_rows_with_gaps(store: Store) -> None:
    store.commit([new_key("a")])
    store.finish()
    reader = StoreReader(store.path)

    with pytest.raises(IndexCorruptError, match="expected rows 0 to 0"):
        reader.modalities(1)
    reader.close()


def test_reader_cannot_write(store: Store) -> None:
    store.finish()
    db = open_read_only(store.path)

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM keys")
    db.close()
