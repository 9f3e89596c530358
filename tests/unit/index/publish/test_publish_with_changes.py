"""Changes that come with a version of their own: readers see both at once or neither, and need no memory for them."""

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from anykey.encoder.item import Modality
from anykey.index import FaissIndex
from anykey.index.errors import IndexCorruptError, InvalidStructureError, UnannouncedError
from anykey.index.faiss_index import COMPACT_AFTER
from anykey.index.key_index import NewKey
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import Provenance, publish_next, publish_with_changes
from anykey.index.publish.verify import verify_index
from anykey.index.search.generation import FLOOD, Flood
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.store.new_keys import to_record
from anykey.index.store.records import TuningQueries
from anykey.index.store.store import Store
from anykey.index.vectors.calibration import codes_of
from anykey.program.progress import Report, quietly
from tests.killed_once import killed_once
from tests.live_index import WIDTH, make_index, new_keys, unit_vectors

NUM_OLD, NUM_ALL = 6, 15


def load_all(index: FaissIndex) -> object:
    """Stores many keys with a version of them."""
    return index.load_records([to_record(key, WIDTH) for key in new_keys(NUM_ALL)])


def tune_all(index: FaissIndex) -> object:
    """Makes a version of all keys."""
    return index.tune(None)


def tune_with_queries(index: FaissIndex) -> object:
    """Makes a version that was measured with real queries."""
    return index.tune(TuningQueries(unit_vectors(4), codes_of([Modality.TEXT] * 4)))


def centre(index: FaissIndex) -> object:
    """Makes a version with another option."""
    return index.load_records([], FoldOptions(calibrate="modality-mean"))


def change(index_dir: Path, make: Callable[[FaissIndex], object]) -> None:
    """Changes an index as its writer."""
    with FaissIndex.open(index_dir, writable=True) as index:
        make(index)


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", new_keys(NUM_OLD))


@pytest.fixture
def store(index_dir: Path) -> Iterator[Store]:
    with closing(Store(WritableDirectory(index_dir).store_path("1"))) as store:
        yield store


def store_all(store: Store) -> bool:
    store.commit([to_record(key, WIDTH) for key in new_keys(NUM_ALL)], gone=["k0"])
    return True


def publish(store: Store, options: FoldOptions | None = None, report: Report = quietly) -> Manifest | None:
    directory = WritableDirectory(store.path.parents[2])
    options = options or FoldOptions()
    return publish_with_changes(directory, store, lambda: store_all(store), Provenance(), options, report)


def state(index: FaissIndex) -> tuple[int, int]:
    """Number of keys, and of changes that the version in use does not cover."""
    return index.count(), index.info().details["num_unfolded"]


def refuse_to_force(folder: Path) -> Callable[[int], None]:
    """An `os.fsync` that fails for one folder."""
    fsync = os.fsync

    def force(fd: int) -> None:
        if folder.exists() and os.path.samestat(os.fstat(fd), folder.stat()):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    return force


def test_readers_see_the_changes_with_their_version(index_dir: Path, store: Store) -> None:
    with FaissIndex.open(index_dir) as reader:
        seen = []
        manifest = publish(store, report=lambda step, done, total: seen.append(state(reader)))

        assert set(seen) == {(NUM_OLD, 0)}
        assert state(reader) == (NUM_ALL - 1, 0)
        assert manifest is not None
        assert (manifest.num_keys, reader.manifest.version) == (NUM_ALL - 1, manifest.version)


def test_changes_are_taken_back_where_no_version_can_be_made(index_dir: Path, store: Store) -> None:
    with pytest.raises(InvalidStructureError, match="IVF0,Flat"):
        publish(store, FoldOptions(structure="IVF0,Flat"))

    assert store.num_keys() == NUM_OLD
    assert sorted(path.name for path in index_dir.iterdir()) == [".lock", "CURRENT", "stores", "versions"]
    with FaissIndex.open(index_dir, writable=True) as index:
        assert state(index) == (NUM_OLD, 0)


def test_nothing_is_published_where_nothing_changes(index_dir: Path, store: Store) -> None:
    before = WritableDirectory(index_dir).names()

    assert publish_with_changes(WritableDirectory(index_dir), store, lambda: False, Provenance(), FoldOptions()) is None
    assert WritableDirectory(index_dir).names() == before


