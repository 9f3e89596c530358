"""Protects the check of an open index: sound is told from damaged, and what was mended is used again."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anykey.encoder.item import Item
from anykey.index.errors import IndexCorruptError
from anykey.index.faiss_index import FaissIndex
from anykey.index.publish.directory import WritableDirectory
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, stored

NUM_KEYS = 200


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = [stored(f"key {number}", Item(text=f"text {number} " + "word " * 40)) for number in range(NUM_KEYS)]
    return build_real_index(tmp_path_factory.mktemp("built"), FakeEncoder(), keys)


@pytest.fixture
def index_dir(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


@pytest.fixture
def index(index_dir: Path) -> Iterator[FaissIndex]:
    with FaissIndex.open(index_dir) as opened:
        yield opened


@pytest.fixture
def store(index_dir: Path) -> Path:
    return WritableDirectory(index_dir).store_path("1")


def overwrite(path: Path, found: bytes, other: bytes) -> None:
    """Changes some bytes in the middle of a file, in place."""
    data = path.read_bytes()
    assert found in data
    with path.open("r+b") as file:
        file.write(data.replace(found, other))


def fill_with_noise(path: Path) -> None:
    size_bytes = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\x5a" * size_bytes)


def test_sound_index_is_found_sound_again_and_again(index: FaissIndex) -> None:
    index.check()
    index.check()


@pytest.mark.parametrize("damage", [fill_with_noise, os.remove, lambda path: os.truncate(path, 5_000)])
def test_damaged_store_is_noticed_without_a_search(
    index: FaissIndex, store: Path, damage: Callable[[Path], None]
) -> None:
    damage(store)
    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged"):
        index.check()


@pytest.mark.parametrize("name", ["vectors.faiss", "rows.npy", "fields.sqlite"])
@pytest.mark.parametrize("damage", [fill_with_noise, os.remove, lambda path: os.truncate(path, 100)])
def test_damaged_file_of_the_version_is_not_read_any_more(
    index: FaissIndex, index_dir: Path, damage: Callable[[Path], None], name: str
) -> None:
    path = index_dir / "versions" / "1" / name
    sound = path.read_bytes()
    damage(path)
    for _ in range(2):
        with pytest.raises(IndexCorruptError, match=name):
            index.count()
        with pytest.raises(IndexCorruptError, match=name):
            index.check()

    path.write_bytes(sound)
    with pytest.raises(IndexCorruptError, match=name):
        index.count()  # it has to be opened again first
    index.check()
    assert index.count() == NUM_KEYS


def test_file_that_was_only_touched_is_compared_and_kept_in_use(index: FaissIndex, index_dir: Path) -> None:
    os.utime(index_dir / "versions" / "1" / "vectors.faiss")
    assert index.count() == NUM_KEYS
    index.check()


def test_version_that_was_moved_away_is_noticed_and_found_again(index: FaissIndex, index_dir: Path) -> None:
    os.rename(index_dir, index_dir.with_name("away"))
    with pytest.raises(IndexCorruptError):
        index.check()
    os.rename(index_dir.with_name("away"), index_dir)
    index.check()


def test_damage_that_a_call_met_counts_until_the_file_is_mended(index: FaissIndex, store: Path) -> None:
    sound = store.read_bytes()
    overwrite(store, b"text 150 ", b"TEXT 150 ")
    with pytest.raises(IndexCorruptError, match=r"key 'key 150' differs"):
        index.get("key 150")
    for _ in range(3):
        with pytest.raises(IndexCorruptError, match=r"key 'key 150' differs"):
            index.check()

    with store.open("r+b") as file:
        file.write(sound)
    index.check()

    assert (index.get("key 150").payload.text or "").startswith("text 150 ")


def test_store_that_is_put_back_is_read_again(index: FaissIndex, store: Path) -> None:
    sound = store.read_bytes()
    overwrite(store, b"text 150 ", b"TEXT 150 ")
    with pytest.raises(IndexCorruptError):
        index.get("key 150")
    aside = store.with_name("aside")
    aside.write_bytes(sound)
    os.replace(aside, store)

    index.check()

    assert index.get("key 150").key == "key 150"
