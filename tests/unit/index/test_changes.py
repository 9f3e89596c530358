"""Changes of single keys: conditions, patches, repeated requests, deletion by scope, and who may make them."""

import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.index import FaissIndex
from anykey.index.changes import (
    ABSENT,
    PRESENT,
    Applied,
    Change,
    Delete,
    Outcome,
    Patch,
    Put,
    RequestKey,
    Status,
    merged,
)
from anykey.index.deadline import Deadline
from anykey.index.errors import (
    DeadlineExceededError,
    IndexLockedError,
    InvalidKeyError,
    InvalidSearchError,
    KeyCorruptError,
    LiveKeysError,
    ReadOnlyError,
    RequestMismatchError,
    UnknownPoolError,
)
from anykey.index.filtering.conditions import Range
from anykey.index.key_index import NewKey, Scope
from anykey.index.publish.rollback import roll_back
from anykey.index.publish.verify import verify_index
from anykey.index.store.manifest import FoldOptions
from tests.factories import build_with, write_jsonl
from tests.fakes import FakeEncoder
from tests.live_index import make_index, new_keys, unit_vectors
from tests.live_process import Process

KEYS = new_keys(10)
K2, LAST = 4, 11  # numbers of the change that stored k2, and of the last one; the first made the index


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", KEYS)


@pytest.fixture
def index(path: Path) -> Iterator[FaissIndex]:
    with FaissIndex.open(path, writable=True, compact_after=0) as opened:
        yield opened


def store_of(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path / "stores" / "1" / "store.sqlite", isolation_level=None)


def statuses(applied: Applied) -> list[str]:
    return [outcome.status.value for outcome in applied.outcomes]


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # appendix A of RFC 7396
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_are_merged_as_the_standard_says(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps([target, patch])

    assert merged(target, patch) == result

    assert json.dumps([target, patch]) == before


def test_a_patch_leaves_vector_text_and_images_as_they_are(index: FaissIndex) -> None:
    before = index.get("k2")
    vector_D, image = index.vector("k2"), index.image("k2")

    applied = index.apply([Patch("k2", {"price": 3}, ["sale"])])

    after = index.get("k2")
    assert applied.outcomes == (Outcome("k2", Status.STORED, LAST + 1),)
    assert (before.seq, after.seq, applied.seq) == (K2, LAST + 1, LAST + 1)
    assert (after.payload.metadata, after.pools) == ({"number": 2, "price": 3}, ("sale",))
    assert (after.payload.text, after.modality) == (before.payload.text, before.modality)
    np.testing.assert_array_equal(index.vector("k2"), vector_D)
    assert index.image("k2") == image
    (hits,) = index.search(vector_D[None], 1, Scope(pool="sale"))
    assert [(hit.key, hit.payload.metadata) for hit in hits] == [("k2", {"number": 2, "price": 3})]


def test_a_key_that_a_version_covers_is_patched_again_and_again(index: FaissIndex, path: Path) -> None:
    for number in range(5):
        index.apply([Patch("k4", {"number": number}), Patch("k5", {"number": number})])
        assert index.image("k4").media_type == "image/png"
        if number % 2:
            index.compact()
    index.compact()

    assert index.get("k4").payload.metadata == {"number": 4}
    assert verify_index(path) == []
    with closing(store_of(path)) as db:
        counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("keys", "vectors")]
        (num_retired,) = db.execute("SELECT count(*) FROM retired").fetchone()
    assert counts == [10, 10 + num_retired]


