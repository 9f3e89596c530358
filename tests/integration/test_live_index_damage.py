"""A store that is not what it was is named, and never answers with anything but what was stored."""

import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from anykey.index import FaissIndex
from anykey.index.errors import IndexCorruptError, KeyCorruptError, KeyNotFoundError
from anykey.index.filtering.conditions import Equals, In
from anykey.index.filtering.facets import ValueFacet
from anykey.index.key_index import EVERYTHING, Scope
from anykey.index.publish.verify import repair_index, verify_index
from anykey.index.store.schema import PAGE_BYTES
from tests.killed_writers import contents_of, numbered_key, numbered_vector
from tests.live_index import WIDTH, make_index

OLD = {f"k{number}": number for number in range(5)}
NEWER = {"k1": 21, "new": 22}
ALL = OLD | NEWER


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    """Five keys in the version, one of them changed and one more stored since."""
    make_index(tmp_path / "i", [numbered_key(key, number) for key, number in OLD.items()])
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.upsert([numbered_key(key, number) for key, number in NEWER.items()])
    return tmp_path / "i"


@pytest.fixture
def store(index_dir: Path) -> Path:
    return index_dir / "stores" / "1" / "store.sqlite"


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1 << bit]))


def places_of(path: Path, content: bytes) -> list[int]:
    """Where some bytes lie in a file; there may be several places, for SQLite does not wipe what it gave up."""
    data = path.read_bytes()
    places = [place for place in range(len(data)) if data.startswith(content, place)]
    assert places, content
    return places


@pytest.mark.parametrize("number", [3, 22])  # in the version, and newer than it
@pytest.mark.parametrize("part", ["text", "metadata", "pools", "vector", "image"])
def test_flipped_byte_of_a_record_is_an_error_and_never_an_answer(store: Path, part: str, number: int) -> None:
    content = {
        "text": f"text {number}".encode(),
        "metadata": f'{{"number": {number}}}'.encode(),
        "pools": f'"p{number % 2}"'.encode(),
        "vector": numbered_vector(number).tobytes(),
        "image": f"image {number} image {number} ".encode(),
    }[part]
    for place in places_of(store, content):
        flip(store, place + len(content) - 3)

    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged: .* differs from its checksum") as caught:
        contents_of(store.parents[2])
    assert caught.value.path == store


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda store: store.write_bytes(b""), "expected a store of schema 2"),
        (lambda store: store.write_bytes(b"x" * 5000), "file is not a database"),
        (lambda store: store.unlink(), "it is missing"),
        (lambda store: sqlite3.connect(store).executescript("PRAGMA user_version = 9").close(), "schema 9"),
    ],
)
def test_file_that_is_no_store_is_named_at_open(
    store: Path, damage: Callable[[Path], object], reason: str, writable: bool
) -> None:
    damage(store)
    before = store.read_bytes() if store.exists() else None

    with pytest.raises(IndexCorruptError, match=rf"store\.sqlite is damaged: .*{reason}"):
        FaissIndex.open(store.parents[2], writable=writable)
    assert (store.read_bytes() if store.exists() else None) == before


@pytest.mark.parametrize("writable", [False, True])
def test_store_that_was_cut_is_named(store: Path, writable: bool) -> None:
    data = store.read_bytes()
    # The last page is that of the retired records, which are no part of what is open; `verify` reads them.
    last_page = len(data) - PAGE_BYTES
    for size_bytes in range(4096, last_page + 1, 4096):
        store.write_bytes(data[:size_bytes])
        with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged: "):
            contents_of_open(FaissIndex.open(store.parents[2], writable=writable))


def contents_of_open(index: FaissIndex) -> list[str]:
    with index:
        (hits,) = index.search(np.eye(1, WIDTH, dtype=np.float32), 99)
        return sorted(hit.key for hit in hits)