def test_version_of_changes_that_were_taken_back_is_cleared_away(index_dir: Path) -> None:
    directory = WritableDirectory(index_dir)
    next_dir = directory.version_dir(directory.next_name())
    killed_once(next_dir, change, index_dir, load_all)  # before the changes are committed
    current, left = directory.current(), directory.names()[-1]
    assert left == next_dir.name != current

    directory.recover()

    assert (directory.current(), directory.names()[-1]) == (current, current)
    assert state(FaissIndex.open(index_dir)) == (NUM_OLD, 0)


def test_failed_load_leaves_nothing_that_later_changes_could_be_taken_for(
    index_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [to_record(NewKey(f"lost{n}", vector_D, "text"), WIDTH) for n, vector_D in enumerate(unit_vectors(5, 9))]
    kept_ND = unit_vectors(5, 10)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        with monkeypatch.context() as patched:  # the version is complete, its changes are not committed
            patched.setattr(os, "fsync", refuse_to_force(index_dir / "versions"))
            with pytest.raises(OSError, match="Input/output error"):
                index.load_records(lost)
        index.upsert([NewKey(f"kept{n}", vector_D, "text") for n, vector_D in enumerate(kept_ND)])

    with FaissIndex.open(index_dir, writable=True) as index:
        assert [hits[0].key for hits in index.search(kept_ND, 1)] == [f"kept{n}" for n in range(5)]
    assert verify_index(index_dir) == []


def test_index_whose_first_version_could_not_be_committed_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse_to_force(tmp_path / "new" / "versions"))
        with pytest.raises(OSError, match="Input/output error"):
            make_index(tmp_path / "new", new_keys(NUM_OLD))
    assert WritableDirectory(tmp_path / "new").names() == []

    make_index(tmp_path / "new", new_keys(NUM_OLD))
    assert state(FaissIndex.open(tmp_path / "new")) == (NUM_OLD, 0)


@pytest.mark.parametrize("make", [tune_with_queries, centre])
def test_version_of_queries_or_options_that_were_taken_back_is_cleared_away(
    index_dir: Path, make: Callable[[FaissIndex], object]
) -> None:
    directory = WritableDirectory(index_dir)
    before = directory.names()[-1]
    killed_once(directory.version_dir(directory.next_name()), change, index_dir, make)
    assert directory.names()[-1] != before

    with FaissIndex.open(index_dir, writable=True) as index:
        facts = index.manifest.structure
        assert facts is not None
        assert (index.manifest.version, facts.query_source) == (before, "sampled keys")
        assert index.manifest.options == FoldOptions()


def test_no_version_is_deleted_where_none_is_known_to_be_published(index_dir: Path, tmp_path: Path) -> None:
    directory = WritableDirectory(index_dir)
    shutil.copy(directory.store_path("1"), tmp_path / "older")
    with FaissIndex.open(index_dir, writable=True) as index:
        for num_keys in (NUM_OLD + 1, NUM_OLD + 2):
            index.upsert(new_keys(num_keys))
            index.compact()
    before = directory.names()
    shutil.copy(tmp_path / "older", directory.store_path("1"))
    (index_dir / "CURRENT").write_text("?")

    directory.recover()

    assert directory.names() == before
    with pytest.raises(IndexCorruptError, match="CURRENT is damaged"):
        FaissIndex.open(index_dir)


def test_version_of_committed_changes_is_announced_after_a_kill(index_dir: Path) -> None:
    killed_once(index_dir / "CURRENT.new", change, index_dir, load_all)  # the changes are committed
    directory = WritableDirectory(index_dir)
    assert directory.current() != directory.names()[-1]

    directory.recover()

    assert state(FaissIndex.open(index_dir)) == (NUM_ALL, 0)


def test_changes_whose_version_cannot_be_announced_are_there_and_the_next_writer_announces_it(index_dir: Path) -> None:
    in_the_way = index_dir / "CURRENT.new"
    in_the_way.mkdir()
    with FaissIndex.open(index_dir, writable=True) as index:
        for seed in (1, 2):
            with pytest.raises(UnannouncedError, match=r"changes are stored, but version \d of .*CURRENT.new"):
                index.load_records([to_record(key, WIDTH) for key in new_keys(NUM_ALL, seed=seed)])
            assert index.count() == NUM_ALL
    with FaissIndex.open(index_dir) as index:
        assert state(index) == (NUM_ALL, NUM_OLD + NUM_ALL)  # its version is there, though two came after it

    in_the_way.rmdir()
    with FaissIndex.open(index_dir, writable=True) as index:
        assert state(index) == (NUM_ALL, 0)


