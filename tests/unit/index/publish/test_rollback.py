"""Going back to a version: its keys with everything that they had, and a way forward again."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.__main__ import main
from anykey.index.errors import LiveKeysError
from anykey.index.key_index import NewKey
from anykey.index.publish.backup import restore_snapshot, write_snapshot
from anykey.index.publish.rollback import roll_back
from anykey.index.publish.verify import repair_index, verify_index
from anykey.index.store.image_roots import read_roots
from anykey.sources.errors import SourceError
from tests.factories import BLUE, build_with, image_bytes, mixed_corpus, write_jsonl
from tests.fakes import FakeEncoder
from tests.live_index import everything

NUM_KEYS = 9


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return mixed_corpus(tmp_path / "corpus", NUM_KEYS)


@pytest.fixture
def index_dir(tmp_path: Path, corpus: Path) -> Path:
    build_with(corpus, tmp_path / "i", structure="exact")
    return tmp_path / "i"


def run(*arguments: object) -> int:
    return main(["rollback", *map(str, arguments), "--search-device", "cpu"])


def cut_short(corpus: Path, num_rows: int = 2) -> None:
    """Leaves the first rows, the second of them changed: another image, and another pool."""
    rows = [json.loads(line) for line in corpus.read_text().splitlines()[:num_rows]]
    (corpus.parent / rows[1]["image"]).write_bytes(image_bytes(BLUE, 16))
    rows[1]["pool"] = "another"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))


def live_key(name: str, text: str = "stored live") -> NewKey:
    return NewKey(name, FakeEncoder().encode([Item(text)])[0], text)


def all_found(index_dir: Path) -> None:
    """Each key is found by its own vector, and nothing is damaged."""
    with FaissIndex.open(index_dir) as index:
        for stored in index.scan():
            (hits,) = index.search(index.vector(stored.key)[None], NUM_KEYS + 5, exact=True)
            assert stored.key in {hit.key for hit in hits if hit.score > 0.999}
    assert verify_index(index_dir) == []


def test_a_build_of_a_corpus_cut_short_is_gone_back_from(
    corpus: Path, index_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(index_dir)
    bad_rows = (index_dir / "versions" / "1" / "bad_rows.jsonl").read_text()
    shutil.copy(corpus, corpus.with_suffix(".whole"))
    image = (corpus.parent / "images" / "1.png").read_bytes()
    cut_short(corpus)
    build_with(corpus, index_dir)
    after = everything(index_dir)
    assert len(after) == 2

    assert run("--index", index_dir) == 0

    assert "7 keys come back, 1 get back what they had, 0 go" in capsys.readouterr().out
    assert everything(index_dir) == before
    all_found(index_dir)
    with FaissIndex.open(index_dir) as index:
        assert (index.version, index.info().details["num_unfolded"]) == ("3", 0)
        assert index.info().pools == {"even": 5, "odd": 4}
        assert (index.manifest.options.structure, index.manifest.corpus) == ("exact", [str(corpus)])
    assert (index_dir / "versions" / "3" / "bad_rows.jsonl").read_text() == bad_rows
    assert run("--index", index_dir) == 0
    assert everything(index_dir) == after
    assert run("--index", index_dir) == 0
    shutil.copy(corpus.with_suffix(".whole"), corpus)
    (corpus.parent / "images" / "1.png").write_bytes(image)
    encoder = FakeEncoder()
    build_with(corpus, index_dir, encoder)  # knows its keys again
    assert (encoder.batches, everything(index_dir)) == ([], before)


@pytest.mark.parametrize("vectors", ["float32", "float16"])
def test_live_changes_are_undone_only_when_that_is_said(
    tmp_path: Path, corpus: Path, vectors: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index_dir = tmp_path / "i"
    build_with(corpus, index_dir, vectors=vectors)
    before = everything(index_dir)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for text in ("first", "second"):
            index.upsert([live_key("key-1", text), live_key("new", text)])
        index.delete(["key-2", "key-4"])
        index.upsert([live_key("key-4")])
    changed = everything(index_dir)

    assert run("--index", index_dir) == 2
    assert "say with --to to which version to go back; it has 1 (" in capsys.readouterr().err
    assert run("--index", index_dir, "--to", "1") == 1
    assert "4 keys of" in (said := capsys.readouterr().err)
    assert "were stored or deleted live after version 1 was made, which would be undone; --undo-live" in said
    assert run("--index", index_dir, "--to", "1", "--dry-run") == 0
    assert "1 keys come back, 2 get back what they had, 1 go" in (said := capsys.readouterr().out)
    assert "nothing was changed" in said
    assert everything(index_dir) == changed

    assert run("--index", index_dir, "--to", "1", "--undo-live") == 0

    assert everything(index_dir) == before
    all_found(index_dir)
    assert run("--index", index_dir, "--to", "2", "--undo-live") == 0  # what was there before has become a version
    assert everything(index_dir) == changed
    all_found(index_dir)


def test_versions_are_kept_as_long_as_is_said_and_no_longer(
    index_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_with(corpus, index_dir, keep_versions=4)
    states: dict[str, Any] = {}
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for number in range(6):
            index.upsert([live_key("key-1", f"text {number}")])
            states[index.compact().version] = everything(index_dir)
    assert sorted(states) == ["3", "4", "5", "6", "7", "8"]
    assert main(["info", "--index", str(index_dir)]) == 0
    assert "5 (" in (said := capsys.readouterr().out)
    assert "4 (" not in said

    assert run("--index", index_dir, "--to", "4") == 1
    assert "has no version 4 that can be read; it has 5 (" in capsys.readouterr().err
    assert run("--index", index_dir, "--to", "5", "--undo-live") == 0
    assert everything(index_dir) == states["5"]
    with FaissIndex.open(index_dir, writable=True) as index:
        index.compact(index.manifest.options.model_copy(update={"keep_versions": 1}))
    with contextlib.closing(sqlite3.connect(index_dir / "stores" / "1" / "store.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM retired").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (NUM_KEYS,)
    assert run("--index", index_dir) == 1
    assert "has no version before" in capsys.readouterr().err


def test_a_build_that_fails_deletes_no_way_back(index_dir: Path, tmp_path: Path) -> None:
    build_with(tmp_path / "corpus" / "corpus.jsonl", index_dir, keep_versions=5)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for number in range(3):
            index.upsert([live_key("key-1", f"text {number}")])
            index.compact()
    names = [path.name for path in sorted((index_dir / "versions").iterdir())]
    (index_dir / "versions" / names[-1] / "manifest.json").write_text("damaged")

    with pytest.raises(SourceError):
        build_with(write_jsonl(tmp_path / "bad.jsonl", ["{bad"]), index_dir)

    assert [path.name for path in sorted((index_dir / "versions").iterdir())] == names
    assert len(names) == 5


def test_a_build_with_another_encoder_keeps_as_many_versions(corpus: Path, index_dir: Path) -> None:
    build_with(corpus, index_dir, keep_versions=4)
    for name in ("another", "a third", "fake"):
        build_with(corpus, index_dir, FakeEncoder(name))

    assert sorted(path.name for path in (index_dir / "versions").iterdir()) == ["2", "3", "4", "5"]


def test_what_a_version_would_not_need_is_not_kept(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for number in range(20):
            index.upsert([live_key("key-1", f"text {number}"), live_key("new", f"text {number}")])
    with contextlib.closing(sqlite3.connect(index_dir / "stores" / "1" / "store.sqlite")) as db:
        assert db.execute("SELECT key FROM retired").fetchall() == [("key-1",)]
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (NUM_KEYS + 2,)


def test_a_build_with_another_encoder_is_gone_back_from(corpus: Path, index_dir: Path) -> None:
    before = everything(index_dir)
    build_with(corpus, index_dir, FakeEncoder("another"))
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([live_key("new")])
    after = everything(index_dir)

    assert run("--index", index_dir, "--to", "1") == 1  # the live key would be undone
    assert run("--index", index_dir, "--to", "1", "--undo-live") == 0

    assert everything(index_dir) == before
    with FaissIndex.open(index_dir) as index:
        assert index.encoder.name == "fake"
    all_found(index_dir)
    assert run("--index", index_dir) == 0
    assert everything(index_dir) == after
    with FaissIndex.open(index_dir) as index:
        assert index.encoder.name == "another"


def test_images_that_an_earlier_version_refers_to_are_shown_again(tmp_path: Path) -> None:
    index_dir, places = tmp_path / "i", [mixed_corpus(tmp_path / name, NUM_KEYS) for name in ("one", "two")]
    build_with(places[0], index_dir, images="reference", keep_versions=9)
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([live_key("new")])
        index.compact()
    states = [everything(index_dir)]
    build_with(places[1], index_dir, images="reference")
    states.append(everything(index_dir))
    build_with(places[1], index_dir)

    for version, state in (("2", 0), ("3", 1), ("5", 0)):
        roll_back(index_dir, version, undo_live=True)
        assert everything(index_dir) == states[state]
        roots = read_roots(index_dir).corpus
        assert roots == (str(places[state].parent),)


def test_a_reader_moves_on_to_what_came_back(corpus: Path, index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as reader:
        cut_short(corpus)
        build_with(corpus, index_dir)
        assert reader.count() == 2
        assert run("--index", index_dir) == 0
        assert (reader.count(), reader.version) == (NUM_KEYS, "3")


def test_a_store_of_an_earlier_release_is_taken_on_and_says_what_it_lacks(
    index_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = index_dir / "stores" / "1" / "store.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE retired")
    assert verify_index(index_dir) == []
    before = everything(index_dir)
    assert run("--index", index_dir, "--to", "1", "--dry-run") == 0
    cut_short(corpus)
    build_with(corpus, index_dir)
    assert run("--index", index_dir) == 0
    assert everything(index_dir) == before

    with contextlib.closing(sqlite3.connect(path)) as db:  # as an earlier release deletes keys
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("DELETE FROM keys WHERE key IN ('key-3', 'key-4')")
        db.commit()
    capsys.readouterr()
    assert run("--index", index_dir, "--to", "3") == 1
    assert "of its 9 keys the store no longer has 2 as they were" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE retired SET text = 'other' WHERE key = 'key-3'",
        "UPDATE retired SET ended = ended + 1 WHERE key = 'key-3'",
        "UPDATE retired SET ended_by = 'live' WHERE key = 'key-3'",
        "UPDATE vectors SET vector = zeroblob(32) WHERE id IN (SELECT id FROM retired WHERE key = 'key-3')",
        "DELETE FROM images WHERE id IN (SELECT id FROM retired WHERE key = 'key-4')",
    ],
)
def test_damage_of_an_earlier_record_is_found_and_costs_nothing_that_is_live(
    index_dir: Path, corpus: Path, change: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short(corpus)
    build_with(corpus, index_dir)
    live = everything(index_dir)
    with contextlib.closing(sqlite3.connect(index_dir / "stores" / "1" / "store.sqlite")) as db:
        assert db.execute(change).rowcount == 1
        db.commit()

    assert [error.path.name for error in verify_index(index_dir)] == ["store.sqlite"]
    assert run("--index", index_dir) == 1
    assert everything(index_dir) == live
    repair_index(index_dir)

    assert "cannot be gone back to" in caplog.text
    assert everything(index_dir) == live
    assert verify_index(index_dir) == []
    capsys.readouterr()
    assert run("--index", index_dir, "--to", "2") == 0
    with contextlib.closing(sqlite3.connect(index_dir / "stores" / "1" / "store.sqlite")) as db:
        assert np.array(db.execute("SELECT count(*) FROM vectors").fetchone()) == len(live)


def test_a_snapshot_holds_nothing_of_what_was_deleted(
    index_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([live_key("new", "a secret text")])
        index.compact()
        index.delete(["new", "key-4"])
    write_snapshot(index_dir, tmp_path / "i.tar")

    restore_snapshot(tmp_path / "i.tar", tmp_path / "restored")
    with contextlib.closing(sqlite3.connect(tmp_path / "restored" / "stores" / "1" / "store.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM retired").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (NUM_KEYS - 1,)
    assert everything(tmp_path / "restored") == everything(index_dir)
    assert run("--index", tmp_path / "restored", "--to", "2") == 1
    assert "restored snapshot" in capsys.readouterr().err
    assert run("--index", index_dir, "--to", "2", "--undo-live") == 0
    assert everything(index_dir)["new"][0].payload.text == "a secret text"


def test_an_index_with_a_writer_is_not_gone_back(
    index_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short(corpus)
    build_with(corpus, index_dir)
    with FaissIndex.open(index_dir, writable=True):
        assert run("--index", index_dir) == 1
        assert "one writer at a time" in capsys.readouterr().err
        assert run("--index", index_dir, "--dry-run") == 0
    assert run("--index", index_dir / "none") == 1
    assert "no index at" in capsys.readouterr().err


def test_what_was_deleted_then_is_deleted_again_and_stays_so(index_dir: Path, corpus: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["key-2"])
        index.compact()
    build_with(corpus, index_dir, restore_deleted=True)
    assert "key-2" in everything(index_dir)

    roll_back(index_dir, "2")
    report = build_with(corpus, index_dir)

    assert ("key-2" in everything(index_dir), report.num_deleted) == (False, 1)
    assert verify_index(index_dir) == []


@pytest.mark.parametrize("bad", ['{"key": "key-2", "text": 5}', '{"key": [], "text": "t"}', "{bad"])
def test_a_bad_row_lets_no_build_forget_what_was_deleted(index_dir: Path, corpus: Path, bad: str) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["key-2"])
    rows = corpus.read_text()
    lines = rows.splitlines()
    corpus.write_text("\n".join([*lines[:2], bad, *lines[3:]]))
    build_with(corpus, index_dir)
    build_with(corpus, index_dir)
    corpus.write_text(rows)

    report = build_with(corpus, index_dir)

    assert ("key-2" in everything(index_dir), report.num_deleted) == (False, 1)


def test_what_was_put_back_was_not_stored_live(index_dir: Path, corpus: Path) -> None:
    build_with(corpus, index_dir, keep_versions=9)
    before = everything(index_dir)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([live_key("new"), live_key("key-1")])
        index.delete(["key-4"])
        version = index.compact().version
    roll_back(index_dir, undo_live=True)
    assert roll_back(index_dir, version).num_live == 0

    with pytest.raises(LiveKeysError, match="3 keys of"):
        roll_back(index_dir, "1")  # after which they were changed live
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([live_key("new", "another text")])
        index.compact()
    with pytest.raises(LiveKeysError, match="1 keys of"):
        roll_back(index_dir, "4")
    assert roll_back(index_dir, "4", undo_live=True).num_live == 1
    assert everything(index_dir) == before
