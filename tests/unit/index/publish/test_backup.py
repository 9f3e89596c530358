"""A snapshot is the index at one moment, wherever it is unpacked."""

import contextlib
import dataclasses
import os
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from anykey.index import FaissIndex, StoredImage
from anykey.index.errors import IndexLockedError, IndexNotFoundError, InvalidSnapshotError, OutputExistsError
from anykey.index.publish.backup import restore_snapshot, write_snapshot
from anykey.index.publish.directory import WritableDirectory
from tests.full_disk import no_file_beyond
from tests.live_index import everything, make_index, new_keys, unit_vectors


def test_restored_index_answers_as_the_one_that_was_copied(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(9))
    queries_QD = unit_vectors(3, seed=7)
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.delete(["k4"])  # not folded yet, and in no file but the store's log
        write_snapshot(tmp_path / "i", tmp_path / "i.tar")
        expected = index.search(queries_QD, 9)
        index.delete(["k5"])

    restore_snapshot(tmp_path / "i.tar", tmp_path / "elsewhere" / "i")

    with FaissIndex.open(tmp_path / "elsewhere" / "i", writable=True) as restored:
        assert restored.search(queries_QD, 9) == expected
        assert len(expected[0]) == 8
        restored.delete(["k5"])
        assert restored.count() == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "i", "i.tar"]


def test_what_is_left_in_the_unused_room_of_a_store_is_in_no_snapshot(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(9))
    with contextlib.closing(sqlite3.connect(tmp_path / "i" / "stores" / "1" / "store.sqlite")) as db:
        db.execute("PRAGMA secure_delete = OFF")  # as some builds of SQLite have it
        db.execute("CREATE TABLE gone (text)")
        db.executemany("INSERT INTO gone VALUES (?)", [("deleted secret " * 1000,)] * 99)
        db.commit()
        db.execute("DROP TABLE gone")

    write_snapshot(tmp_path / "i", tmp_path / "i.tar")

    assert b"deleted secret" in (tmp_path / "i" / "stores" / "1" / "store.sqlite").read_bytes()
    assert b"deleted secret" not in (tmp_path / "i.tar").read_bytes()
    restore_snapshot(tmp_path / "i.tar", tmp_path / "restored")
    assert everything(tmp_path / "restored") == everything(tmp_path / "i")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(1))
    write_snapshot(tmp_path / "i", tmp_path / "i.tar")

    with pytest.raises(OutputExistsError):
        write_snapshot(tmp_path / "i", tmp_path / "i.tar")
    with pytest.raises(OutputExistsError):
        restore_snapshot(tmp_path / "i.tar", tmp_path / "i")


def test_folder_of_a_snapshot_is_made_and_one_with_nothing_but_a_lock_is_free(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(3))
    write_snapshot(tmp_path / "i", tmp_path / "new" / "folder" / "i.tar")
    with WritableDirectory(tmp_path / "free").locked_for_writing("build"), pytest.raises(IndexLockedError):
        restore_snapshot(tmp_path / "new" / "folder" / "i.tar", tmp_path / "free")

    restore_snapshot(tmp_path / "new" / "folder" / "i.tar", tmp_path / "free")

    assert everything(tmp_path / "free") == everything(tmp_path / "i")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "i", "new"]


def test_what_is_no_tar_file_and_no_folder_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"garbage" * 200)

    with pytest.raises(InvalidSnapshotError, match="file is no snapshot: it is no tar file"):
        restore_snapshot(tmp_path / "file", tmp_path / "new")
    with pytest.raises(NotADirectoryError, match=r"expected a folder for an index, found a file: '.*file'"):
        restore_snapshot(tmp_path / "file", tmp_path / "file")
    make_index(tmp_path / "i", new_keys(1))
    with pytest.raises(NotADirectoryError, match=r"expected a folder for a snapshot, found a file: '.*file'"):
        write_snapshot(tmp_path / "i", tmp_path / "file" / "i.tar")


