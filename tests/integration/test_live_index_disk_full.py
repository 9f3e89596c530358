"""A disk without room refuses changes whole, keeps what was there, and takes them once there is room."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anykey.index import FaissIndex
from anykey.index.publish.rollback import roll_back
from tests.factories import build_with, mixed_corpus
from tests.killed_writers import assert_clean, contents_of, numbered_key
from tests.live_index import make_index
from tests.live_process import Process
from tests.serving import until

OLD = {f"k{number}": number for number in range(5)}
MANY = {f"many-{number}": number for number in range(1000, 1200)}


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", [numbered_key(key, number) for key, number in OLD.items()])


def check_after(index_dir: Path, expected: dict[str, int]) -> None:
    """The index holds what it should, a new writer goes on with it, and nothing else is left."""
    assert contents_of(index_dir) == expected
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("after", 9)])
        index.compact()
    assert contents_of(index_dir) == {**expected, "after": 9}
    assert_clean(index_dir)


def test_upsert_without_room_changes_nothing(index_dir: Path) -> None:
    with Process(index_dir, "write") as writer, Process(index_dir) as reader:
        for size_bytes in (0, 0, 4096, 40_000, 40_000, 100_000):
            writer.limit(size_bytes)
            with pytest.raises(
                OSError, match=r"cannot read or write .*store\.sqlite: (disk I/O error|database or disk is full)"
            ):
                writer.ask("upsert", MANY)
            assert writer.ask("contents") == reader.ask("contents") == OLD
        writer.limit()
        writer.ask("upsert", MANY)
        assert writer.ask("contents") == reader.ask("contents") == OLD | MANY
    check_after(index_dir, OLD | MANY)


def test_upsert_that_outgrows_memory_and_disk_changes_nothing(index_dir: Path) -> None:
    with Process(index_dir, "write") as writer:
        writer.limit(6_000_000)
        for _ in range(2):
            with pytest.raises(OSError, match=r"cannot read or write .*store\.sqlite: (disk I/O|database or disk)"):
                writer.ask("upsert_large", "large", 20_000_000)
            assert writer.ask("contents") == OLD
        writer.limit()
        writer.ask("upsert", {"new": 7})
    check_after(index_dir, {**OLD, "new": 7})


def test_delete_without_room_changes_nothing(index_dir: Path) -> None:
    with Process(index_dir, "write") as writer:
        writer.limit(0)
        with pytest.raises(OSError, match=r"cannot read or write .*store\.sqlite"):
            writer.ask("delete", ["k0"])
        assert writer.ask("contents") == OLD
        writer.limit()
        assert writer.ask("delete", ["k0"]) == 1
    check_after(index_dir, {key: number for key, number in OLD.items() if key != "k0"})


def test_compaction_without_room_leaves_the_version_and_the_changes(index_dir: Path) -> None:
    with Process(index_dir, "write") as writer, Process(index_dir) as reader:
        writer.ask("upsert", MANY)
        for size_bytes in (0, 100, 1000, 4000, 8000, 20_000):
            writer.limit(size_bytes)
            with pytest.raises(OSError, match="OSError: "):
                writer.ask("compact")
            assert writer.ask("version") == reader.ask("version") == "2"
            assert not (index_dir / "folding").exists()
            assert reader.ask("contents") == OLD | MANY
        writer.limit()
        assert writer.ask("compact") == reader.ask("version") == "3"
        assert reader.ask("contents") == OLD | MANY
    check_after(index_dir, OLD | MANY)


@pytest.mark.parametrize("is_killed", [False, True])
def test_writer_that_ends_without_room_loses_nothing(index_dir: Path, is_killed: bool) -> None:
    with Process(index_dir, "write") as writer:
        writer.ask("upsert", {"new": 7})
        writer.limit(0)
        with pytest.raises(OSError, match=r"cannot read or write .*store\.sqlite"):
            writer.ask("upsert", MANY)
        if is_killed:
            writer.kill()
    check_after(index_dir, {**OLD, "new": 7})


def slow_but(values: list[int], quick: int) -> list[Any]:
    """The values, of which all but one belong to the slow proofs."""
    return [value if value == quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(path)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path, bytes_left: int = 0) -> Path:
    """Takes the room that there is, but for a little; gives the file that takes it."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - bytes_left))
    return filler


