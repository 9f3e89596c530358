"""Moments of an index that are asked for again, while keys change, versions are folded and the log grows."""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anykey.index import FaissIndex
from anykey.index.errors import SnapshotExpiredError, SnapshotRefusedError
from anykey.index.hits import Hit
from anykey.index.key_index import NewKey, Scope
from anykey.index.search.kept_moments import Keeping
from tests.live_index import WIDTH, make_index, new_keys, unit_vectors

WAIT_S = 20.0
QUERY_1D = unit_vectors(1, seed=99)


@pytest.fixture(scope="module")
def made_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_index(tmp_path_factory.mktemp("moments") / "index", new_keys(40))


@pytest.fixture
def index_dir(made_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_dir, tmp_path / "index")


@pytest.fixture
def index(index_dir: Path) -> Iterator[FaissIndex]:
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        yield index


def everything(index: FaissIndex, snapshot: str | None = None, scope: Scope | None = None) -> list[Hit]:
    """All keys, best first, at a moment."""
    with index.moment(snapshot) as moment:
        return moment.search(QUERY_1D, 1000, scope or Scope(), exact=True)[0]


def keep(index: FaissIndex, *, is_asked_for: bool = True) -> str:
    """The snapshot of now."""
    with index.moment() as moment:
        moment.keep(is_asked_for=is_asked_for)
        assert moment.snapshot is not None
        return moment.snapshot


def is_kept(index: FaissIndex, snapshot: str) -> bool:
    try:
        with index.moment(snapshot):
            return True
    except SnapshotExpiredError:
        return False


def until_gone(index: FaissIndex, snapshot: str) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while is_kept(index, snapshot):
        assert time.monotonic() < give_up_s, "it was kept for ever"
        time.sleep(0.01)


def test_a_moment_stays_as_it_was_through_changes_and_folds(index: FaissIndex) -> None:
    index.upsert(new_keys(50, seed=1)[40:])
    before, snapshot = everything(index), keep(index)
    scopes = [Scope(pool="even"), Scope(within={"k1", "k2", "k41"}), Scope(exclude={"k3"})]
    scoped = [everything(index, scope=scope) for scope in scopes]
    with index.moment(snapshot) as moment:
        version, seq = moment.version, moment.seq
    for step in (lambda: index.delete(["k1", "k2", "k45"]), lambda: index.upsert(new_keys(30, seed=2)), index.compact):
        step()
        index.upsert(new_keys(5, seed=3))
        assert everything(index, snapshot) == before
        assert [everything(index, snapshot, scope) for scope in scopes] == scoped
        assert everything(index) != before
        with index.moment(snapshot) as moment:
            assert (moment.version, moment.seq, moment.snapshot) == (version, seq, snapshot)
            assert moment.count() == 50


