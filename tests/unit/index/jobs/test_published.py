"""What a build keeps of the index that is there: keys that were stored live, and nothing that is damaged."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.errors import IndexLockedError, LiveKeysError
from anykey.index.jobs.build import build_index
from anykey.index.key_index import NewKey
from anykey.sources.errors import SourceError
from tests.factories import build_settings, build_with, mixed_corpus
from tests.fakes import FakeEncoder, FakeEncoderSource
from tests.unit.index.jobs.test_build import contents, edit, keys_of


class _StoppedEncoder(FakeEncoder):
    """Is stopped in its third batch."""

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return super().encode_prepared(prepared)


def live(key: str, text: str = "stored live") -> NewKey:
    return NewKey(key, FakeEncoder().encode([Item(text)])[0], text)


def change(output: Path, *keys: NewKey, gone: Sequence[str] = ()) -> None:
    """Changes keys live."""
    with FaissIndex.open(output, writable=True) as index:
        index.upsert(keys)
        index.delete(gone)


def test_live_keys_are_kept_by_a_build(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("live"))
    edit(corpus, key="key-0", text="entirely new words")

    report = build_with(corpus, tmp_path / "i")

    assert (report.num_embedded, report.manifest.num_keys) == (1, 10)
    with FaissIndex.open(tmp_path / "i") as index:
        assert (index.get("live").payload.text, index.count()) == ("stored live", 10)


def test_live_changes_are_folded_by_a_build_of_an_unchanged_corpus(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("live"))
    source = FakeEncoderSource()

    report = build_index(build_settings(corpus, tmp_path / "i"), source, Console(quiet=True))

    assert (report.is_new, report.manifest.num_keys, report.num_embedded, source.num_loads) == (True, 10, 0, 0)
    assert not build_with(corpus, tmp_path / "i").is_new


def test_corpus_wins_over_live_changes_of_its_keys(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("key-0"))

    assert build_with(corpus, tmp_path / "i").num_embedded == 1

    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_key_that_was_deleted_live_stays_deleted_until_told_otherwise(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("new"), live("gone"))
    change(tmp_path / "i", gone=["key-0", "key-1", "new", "gone"])
    with corpus.open("a") as file:
        file.write('{"key": "new", "text": "from a list made before it was deleted"}\n')
    edit(corpus, key="key-0", text="edited since")
    left = [f"key-{number}" for number in range(2, 9)]

    for is_new in (True, False):
        report = build_with(corpus, tmp_path / "i")
        assert (report.is_new, report.num_embedded, report.num_deleted, report.bad_rows) == (is_new, 0, 3, [])
        assert keys_of(tmp_path / "i") == left
    report = build_with(corpus, tmp_path / "i", restore_deleted=True)
    assert (report.num_embedded, report.num_deleted) == (3, 0)
    assert build_with(corpus, tmp_path / "i").is_new is False

    build_with(corpus, tmp_path / "fresh")
    assert contents(tmp_path / "i") == contents(tmp_path / "fresh")


def test_key_that_was_deleted_live_comes_back_when_it_is_stored_again_or_new_in_the_corpus(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 4)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", gone=["key-2", "key-3"])
    change(tmp_path / "i", live("key-2"))
    lines = corpus.read_text().splitlines(keepends=True)

    assert build_with(corpus, tmp_path / "i").num_deleted == 1
    assert keys_of(tmp_path / "i") == ["key-0", "key-1", "key-2"]
    corpus.write_text("".join(lines[:2]))
    build_with(corpus, tmp_path / "i")
    corpus.write_text("".join(lines))

    assert build_with(corpus, tmp_path / "i").num_deleted == 0
    assert keys_of(tmp_path / "i") == [f"key-{number}" for number in range(4)]


def test_deletion_is_forgotten_by_a_build_that_finds_nothing_else_to_do(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 4)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", gone=["key-3"])
    build_with(corpus, tmp_path / "i")
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(lines[:3]))

    assert build_with(corpus, tmp_path / "i").is_new is False
    corpus.write_text("".join(lines))

    assert build_with(corpus, tmp_path / "i").num_deleted == 0
    assert len(keys_of(tmp_path / "i")) == 4


@pytest.mark.parametrize("num_deleted", [2, 9])
def test_another_encoder_leaves_deleted_what_was_deleted_live(tmp_path: Path, num_deleted: int) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", gone=[f"key-{number}" for number in range(num_deleted)])
    other = FakeEncoder(name="other")
    if num_deleted == 9:
        assert build_with(corpus, tmp_path / "i").num_deleted == 9
        with pytest.raises(SourceError, match="no usable row"):
            build_with(corpus, tmp_path / "i", other)
        return

    for _ in range(2):
        report = build_with(corpus, tmp_path / "i", other)
        assert (report.num_deleted, report.manifest.num_keys, report.manifest.encoder.name) == (2, 7, "other")
    assert build_with(corpus, tmp_path / "i", other, restore_deleted=True).manifest.num_keys == 9


def test_stopped_build_does_not_bring_back_what_was_deleted_since(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    for number in range(9):
        edit(corpus, key=f"key-{number}", text=f"edited number {number}")
    with pytest.raises(KeyboardInterrupt):
        build_with(corpus, tmp_path / "i", _StoppedEncoder(), batch_size=2)
    change(tmp_path / "i", gone=["key-0"])

    assert build_with(corpus, tmp_path / "i").num_deleted == 1
    assert keys_of(tmp_path / "i") == [f"key-{number}" for number in range(1, 9)]


def test_live_key_that_the_corpus_took_over_goes_with_the_corpus(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("new"), live("stays"))
    before = corpus.read_text()
    corpus.write_text(before + '{"key": "new", "text": "from the corpus"}\n')
    build_with(corpus, tmp_path / "i")
    corpus.write_text(before)

    build_with(corpus, tmp_path / "i")

    assert keys_of(tmp_path / "i") == ["key-0", "key-1", "key-2", "stays"]


def test_key_that_was_changed_live_stays_when_the_corpus_drops_it(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("key-2"))
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:1]))

    build_with(corpus, tmp_path / "i")

    assert keys_of(tmp_path / "i") == ["key-0", "key-2"]


def test_build_by_another_encoder_drops_live_keys_only_on_demand(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("live"), live("more"))
    other = FakeEncoder(name="other")

    with pytest.raises(LiveKeysError, match=r"2 keys of .* were stored live, by another encoder.*--anew"):
        build_with(corpus, tmp_path / "i", other)
    assert len(keys_of(tmp_path / "i")) == 11
    assert other.batches == []

    report = build_with(corpus, tmp_path / "i", other, anew=True)
    assert (report.num_embedded, report.manifest.encoder.name) == (9, "other")
    assert len(keys_of(tmp_path / "i")) == 9


def test_anew_keeps_what_is_sound(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("live"))

    assert build_with(corpus, tmp_path / "i", anew=True).num_embedded == 0
    assert len(keys_of(tmp_path / "i")) == 10


def test_readers_see_all_of_a_build_or_nothing(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")
    with FaissIndex.open(tmp_path / "i") as reader:

        class Watching(FakeEncoder):
            seen: ClassVar[list[int]] = []

            def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
                self.seen.append(reader.count())
                return super().encode_prepared(prepared)

        mixed_corpus(tmp_path, 9)
        build_with(corpus, tmp_path / "i", Watching(), batch_size=1)

        assert (set(Watching.seen), len(Watching.seen), reader.count()) == ({3}, 6, 9)


def test_build_is_refused_while_a_writer_is_open(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path, 3)
    build_with(corpus, tmp_path / "i")

    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        with pytest.raises(IndexLockedError, match="an index has one writer at a time"):
            build_with(corpus, tmp_path / "i")
        assert index.count() == 3


@pytest.mark.parametrize("damage", ["no database", "cut", "empty", "missing", "another store"])
def test_damaged_store_is_refused_and_built_anew_only_on_demand(tmp_path: Path, damage: str) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    path = tmp_path / "i" / "stores" / "1" / "store.sqlite"
    if damage == "missing":
        path.unlink()
    elif damage == "another store":
        build_with(corpus, tmp_path / "other")
        shutil.copy(tmp_path / "other" / "stores" / "1" / "store.sqlite", path)
    else:
        path.write_bytes({"no database": b"x" * 5000, "cut": path.read_bytes()[:4096], "empty": b""}[damage])
    before = path.read_bytes() if path.exists() else None

    with pytest.raises(LiveKeysError, match=r"store\.sqlite is damaged: .*--anew"):
        build_with(corpus, tmp_path / "i")
    assert (path.read_bytes() if path.exists() else None) == before
    assert build_with(corpus, tmp_path / "i", anew=True).num_embedded == 9
    assert len(contents(tmp_path / "i")) == 9
    assert not build_with(corpus, tmp_path / "i").is_new


def test_corpus_row_that_cannot_be_used_leaves_a_live_key_of_its_name(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path)
    build_with(corpus, tmp_path / "i")
    change(tmp_path / "i", live("refused"), live("unreadable"))
    (tmp_path / "bad.png").write_text("no picture")
    with corpus.open("a") as file:
        file.write('{"key": "refused", "image": "bad.png"}\n{"key": "unreadable", "image": "none.png"}\n')

    for is_new in (True, False):
        report = build_with(corpus, tmp_path / "i")
        assert (report.is_new, report.manifest.num_keys, len(report.bad_rows)) == (is_new, 11, 2)