@pytest.mark.parametrize(
    ("if_seq", "is_met"), [(None, True), (K2, True), (PRESENT, True), (ABSENT, False), (K2 - 1, False), (LAST, False)]
)
@pytest.mark.parametrize("kind", ["put", "patch", "delete"])
def test_a_change_depends_on_the_change_that_stored_the_key(
    index: FaissIndex, kind: str, if_seq: int | None, is_met: bool
) -> None:
    change: Change = {
        "put": Put(KEYS[2], if_seq),
        "patch": Patch("k2", {"a": 1}, if_seq=if_seq),
        "delete": Delete("k2", if_seq),
    }[kind]

    (outcome,) = index.apply([change]).outcomes

    if is_met:
        assert (outcome.status, outcome.seq) == (Status.DELETED if kind == "delete" else Status.STORED, LAST + 1)
    else:
        assert (outcome.status, outcome.seq) == (Status.PRECONDITION_FAILED, K2)
        assert f"it was stored by change {K2}" in (outcome.reason or "")
        assert index.get("k2").seq == K2


def test_a_new_key_is_stored_only_once_by_two_who_would_be_the_first(index: FaissIndex) -> None:
    new = NewKey("new", unit_vectors(1, 5)[0], text="new")

    applied = index.apply([Put(new, ABSENT), Put(new, ABSENT), Put(new, PRESENT)])

    assert statuses(applied) == ["stored", "precondition_failed", "stored"]
    assert [outcome.is_new for outcome in applied.outcomes] == [True, False, False]


def test_what_cannot_be_stored_is_told_and_keeps_nothing_else_out(index: FaissIndex) -> None:
    wide = NewKey("wide", unit_vectors(1, 5, 4)[0], text="too narrow")
    changes = [
        Put(wide),
        Patch("k1", {"a": float("inf")}),
        Patch("k1", pools=[" "]),
        Patch("half \ud800", {"a": 1}),
        Delete("half \ud800"),
        Patch("k1", {"fine": True}),
    ]

    applied = index.apply(changes)

    assert statuses(applied) == ["invalid", "invalid", "invalid", "not_found", "not_found", "stored"]
    assert "a vector of 8 numbers" in (applied.outcomes[0].reason or "")
    assert index.get("k1").payload.metadata == {"number": 1, "fine": True}


def test_metadata_nested_too_deeply_are_refused(index: FaissIndex) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}

    applied = index.apply([Patch("k1", deep)])

    assert statuses(applied) == ["invalid"]


@pytest.mark.parametrize("arguments", [{"pools": "one name"}, {"metadata": [1]}, {}])
def test_a_patch_of_another_form_is_no_patch(arguments: Any) -> None:
    with pytest.raises(InvalidKeyError, match="key 'k' cannot be changed: expected"):
        Patch("k", **arguments)


def test_all_or_nothing_tells_everything_that_stands_in_the_way(index: FaissIndex, path: Path) -> None:
    changes = [Delete("k1"), Patch("k1", {"a": 1}), Patch("k2", {"a": 1}), Delete("gone"), Delete("k3", if_seq=1)]

    applied = index.apply(changes, atomic=True)

    assert statuses(applied) == ["not_applied", "not_found", "not_applied", "not_found", "precondition_failed"]
    assert (applied.seq, applied.num_deleted) == (LAST, 0)
    assert [stored.seq for stored in index.scan()] == list(range(LAST - 9, LAST + 1))
    applied = index.apply([Delete("k1"), Delete("gone"), Patch("k2", {"a": 1})], atomic=True)
    assert statuses(applied) == ["deleted", "not_found", "stored"]
    assert verify_index(path) == []


def test_a_damaged_key_is_not_patched(index: FaissIndex, path: Path) -> None:
    with closing(store_of(path)) as db:
        db.execute("UPDATE keys SET metadata = '{\"number\": 7}' WHERE key = 'k1'")

    with pytest.raises(KeyCorruptError, match="k1"):
        index.apply([Delete("k2"), Patch("k1", {"a": 1})])

    assert index.get("k2").seq == K2