def upsert_until_full(index: FaissIndex) -> int:
    """Changes one key and adds one, again and again; gives how often that worked."""
    reason, number = "", -1
    while not reason:
        number += 1
        try:
            index.upsert([numbered_key("k1", 2000 + number), numbered_key(f"new-{number}", 5000 + number)])
        except OSError as error:
            reason = str(error)
    assert "store.sqlite: database or disk is full" in reason
    return number


@pytest.mark.parametrize("bytes_left", slow_but([0, 8192, 20_480, 65_536], 20_480))
def test_disk_without_room_to_open_a_writer_keeps_nobody_from_reading(small_disk: Path, bytes_left: int) -> None:
    index_dir = make_index(small_disk / "i", [numbered_key(key, number) for key, number in OLD.items()])
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("k1", 7)])
        index.compact()
    filler = fill(small_disk, bytes_left)
    for change in (lambda: FaissIndex.open(index_dir, writable=True), lambda: roll_back(index_dir, undo_live=True)):
        with pytest.raises(OSError, match=r"No space left on device.*(store\.sqlite|\.lock)"):
            change()
        assert contents_of(index_dir) == {**OLD, "k1": 7}
    filler.unlink()
    roll_back(index_dir, undo_live=True)
    assert contents_of(index_dir) == OLD


@pytest.mark.parametrize(
    ("bytes_left", "named"),
    [(0, "/.lock"), (20_000, "plan.sqlite"), (100_000, "store.sqlite"), (200_000, "store.sqlite")],
)
def test_build_without_room_says_where_and_what_to_do(small_disk: Path, bytes_left: int, named: str) -> None:
    corpus = mixed_corpus(small_disk.with_name("corpus"))
    filler = fill(small_disk, bytes_left)

    said = rf"No space left on device.*{named}|{named}: database or disk is full; make room on that disk and try again"
    with pytest.raises(OSError, match=said):
        build_with(corpus, small_disk / "i")

    filler.unlink()
    assert build_with(corpus, small_disk / "i").manifest.num_keys == 9


@pytest.mark.parametrize("bytes_left", slow_but([0, 8192, 65_536, 150_000], 150_000))
def test_full_disk_refuses_changes_until_there_is_room(small_disk: Path, bytes_left: int) -> None:
    index_dir = make_index(small_disk / "i", [numbered_key(key, number) for key, number in OLD.items()])
    with FaissIndex.open(index_dir, writable=True) as index, FaissIndex.open(index_dir) as reader:
        index.upsert([numbered_key(key, number) for key, number in MANY.items()])
        filler = fill(small_disk, bytes_left)
        number = upsert_until_full(index)
        added = {f"new-{n}": 5000 + n for n in range(number)}
        stored = OLD | MANY | added | ({"k1": 1999 + number} if number else {})
        assert {key.key: key.payload.metadata["number"] for key in reader.scan()} == stored
        with pytest.raises(OSError, match=r"No space left|disk is full|cannot write|cannot read or write"):
            index.compact()
        assert index.manifest.version == "2"
        filler.unlink()
        index.upsert([numbered_key("new", 3000)])
        index.compact()
        assert index.count() == reader.count() == len(stored) + 1
    assert contents_of(index_dir) == {**stored, "new": 3000}
    check_after(index_dir, {**stored, "new": 3000})


def test_compaction_in_the_background_that_finds_no_room_is_tried_again(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_dir = make_index(small_disk / "i", [numbered_key(key, number) for key, number in OLD.items()])
    with FaissIndex.open(index_dir, writable=True, compact_after=len(MANY) + 1) as index:
        index.upsert([numbered_key(key, number) for key, number in MANY.items()])
        filler = fill(small_disk, 240_000)  # for one more change, and not for a version
        index.upsert([numbered_key("new", 5000)])
        until(lambda: "compaction failed; the published version stays" in caplog.text, "a compaction failed")
        assert (index.manifest.version, index.count()) == ("2", len(OLD | MANY) + 1)
        filler.unlink()
        until(lambda: not (index_dir / "folding").exists(), "half a version was cleared away")
        index.upsert([numbered_key("new", 5001)])
        until(lambda: index.info().details["num_unfolded"] == 0, "changes were folded")
    with FaissIndex.open(index_dir) as index:
        assert index.manifest.version == "3"
    check_after(index_dir, OLD | MANY | {"new": 5001})
