"""Verifying sees any damaged byte, and repairing derives what can be derived."""

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.errors import IndexCorruptError, IndexNotFoundError
from anykey.index.key_index import NewKey
from anykey.index.publish.creation import create_index
from anykey.index.publish.verify import repair_index, verify_index
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.new_keys import to_record
from anykey.index.store.store import Store
from tests.factories import build_with, mixed_corpus
from tests.live_index import make_index, new_keys, unit_vectors


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", new_keys(12))


def store_path(index_dir: Path) -> Path:
    return index_dir / "stores" / "1" / "store.sqlite"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def alter(index_dir: Path, change: str) -> None:
    with contextlib.closing(sqlite3.connect(store_path(index_dir))) as db:
        db.execute("PRAGMA foreign_keys = ON")
        assert db.execute(change).rowcount > 0
        db.commit()


def test_sound_index_has_no_damage(index_dir: Path) -> None:
    seen: list[int] = []
    assert verify_index(index_dir, seen.append) == []
    assert sum(seen) == 12

    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["k3"])
        index.upsert(new_keys(2, seed=5))
        assert verify_index(index_dir) == []


@pytest.mark.parametrize("name", ["rows.npy", "vectors.faiss", "fields.sqlite", "bad_rows.jsonl", "manifest.json"])
def test_missing_or_changed_file_of_the_version_is_found_and_repaired(index_dir: Path, name: str) -> None:
    queries_QD = unit_vectors(2, seed=9)
    with FaissIndex.open(index_dir) as index:
        expected = index.search(queries_QD, 12)
    path = index_dir / "versions" / "2" / name
    path.write_bytes(path.read_bytes()[:-1] + b"~")

    assert [error.path.name for error in verify_index(index_dir)] == [name]
    manifest = repair_index(index_dir)

    assert (manifest.version, manifest.num_keys) == ("3", 12)
    assert verify_index(index_dir) == []
    with FaissIndex.open(index_dir) as index:
        assert index.search(queries_QD, 12) == expected


def test_flipped_byte_of_a_file_that_opening_does_not_read_is_found(tmp_path: Path) -> None:
    """Opening reads files up to 4 MiB wholly."""
    width = 1024
    vectors_ND = unit_vectors(1100, width=width)
    create_index(tmp_path / "i", EncoderFacts(name="wide", fingerprint="sha256:wide", width=width, fusion="raw"))
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.load_records([to_record(NewKey(f"k{n}", v_D, "text"), width) for n, v_D in enumerate(vectors_ND)])
    path = tmp_path / "i" / "versions" / "2" / "vectors.faiss"
    size_bytes = path.stat().st_size
    assert size_bytes > 4 * 2**20

    for place in (60, 4 * 2**20, size_bytes - 1, *random.Random(0).choices(range(60, size_bytes), k=9)):
        flip(path, place)
        FaissIndex.open(tmp_path / "i").close()
        assert [error.path for error in verify_index(tmp_path / "i")] == [path], place
        flip(path, place)
    assert verify_index(tmp_path / "i") == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET text = 'another' WHERE key = 'k3'",
        "UPDATE keys SET metadata = '{}' WHERE key = 'k3'",
        "UPDATE vectors SET vector = zeroblob(32) WHERE id = 4",
        "UPDATE images SET data = x'00' WHERE id = 5",
        "DELETE FROM vectors WHERE id = 4",
        "DELETE FROM images WHERE id = 5",
        "DELETE FROM keys WHERE id = 4",
        "UPDATE keys SET row = 1000 WHERE id = 4",
        "UPDATE keys SET origin = 'corpus' WHERE id = 4",
        "UPDATE meta SET value = 'x' WHERE name = 'store_id'",
        "UPDATE meta SET value = 64 WHERE name = 'width'",
        "UPDATE meta SET value = 'x' WHERE name = 'fingerprint'",
        "UPDATE meta SET value = 'score' WHERE name = 'fusion'",
        "UPDATE meta SET value = 'float16' WHERE name = 'vector_type'",
        "UPDATE meta SET value = value - 1 WHERE name = 'seq'",
        "UPDATE meta SET value = 'x' WHERE name = 'checksum'",
        "DELETE FROM meta WHERE name = 'fusion'",
        "INSERT INTO meta VALUES ('calibrate', 'x')",
    ],
)
def test_any_changed_record_of_the_store_is_found(index_dir: Path, change: str) -> None:
    alter(index_dir, change)

    (damage,) = verify_index(index_dir)
    assert damage.path == store_path(index_dir) or "UPDATE keys SET row" in change or "DELETE FROM keys" in change


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("keys", "origin = 'live'"),
        ("keys", "content_sha256 = zeroblob(32)"),
        ("keys", "payload_sha256 = zeroblob(32)"),
        ("keys", "stamps = replace(stamps, 'png', 'gif')"),
        ("keys", "stamps = substr(stamps, 2)"),
        ("keys", "stamps = '7'"),
        ("failures", "payload_sha256 = zeroblob(32)"),
        ("failures", "limits = 'x'"),
        ("failures", "reason = 'x'"),
        ("failures", "stamps = '[['"),
        ("deletions", "key = 'key-1'"),
        ("deletions", "checksum = checksum + 1"),
    ],
)
def test_anything_changed_of_what_a_build_remembers_is_found(tmp_path: Path, table: str, change: str) -> None:
    corpus = mixed_corpus(tmp_path / "c", 6)
    (tmp_path / "c" / "images" / "4.png").write_text("no picture")
    build_with(corpus, tmp_path / "i")
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.delete(["key-0"])
    assert verify_index(tmp_path / "i") == []
    alter(tmp_path / "i", f"UPDATE {table} SET {change}")

    damage, *_ = verify_index(tmp_path / "i")
    assert damage.path == store_path(tmp_path / "i")
    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged"):
        repair_index(tmp_path / "i")
    build_with(corpus, tmp_path / "i", anew=True)
    assert verify_index(tmp_path / "i") == []