def test_a_moment_that_nobody_kept_is_still_answered_of_until_something_changes(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index, FaissIndex.open(index_dir) as other:
        with index.moment() as moment:
            snapshot = moment.snapshot
        assert everything(other, snapshot) == everything(index, snapshot) == everything(index)
        index.delete(["k1"])
        with pytest.raises(SnapshotExpiredError, match="search again"):
            everything(index, snapshot)
        with pytest.raises(SnapshotExpiredError, match="another process"):
            everything(other, snapshot)


@pytest.mark.parametrize("snapshot", ["", "x", "0.0.0.0", "a" * 1000, "0" * 8 + "." + "1" * 8 + ".v.\uff11"])
def test_what_is_no_snapshot_is_refused(index: FaissIndex, snapshot: str) -> None:
    with pytest.raises(SnapshotRefusedError, match="earlier answer"):
        everything(index, snapshot)


def test_of_another_index_it_is_expired(index: FaissIndex, tmp_path: Path) -> None:
    with FaissIndex.open(make_index(tmp_path / "other", new_keys(3))) as other, pytest.raises(SnapshotExpiredError):
        everything(index, keep(other))


def test_it_is_let_go_of_after_its_time_without_anybody_asking(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, keeping=Keeping(seconds=0.3)) as index:
        snapshot, version = keep(index), index.version
        index.upsert(new_keys(45))
        assert is_kept(index, snapshot)
        index.compact()
        until_gone(index, snapshot)
        give_up_s = time.monotonic() + WAIT_S
        while any(thread.name == "kept-moments" for thread in threading.enumerate()):
            assert time.monotonic() < give_up_s, "its thread goes on"
            time.sleep(0.01)
        assert index.version != version


def test_each_answer_of_it_keeps_it_for_longer(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, keeping=Keeping(seconds=1.0)) as index:
        snapshot = keep(index)
        index.delete(["k1"])
        began_s = time.monotonic()
        while time.monotonic() < began_s + 1.5:
            with index.moment(snapshot) as moment:
                moment.keep()
            time.sleep(0.02)
        until_gone(index, snapshot)


def test_the_oldest_goes_first_and_what_nobody_asked_for_before_it(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, keeping=Keeping(most=2)) as index:
        kept = []
        for number, is_asked_for in enumerate((True, False, True, False, True)):
            index.delete([f"k{number}"])
            kept.append(keep(index, is_asked_for=is_asked_for))
        index.delete(["k30"])
        assert [is_kept(index, snapshot) for snapshot in kept] == [False, False, True, False, True]


def test_nothing_is_kept_where_that_is_turned_off(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, keeping=Keeping(seconds=0)) as index, index.moment() as moment:
        moment.keep(is_asked_for=True)
        assert moment.snapshot is None


def test_many_answers_of_one_moment_share_it(index: FaissIndex) -> None:
    snapshots = {keep(index) for _ in range(200)}
    assert len(snapshots) == 1
    index.delete(["k1"])
    assert is_kept(index, snapshots.pop())


def test_threads_read_a_kept_moment_by_turns(index: FaissIndex) -> None:
    before, snapshot = everything(index), keep(index)
    index.delete(["k1", "k2"])
    wrong: list[object] = []

    def read() -> None:
        for _ in range(20):
            try:
                found = everything(index, snapshot)
            except Exception as error:
                wrong.append(error)
            else:
                wrong.extend([found] if found != before else [])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        index.upsert(new_keys(5, seed=number))
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []


def test_what_nobody_asked_for_goes_when_the_log_is_large_so_that_it_is_begun_anew(index_dir: Path) -> None:
    keeping = Keeping(most_log_bytes=100_000, most_log_bytes_ever=10**9)
    with FaissIndex.open(index_dir, writable=True, compact_after=0, keeping=keeping) as index:
        unasked = keep(index, is_asked_for=False)
        index.delete(["k1"])
        asked = keep(index)
        many = [NewKey(f"n{n}", vector_D, text="x" * 5_000) for n, vector_D in enumerate(unit_vectors(60))]
        index.upsert(many)
        until_gone(index, unasked)
        assert is_kept(index, asked)
        refused = keep(index, is_asked_for=False)
        index.delete(["k2"])
        assert not is_kept(index, refused)


def test_a_full_log_lets_all_go(index_dir: Path) -> None:
    keeping = Keeping(most_log_bytes=100_000, most_log_bytes_ever=100_000)
    with FaissIndex.open(index_dir, writable=True, compact_after=0, keeping=keeping) as index:
        asked = keep(index)
        index.upsert([NewKey(f"n{n}", vector_D, text="x" * 5_000) for n, vector_D in enumerate(unit_vectors(60))])
        until_gone(index, asked)


def test_closing_lets_go_of_all(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        for number in range(5):
            index.delete([f"k{number}"])
            keep(index)
    assert not list(index_dir.rglob("*-wal"))
    with FaissIndex.open(index_dir, writable=True) as again:
        assert again.count() == 35


def test_what_is_found_has_its_vectors(index: FaissIndex) -> None:
    index.upsert(new_keys(50, seed=1)[40:])
    index.delete(["k3"])
    with index.moment() as moment:
        [ranking] = moment.rank(QUERY_1D, 1000)
        vectors_KD = moment.vectors(ranking)
        keys = [hit.key for hit in moment.hits(ranking)]
        none = moment.vectors(ranking.chosen([]))
    assert none.shape == (0, WIDTH)
    assert np.array_equal(vectors_KD, np.stack([index.vector(key) for key in keys]))
    assert vectors_KD @ QUERY_1D[0] == pytest.approx(ranking.scores_K, abs=1e-6)


def test_moments_of_a_store_that_nobody_writes_to_keep_no_writer_out(index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as reader:
        first = keep(reader)
        assert is_kept(reader, first)  # it is now

        began_s = time.monotonic()
        with FaissIndex.open(index_dir, writable=True, compact_after=0) as writer:
            assert time.monotonic() - began_s < WAIT_S / 2
            writer.delete(["k1"])
            assert not is_kept(reader, first)

            second = keep(reader)
            writer.delete(["k2"])
            assert len(everything(reader, second)) == 39


def named(index: FaissIndex) -> tuple[object, ...]:
    """What names the moment that a search would be of, which is kept."""
    with index.moment() as moment:
        moment.keep()
        return moment.version, moment.seq, moment.snapshot, moment.identity


def at_hand(index: FaissIndex) -> tuple[object, ...] | None:
    facts = index.moment_at_hand()
    return None if facts is None else (facts.version, facts.seq, facts.snapshot, facts.identity)


def at_hand_soon(index: FaissIndex) -> tuple[object, ...] | None:
    """The same, asked again where the thread that lets go of moments is at work, for which it does not wait."""
    found = at_hand(index)
    for _ in range(20):
        if found is not None:
            break
        time.sleep(0.001)
        found = at_hand(index)
    return found


def test_a_moment_is_at_hand_only_while_it_is_that_of_now(index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as reader:  # of a store that is one file
        assert at_hand(reader) == named(reader)
        with FaissIndex.open(index_dir, writable=True, compact_after=0) as writer:
            for change in (
                lambda: writer.upsert(new_keys(2, seed=3)),
                lambda: writer.delete(["k1"]),
                writer.compact,
                lambda: writer.delete(["k2"]),
            ):
                change()
                for index in (reader, writer):
                    assert at_hand(index) is None, "it was of the moment before"
                    assert at_hand(index) is None, "nobody has looked yet"
                    assert named(index) == at_hand_soon(index)


def test_a_moment_at_hand_is_kept_for_longer_or_kept_anew(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=0, keeping=Keeping(seconds=0.2)) as index:
        assert at_hand(index) is None, "nobody keeps it yet"
        snapshot = keep(index, is_asked_for=False)
        for _ in range(20):
            time.sleep(0.02)
            assert at_hand_soon(index) is not None
        index.delete(["k1"])
        assert is_kept(index, snapshot)
        with index.moment():
            until_gone(index, snapshot)


def test_looking_for_the_moment_at_hand_waits_for_nobody(index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as index:
        assert index.moment_at_hand() is not None
        (store,) = index_dir.glob("stores/*/*.sqlite*")
        with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            began_s = time.monotonic()
            assert index.moment_at_hand() is None
            assert time.monotonic() - began_s < 5, "half of what others wait for a lock is far too long"
            db.execute("ROLLBACK")
        assert index.moment_at_hand() is not None