@pytest.mark.parametrize("writable", [False, True])
def test_older_store_is_named_at_open(store: Path, tmp_path: Path, writable: bool) -> None:
    shutil.copy(store, tmp_path / "older.sqlite")
    with FaissIndex.open(store.parents[2], writable=True) as index:
        index.delete(["k0"])
        index.compact()
    shutil.copy(tmp_path / "older.sqlite", store)

    with pytest.raises(IndexCorruptError, match=r"ends with change 8, version 3 was made after change 9: is it an ol"):
        FaissIndex.open(store.parents[2], writable=writable)


@pytest.mark.parametrize("writable", [False, True])
def test_store_of_another_index_is_named_at_open(store: Path, tmp_path: Path, writable: bool) -> None:
    make_index(tmp_path / "other", [numbered_key(f"k{number}", number) for number in range(50)])
    shutil.copy(tmp_path / "other" / "stores" / "1" / "store.sqlite", store)

    with pytest.raises(IndexCorruptError, match=r"store\.sqlite is damaged: it is not the store that version 2 names"):
        FaissIndex.open(store.parents[2], writable=writable)


def test_damaged_record_stops_compaction_and_no_other_change(index_dir: Path, store: Path) -> None:
    for place in places_of(store, numbered_vector(3).tobytes()):
        flip(store, place)

    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("newer", 30)])
        with pytest.raises(IndexCorruptError, match=r"the vector of key 'k3' differs from its checksum"):
            index.compact()
        assert (index.manifest.version, index.count()) == ("2", 7)
        assert not (index_dir / "folding").exists()
        index.upsert([numbered_key("k3", 31)])
        assert index.compact().num_keys == 7
    assert contents_of(index_dir) == ALL | {"newer": 30, "k3": 31}


def answers(index_dir: Path) -> Iterator[object]:
    """All kinds of answers, one after the other."""
    with FaissIndex.open(index_dir) as index:
        for key in ALL:
            yield index.get(key)
            yield index.vector(key).tolist()
            yield index.image(key)
        for number in ALL.values():
            (hits,) = index.search(numbered_vector(number)[None], 2, exact=True)
            yield [(hit.key, hit.payload, round(hit.score, 5)) for hit in hits]
        yield list(index.scan())


def test_any_flipped_byte_of_a_store_gives_an_error_or_the_right_answers(index_dir: Path, store: Path) -> None:
    """Of what SQLite itself keeps to find keys a flipped byte may hide one; that is for `verify` to find."""
    expected, data, draw = list(answers(index_dir)), store.read_bytes(), random.Random(0)
    places = [place for place in range(len(data)) if data[place] or draw.random() < 0.01]  # most of it is empty
    num_hidden = 0
    for place in draw.sample(places, 500):
        flip(store, place, bit=draw.randrange(8))
        try:
            is_hidden = list(answers(index_dir)) != expected
        except IndexCorruptError:
            is_hidden = False
        except KeyNotFoundError:
            is_hidden = True
        if is_hidden:
            num_hidden += 1
            assert verify_index(index_dir) != [], place
        store.write_bytes(data)

    assert num_hidden < 10


def damaged(store: Path, content: bytes, at: int = -3, bit: int = 2) -> None:
    """Flips a bit of some content, wherever it lies in the store."""
    for place in places_of(store, content):
        flip(store, place + len(content) + at, bit)


def searched(index: FaissIndex, number: int, scope: Scope = EVERYTHING, k: int = 1) -> list[str]:
    (hits,) = index.search(numbered_vector(number)[None], k, scope, exact=True)
    return [hit.key for hit in hits]


def numbers_counted(index: FaissIndex, scope: Scope) -> int:
    with index.moment() as moment:
        (counts,) = moment.facets([ValueFacet(("number",))], scope)
        return counts.num_keys