def test_stores_of_earlier_releases_have_fewer_checksums(tmp_path: Path) -> None:
    build_with(mixed_corpus(tmp_path / "c", 6), tmp_path / "i")
    alter(tmp_path / "i", "DELETE FROM meta WHERE name = 'checksum'")
    alter(tmp_path / "i", "UPDATE keys SET stamps = json_extract(stamps, '$.images')")

    assert verify_index(tmp_path / "i") == []
    assert not build_with(tmp_path / "c" / "corpus.jsonl", tmp_path / "i").is_new


def test_damaged_store_is_named_and_not_repaired(index_dir: Path) -> None:
    data = store_path(index_dir).read_bytes()
    flip(store_path(index_dir), data.index(b"text 3"))

    (damage,) = verify_index(index_dir)
    assert damage.path == store_path(index_dir)
    assert "k3" in str(damage)
    with pytest.raises(IndexCorruptError, match="k3"):
        repair_index(index_dir)


def test_version_of_other_vectors_than_the_stores_is_found(index_dir: Path, tmp_path: Path) -> None:
    other = make_index(tmp_path / "other", new_keys(12, seed=3))
    for name in ("vectors.faiss", "manifest.json"):
        shutil.copy(other / "versions" / "2" / name, index_dir / "versions" / "2" / name)
    with contextlib.closing(Store(store_path(index_dir))) as store, contextlib.closing(Store(store_path(other))) as its:
        store.note(store_id=its.meta["store_id"])

    (damage,) = verify_index(index_dir)
    assert "differ from the store's" in str(damage)


def test_lost_pointer_and_versions_are_made_again_from_the_store(index_dir: Path) -> None:
    (index_dir / "CURRENT").unlink()
    shutil.rmtree(index_dir / "versions")

    assert repair_index(index_dir).num_keys == 12
    assert verify_index(index_dir) == []


def test_without_a_store_there_is_nothing_to_repair(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="no store"):
        repair_index(tmp_path / "i")
    with pytest.raises(IndexNotFoundError):
        verify_index(tmp_path / "i")