def test_a_repeated_request_is_answered_again(path: Path) -> None:
    request = RequestKey("once", b"digest")
    changes = [Patch("k1", {"a": 1}, if_seq=K2 - 1), Delete("gone"), Delete("k2")]
    with FaissIndex.open(path, writable=True) as index:
        assert index.remembered(request) is None
        applied = index.apply(changes, request=request)
    with FaissIndex.open(path, writable=True) as index:
        again = index.apply(changes, request=request)
        assert index.remembered(request) == again
        assert index.get("k1").seq == LAST + 1
        assert index.info().details["seq"] == LAST + 2
        with pytest.raises(RequestMismatchError, match="once"):
            index.apply(changes[:1], request=RequestKey("once", b"other"))
        refused = index.apply([Patch("gone", {})], atomic=True, request=RequestKey("refused", b""))
        index.upsert([NewKey("gone", unit_vectors(1)[0], text="back")])
        assert index.remembered(RequestKey("refused", b"")) == Applied(refused.outcomes, 0, refused.seq, is_repeat=True)

    assert statuses(applied) == ["stored", "not_found", "deleted"]
    assert (again.outcomes, again.num_deleted, again.seq) == (applied.outcomes, applied.num_deleted, applied.seq)
    assert (applied.is_repeat, again.is_repeat) == (False, True)


def test_a_request_is_remembered_when_its_process_is_killed(path: Path) -> None:
    with Process(path, "write") as writer:
        assert writer.ask("patch_once", "r1", "k1", 7) is False
        writer.kill()
    with Process(path, "write") as writer:
        assert writer.ask("patch_once", "r1", "k1", 7) is True
        assert writer.ask("contents")["k1"] == 7


def test_after_a_day_a_request_is_forgotten(index: FaissIndex, path: Path) -> None:
    index.apply([Patch("k1", {"a": 1})], request=RequestKey("r1", b"1"))
    index.apply([Patch("k1", {"a": 1})], request=RequestKey("r2", b"2"))
    with closing(store_of(path)) as db:
        db.execute("UPDATE requests SET answered_s = answered_s - 24 * 3600")

    assert index.remembered(RequestKey("r1", b"other")) is None
    assert not index.apply([Patch("k1", {"a": 1})], request=RequestKey("r2", b"other")).is_repeat

    with closing(store_of(path)) as db:
        assert db.execute("SELECT name FROM requests").fetchall() == [("r2",)]