def test_published_changes_are_no_failure_where_only_tidying_up_fails(
    index_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (index_dir / "versions" / "0").write_text("a file, which cannot be deleted as an old version")
    with FaissIndex.open(index_dir, writable=True) as index:
        index.load_records([to_record(key, WIDTH) for key in new_keys(NUM_ALL)])
        assert state(index) == (NUM_ALL, 0)
    assert "not all deleted" in caplog.text


def test_reader_waits_for_the_version_of_many_changes(index_dir: Path, store: Store) -> None:
    flood = Flood(num_changes=NUM_OLD, patience_s=30.0)
    with FaissIndex.open(index_dir, flood=flood) as reader, ThreadPoolExecutor(4) as threads:
        store_all(store)
        found = [threads.submit(state, reader) for _ in range(4)]  # must not load what the next version covers
        publish_next(WritableDirectory(index_dir), store.path, Provenance(), FoldOptions())

        assert [future.result() for future in found] == [(NUM_ALL - 1, 0)] * 4


def test_many_changes_are_searched_where_their_version_cannot_be_opened(index_dir: Path, store: Store) -> None:
    directory = WritableDirectory(index_dir)
    with FaissIndex.open(index_dir, flood=Flood(num_changes=NUM_OLD, switch_s=0.05)) as reader:
        store_all(store)
        manifest = publish_next(directory, store.path, Provenance(), FoldOptions())
        (directory.version_dir(manifest.version) / "manifest.json").write_text("{")

        assert state(reader) == (NUM_ALL - 1, NUM_ALL - 1 + NUM_OLD)
        assert reader.manifest.version != manifest.version


def test_many_changes_without_a_version_are_searched_all_the_same(index_dir: Path, store: Store) -> None:
    with FaissIndex.open(index_dir, flood=Flood(num_changes=NUM_OLD, patience_s=0.02)) as reader:
        store_all(store)

        assert state(reader) == (NUM_ALL - 1, NUM_ALL - 1 + NUM_OLD)  # rows that came, and rows that went


def test_version_of_many_changes_is_waited_for_once(index_dir: Path, store: Store) -> None:
    patience_s = 1.5
    with FaissIndex.open(index_dir, flood=Flood(num_changes=NUM_OLD, patience_s=patience_s)) as reader:
        store_all(store)
        with closing(sqlite3.connect(store.path)) as db:
            db.execute("DROP TABLE removals")  # so that the changes cannot be taken into memory either
        waits_s = []
        for _ in range(2):
            began_s = time.monotonic()
            with pytest.raises(IndexCorruptError, match="removals"):
                reader.count()
            waits_s.append(time.monotonic() - began_s)

        assert waits_s[0] >= patience_s > waits_s[1]


@pytest.mark.parametrize("publish_all", [load_all, tune_all], ids=["load", "tune"])
def test_changes_that_a_version_covers_do_not_count_for_the_next_compaction(
    index_dir: Path, publish_all: Callable[[FaissIndex], object]
) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=NUM_OLD) as index:
        index.upsert(new_keys(NUM_OLD - 1, seed=3))
        publish_all(index)
        index.upsert(new_keys(1, seed=4))
    with FaissIndex.open(index_dir) as index:
        assert index.info().details["num_unfolded"] > 0  # and not folded in the background meanwhile


def test_changes_up_to_the_bound_are_searched_at_once(index_dir: Path, store: Store) -> None:
    seq = store.seq
    with FaissIndex.open(index_dir, flood=Flood(num_changes=NUM_ALL + 1, patience_s=60.0)) as reader:
        store_all(store)
        assert store.seq - seq == NUM_ALL + 1
        began_s = time.monotonic()
        assert state(reader) == (NUM_ALL - 1, NUM_ALL - 1 + NUM_OLD)
        assert time.monotonic() - began_s < 60


def test_bound_on_changes_is_that_of_the_page() -> None:
    page = " ".join((Path(__file__).parents[4] / "docs" / "index-versions.md").read_text().split())
    assert f"a reader that meets more than {FLOOD.num_changes:,} changes at once" in page
    assert FLOOD.num_changes >= COMPACT_AFTER  # what a live writer leaves unfolded is no flood