@pytest.mark.parametrize(("content", "bit"), [(b"text 22", 2), (b"text 22", 7), (b'{"number": 22}', 2)])
def test_damaged_payload_of_a_recent_key_fails_the_answers_it_is_in_and_no_others(
    index_dir: Path, store: Path, content: bytes, bit: int
) -> None:
    damaged(store, content, bit=bit)  # the highest bit makes the text none of UTF-8

    with FaissIndex.open(index_dir, writable=True) as index:
        assert [searched(index, number) for number in (0, 21, 2, 3, 4)] == [["k0"], ["k1"], ["k2"], ["k3"], ["k4"]]
        assert index.get("k1").payload.text == "text 21"
        assert searched(index, 3, Scope(within=["k3"], condition=Equals(("number",), 3))) == ["k3"]
        for ask in (
            lambda: searched(index, 22),
            lambda: searched(index, 0, k=99),
            lambda: index.get("new"),
            lambda: list(index.scan(after="k4")),
            lambda: index.count(Scope(pool="p1")),  # it cannot be told whether the key is in it
            lambda: numbers_counted(index, Scope()),
            index.compact,
        ):
            with pytest.raises(KeyCorruptError, match=r"payload of key 'new' .*; store key 'new' again, delete it, or"):
                ask()
        assert numbers_counted(index, Scope(exclude=["new"])) == 5
        assert [key.key for key in itertools.islice(index.scan(), 5)] == sorted(OLD)
        assert (index.count(), index.info().details["num_damaged"]) == (6, 1)

        index.upsert([numbered_key("new", 30)])
        assert searched(index, 30) == ["new"]
        assert index.info().details["num_damaged"] == 0
        assert index.compact().num_keys == 6
    assert contents_of(index_dir) == OLD | {"k1": 21, "new": 30}
    if bit == 7:  # what it is found by has the same letters, and is damaged too
        (damage,) = verify_index(index_dir)
        assert "its keys' words" in str(damage)
        repair_index(index_dir)
    assert verify_index(index_dir) == []


def test_damaged_vector_of_a_recent_key_fails_the_answers_it_would_be_in(index_dir: Path, store: Path) -> None:
    damaged(store, numbered_vector(22).tobytes(), at=-4)  # the lowest bits of a number: nothing that a norm shows

    with FaissIndex.open(index_dir) as index:
        assert searched(index, 3) == ["k3"]
        with pytest.raises(KeyCorruptError, match=r"the vector of key 'new' differs from its checksum"):
            searched(index, 22)
        assert index.get("new").payload.text == "text 22"
        with pytest.raises(KeyCorruptError, match=r"the vector of key 'new' differs from its checksum"):
            index.vector("new")
        assert index.count(Scope(pool="p0")) == index.count(Scope(condition=In(("number",), (0, 2, 4, 22))))


def test_recent_key_whose_vector_is_lost_is_named_and_the_rest_is_searched(index_dir: Path, store: Path) -> None:
    damaged(store, numbered_vector(22).tobytes(), at=-1)  # a sign, or the size of a number

    with FaissIndex.open(index_dir) as index:
        found = sorted(searched(index, 0, k=99))
        assert found == sorted(OLD)
        assert (index.count(), index.info().details["num_damaged"]) == (6, 1)
        with pytest.raises(KeyCorruptError, match=r"the record of key 'new' differs from its checksum"):
            index.check()
    (damage,) = verify_index(index_dir)
    assert isinstance(damage, KeyCorruptError)
    assert damage.key == "new"


def test_verify_names_every_damaged_key(index_dir: Path, store: Path) -> None:
    damaged(store, b"text 22")
    damaged(store, b"text 3", at=-4)
    damaged(store, numbered_vector(4).tobytes())

    assert [error.key for error in verify_index(index_dir) if isinstance(error, KeyCorruptError)] == ["k3", "k4", "new"]
    with pytest.raises(KeyCorruptError, match=r"store key 'k3' again, delete it, or restore a snapshot"):
        repair_index(index_dir)