def test_of_many_requests_the_newest_are_remembered(index: FaissIndex, path: Path) -> None:
    for number in range(4):
        index.apply([], request=RequestKey(f"r{number}", b""))
    with closing(store_of(path)) as db:  # as if 100,000 had come in between
        db.execute("UPDATE requests SET id = id + 99998 WHERE id > 2")

    index.apply([], request=RequestKey("last", b""))

    with closing(store_of(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM requests ORDER BY id")]
    assert names == ["r2", "r3", "last"]


def test_a_store_of_an_earlier_release_learns_to_remember(path: Path) -> None:
    with closing(store_of(path)) as db:
        db.execute("DROP TABLE requests")
    with FaissIndex.open(path) as index:
        assert index.get("k1").seq == K2 - 1
    with FaissIndex.open(path, writable=True) as index:
        index.apply([Delete("k1")], request=RequestKey("r", b""))
        assert index.apply([Delete("k1")], request=RequestKey("r", b"")).is_repeat


def test_keys_are_deleted_by_what_they_are(index: FaissIndex) -> None:
    scope = Scope(pool="odd", condition=Range(("number",), gte=3), exclude=["k7"])
    request = RequestKey("r", b"")

    tried = index.delete_scope(scope, dry_run=True)
    deleted = index.delete_scope(scope, request=request)

    assert (tried, deleted) == (Applied(num_deleted=3, seq=LAST), Applied(num_deleted=3, seq=LAST + 3))
    assert [stored.key for stored in index.scan()] == ["k0", "k1", "k2", "k4", "k6", "k7", "k8"]
    assert index.delete_scope(scope, request=request).is_repeat
    assert index.delete_scope(scope).num_deleted == 0
    with pytest.raises(UnknownPoolError):
        index.delete_scope(Scope(pool="unknown"))
    gone = Deadline(0.0)
    with pytest.raises(DeadlineExceededError):
        index.delete_scope(Scope(), deadline=gone)
    assert index.count() == 7


def test_a_build_leaves_out_what_was_deleted_by_scope_and_keeps_what_was_patched(tmp_path: Path) -> None:
    rows = [{"key": f"k{number}", "text": f"text {number}", "metadata": {"n": number}} for number in range(6)]
    corpus, path, encoder = write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "i", FakeEncoder()
    build_with(corpus, path, encoder)
    with FaissIndex.open(path, writable=True) as index:
        index.delete_scope(Scope(condition=Range(("n",), lte=1)))
        index.apply([Patch("k2", {"sale": True}), Patch("k3", {"sale": True})])
    rows[3] = {**rows[3], "text": "another"}
    build_with(write_jsonl(corpus, rows[:5]), path, encoder)

    with FaissIndex.open(path) as index:
        found = {stored.key: stored.payload.metadata for stored in index.scan()}
    assert found == {"k2": {"n": 2, "sale": True}, "k3": {"n": 3}, "k4": {"n": 4}}


def test_going_back_does_not_undo_a_patch_unasked(tmp_path: Path) -> None:
    rows = [{"key": f"k{number}", "text": f"text {number}"} for number in range(4)]
    path = tmp_path / "i"
    build_with(write_jsonl(tmp_path / "c.jsonl", rows), path, FakeEncoder())
    with FaissIndex.open(path, writable=True, compact_after=0) as index:
        index.apply([Patch("k1", {"sale": True})])
        index.compact(FoldOptions(keep_versions=4))

    with pytest.raises(LiveKeysError, match="1 keys"):
        roll_back(path, "1")
    roll_back(path, "1", undo_live=True)

    with FaissIndex.open(path) as index:
        assert index.get("k1").payload.metadata == {}
    roll_back(path, "2", undo_live=True)
    with FaissIndex.open(path) as index:
        assert index.get("k1").payload.metadata == {"sale": True}


def test_pages_go_on_whatever_changes_between_them(index: FaissIndex) -> None:
    scope = Scope(pool="odd")
    first = index.page(None, 2, scope)
    index.delete(["k3"])
    index.upsert([NewKey("k4", unit_vectors(1)[0], text="odd now", pools=("odd",))])

    second = index.page(first[-1].key, 2, scope)

    assert [stored.key for stored in first + second] == ["k1", "k3", "k4", "k5"]
    index.delete_scope(scope)
    index.compact()
    assert index.page("k5", 2, scope) == []
    with pytest.raises(UnknownPoolError):
        index.page(None, 2, scope)
    for limit in (0, -1, True, 1.5):
        with pytest.raises(InvalidSearchError, match="limit must be a whole number"):
            index.page(None, limit)  # type: ignore[arg-type]


def test_who_may_not_write_is_told_who_does(path: Path) -> None:
    with FaissIndex.open(path) as reader:
        with FaissIndex.open(path, writable=True, job="service"):
            with pytest.raises(IndexLockedError, match=f"by process {os.getpid()} on ") as locked:
                FaissIndex.open(path, writable=True)
            with pytest.raises(ReadOnlyError) as refused:
                reader.apply([])
        holder = locked.value.holder
        assert holder is not None
        assert (holder.pid, holder.host, holder.job) == (os.getpid(), socket.gethostname(), "service")
        assert refused.value.holder == holder
        with pytest.raises(ReadOnlyError) as refused:
            reader.delete_scope(Scope())
        assert refused.value.holder is None


def test_who_was_killed_is_not_told_as_a_writer(path: Path) -> None:
    with Process(path, "write") as writer, FaissIndex.open(path) as reader:
        with pytest.raises(ReadOnlyError) as refused:
            reader.delete([])
        assert refused.value.holder is not None
        assert refused.value.holder.pid == writer.process.pid
        writer.kill()
        with pytest.raises(ReadOnlyError) as refused:
            reader.delete([])
        assert refused.value.holder is None