def test_what_a_killed_snapshot_left_is_written_over(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(3))
    for leftover in (".i.tar.part", ".i.tar.store"):
        (tmp_path / leftover).write_bytes(b"half" * 1000)

    write_snapshot(tmp_path / "i", tmp_path / "i.tar")

    restore_snapshot(tmp_path / "i.tar", tmp_path / "new")
    assert everything(tmp_path / "new") == everything(tmp_path / "i")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "i.tar", "new"]


@pytest.mark.parametrize("kind", ["w:gz", "w:xz"])
def test_compressed_snapshot_that_is_cut_is_no_snapshot(tmp_path: Path, kind: Any) -> None:
    with tarfile.open(tmp_path / "i.tar", kind) as tar:
        tar.add(__file__, "notes.py")
    data = (tmp_path / "i.tar").read_bytes()
    (tmp_path / "i.tar").write_bytes(data[: len(data) // 2])

    with pytest.raises(InvalidSnapshotError, match=r"i\.tar is no snapshot"):
        restore_snapshot(tmp_path / "i.tar", tmp_path / "new")


@pytest.mark.parametrize("name", ["i.tar", "new/i.tar"])
def test_snapshot_of_nothing_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(IndexNotFoundError):
        write_snapshot(tmp_path / "i", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["rubbish", "cut", "flipped", "other files", "escaping"])
def test_damaged_snapshot_becomes_no_index(tmp_path: Path, damage: str) -> None:
    make_index(tmp_path / "i", new_keys(30))
    path = tmp_path / "i.tar"
    write_snapshot(tmp_path / "i", path)
    data = bytearray(path.read_bytes())
    if damage == "rubbish":
        path.write_bytes(b"rubbish" * 1000)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[data.index(b"text 3")] ^= 1
        path.write_bytes(data)
    else:
        with tarfile.open(path, "w") as tar:
            tar.add(__file__, "../../out.py" if damage == "escaping" else "notes.py")

    with pytest.raises(InvalidSnapshotError, match=r"i\.tar is (no snapshot|damaged)"):
        restore_snapshot(path, tmp_path / "new" / "i")
    assert not (tmp_path / "new" / "i").exists()
    assert not list((tmp_path / "new").glob("*")) or list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(("share", "name"), [(0.1, r"\.i\.tar\.store"), (1.0, r"\.i\.tar\.part")])
def test_snapshot_without_room_names_what_it_cannot_write_and_leaves_nothing(
    tmp_path: Path, share: float, name: str
) -> None:
    make_index(tmp_path / "i", new_keys(300))
    (store,) = (tmp_path / "i").glob("stores/*/store.sqlite")

    with no_file_beyond(int(share * store.stat().st_size)), pytest.raises(OSError, match=name):
        write_snapshot(tmp_path / "i", tmp_path / "i.tar")

    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_large_store_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    (key,) = new_keys(1)
    images = (StoredImage(os.urandom(6 * 2**20), "image/png"),)  # beyond what SQLite holds in memory
    make_index(tmp_path / "i", [dataclasses.replace(key, images=images)])

    with no_file_beyond(4 * 2**20), pytest.raises(OSError, match=r"i\.tar\.store"):
        write_snapshot(tmp_path / "i", tmp_path / "i.tar")

    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_restoring_without_room_names_the_index_and_leaves_nothing(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(300))
    write_snapshot(tmp_path / "i", tmp_path / "i.tar")

    with no_file_beyond(20_000), pytest.raises(OSError, match=r"File too large: '.*new'"):
        restore_snapshot(tmp_path / "i.tar", tmp_path / "new")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "i.tar"]


def test_snapshot_is_restored_to_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_index(tmp_path / "i", new_keys(3))
    write_snapshot(tmp_path / "i", tmp_path / "i.tar")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    restore_snapshot(tmp_path / "i.tar", Path())

    assert everything(Path()) == everything(tmp_path / "i")
