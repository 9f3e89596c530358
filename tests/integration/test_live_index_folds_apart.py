"""Versions that a process of its own makes: the same as those of a thread, and nothing is lost whoever is killed."""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.errors import IndexCorruptError, InvalidStructureError
from anykey.index.publish.verify import verify_index
from anykey.index.store.manifest import FoldOptions
from tests.killed_writers import Contents, assert_clean, contents_of, numbered_key
from tests.live_index import make_index, new_keys
from tests.live_process import Process

PATIENCE_S = 60


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", [numbered_key(f"k{number}", number) for number in range(5)])


def wait_for(is_so: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_makes_the_same_version_as_a_thread(tmp_path: Path) -> None:
    manifests = []
    for fold_in in ("thread", "process"):
        path = make_index(tmp_path / fold_in, new_keys(20), options=FoldOptions(structure="IVF2,SQ8"))
        with FaissIndex.open(path, writable=True, fold_in=fold_in) as index:  # type: ignore[arg-type]
            index.upsert(new_keys(40, seed=1))
            index.delete(["k3"])
            steps: list[str] = []
            manifests.append(index.compact(report=lambda step, done, total, steps=steps: steps.append(step)))  # type: ignore[misc]
            assert index.info().details["num_unfolded"] == 0
            assert steps
        assert verify_index(path) == []
    by_thread, by_process = manifests
    ignored = {"created_at", "store_id", "files", "structure"}
    assert by_process.model_dump(exclude=ignored) == by_thread.model_dump(exclude=ignored)
    assert by_process.structure is not None
    assert by_thread.structure is not None
    assert by_process.structure.factory == by_thread.structure.factory == "IVF2,SQ8"
    assert by_process.files.keys() == by_thread.files.keys()
    for name in ("rows.npy", "vectors.faiss", "deleted.jsonl"):
        assert by_process.files[name] == by_thread.files[name]


def test_what_a_process_fails_with_is_told_as_by_a_thread(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, fold_in="process", compact_after=0) as index:
        index.upsert([numbered_key("new", 7)])
        with pytest.raises(InvalidStructureError, match="PQ3"):
            index.compact(FoldOptions(structure="IVF2,PQ3"))
        store = index_dir / "stores" / "1" / "store.sqlite"
        with closing(sqlite3.connect(store)) as db, db:
            db.execute("UPDATE vectors SET checksum = checksum + 1 WHERE id = (SELECT id FROM keys WHERE key = 'k1')")
        with pytest.raises(IndexCorruptError, match="the vector of key 'k1' differs from its checksum") as raised:
            index.compact()
        assert raised.value.path == store
        assert index.get("new").payload.metadata == {"number": 7}
    assert not (index_dir / "folding").exists()


def kill_in_turns(index_dir: Path, num_rounds: int, seed: int, latest_s: float) -> set[tuple[str, bool]]:
    """Kills the writer or the process that folds for it, at random times; tells who, and whether it was folding.

    Folding takes a second or less, so that one who is killed later than that has folded by then.
    """
    draw = random.Random(seed)
    contents: Contents = contents_of(index_dir)
    seen = set()
    for number in range(num_rounds):
        victim = ("writer", "folding")[number % 2]
        with Process(index_dir, "fold") as writer:
            changed = {f"k{draw.randrange(8)}": 1000 + number, f"n{number}": 5000 + number}
            writer.ask("upsert", changed)
            contents = {**contents, **changed}
            wait_for(writer.children)
            (child,) = writer.children()
            time.sleep(draw.uniform(0, latest_s))
            seen.add((victim, was_folding := is_running(child)))
            if victim == "writer":
                writer.kill()
            elif was_folding:
                os.kill(child, signal.SIGKILL)
                assert writer.ask("contents") == contents
                assert writer.ask("delete", [f"n{number}"]) == 1
                del contents[f"n{number}"]
        with FaissIndex.open(index_dir, writable=True, compact_after=0):  # at once, whoever was killed
            assert not is_running(child)
            assert not (index_dir / "folding").exists()
        assert contents_of(index_dir) == contents
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("next", 7)])
        index.compact()
    assert_clean(index_dir)
    assert verify_index(index_dir) == []
    return seen


def test_nothing_is_lost_whichever_of_the_two_is_killed(index_dir: Path) -> None:
    seen = kill_in_turns(index_dir, num_rounds=2, seed=1, latest_s=0.3)

    assert {victim for victim, _ in seen} == {"writer", "folding"}
    assert any(was_folding for _, was_folding in seen)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_whichever_of_the_two_is_killed_for_long(index_dir: Path) -> None:
    assert len(kill_in_turns(index_dir, num_rounds=120, seed=2, latest_s=1.5)) == 4


def test_after_the_process_was_killed_the_version_is_made_all_the_same(index_dir: Path) -> None:
    with Process(index_dir, "fold") as writer, FaissIndex.open(index_dir) as reader:
        writer.ask("upsert", {"new": 7})
        wait_for(writer.children)
        os.kill(writer.children()[0], signal.SIGKILL)
        wait_for(lambda: reader.info().details["fold_failure"])
        assert "ended before it was done" in reader.info().details["fold_failure"]["reason"]
        wait_for(lambda: reader.info().details["num_unfolded"] == 0)
        wait_for(lambda: reader.info().details["fold_failure"] is None)
        assert reader.get("new").payload.metadata == {"number": 7}


def test_what_ends_the_writers_group_does_not_end_the_process_before_the_writer_decides(index_dir: Path) -> None:
    with Process(index_dir, "fold") as writer:
        writer.ask("upsert", {"new": 7})
        wait_for(writer.children)
        (child,) = writer.children()
        wait_for(lambda: os.getpgid(child) == child)  # as the terminal and a service manager see it
