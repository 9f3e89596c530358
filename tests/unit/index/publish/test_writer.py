"""Changes: what is refused, what is stored, when changes are folded, and who may make them."""

import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import FaissIndex, StoredImage
from anykey.index.__main__ import main
from anykey.index.errors import (
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    InvalidKeyError,
    InvalidSearchError,
    InvalidStructureError,
    KeyNotFoundError,
    ReadOnlyError,
)
from anykey.index.key_index import NewKey, Scope
from anykey.index.publish.creation import create_index
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.tuning.measured import structure_lines
from anykey.index.publish.verify import repair_index
from anykey.index.store.manifest import FoldOptions, Manifest
from anykey.index.vectors.structure_facts import EXACT, StructureFacts
from tests.factories import build_with, mixed_corpus
from tests.fakes import FakeEncoder
from tests.killed_once import killed_once
from tests.live_index import ENCODER, WIDTH, make_index, new_keys, unit_vectors
from tests.serving import serving, until

UNIT = np.eye(1, WIDTH, dtype=np.float32)


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return make_index(tmp_path / "i", new_keys(6))


def key(name: str, **changes: Any) -> NewKey:
    return NewKey(**{"key": name, "vector_D": UNIT[0], "text": "text", **changes})


def versions(index_dir: Path) -> list[str]:
    return sorted(os.listdir(index_dir / "versions"), key=int)


def test_created_index_is_empty_and_says_so(tmp_path: Path) -> None:
    create_index(tmp_path / "i", ENCODER)

    with FaissIndex.open(tmp_path / "i") as index:
        assert index.search(UNIT, 3) == [[]]
        assert (index.count(), list(index.scan()), index.info().pools) == (0, [], {})
        assert index.info().modalities == dict.fromkeys(Modality, 0)
        assert (index.info().encoder, index.manifest.encoder) == (ENCODER, ENCODER)
        with pytest.raises(InvalidSearchError, match=r"unknown pool 'p'; known: none$"):
            index.search(UNIT, 1, Scope(pool="p"))


def test_index_is_not_created_over_another(index_dir: Path) -> None:
    with pytest.raises(IndexExistsError, match="there is an index at"):
        create_index(index_dir, ENCODER)
    with FaissIndex.open(index_dir) as index:
        assert index.count() == 6


@pytest.mark.parametrize("is_version_there", [True, False])
def test_index_is_not_created_over_what_is_left_of_another(index_dir: Path, is_version_there: bool) -> None:
    (index_dir / "CURRENT").unlink()
    if not is_version_there:
        shutil.rmtree(index_dir / "versions")
    with pytest.raises(IndexNotFoundError, match=r"CURRENT is missing, .* `anykey-index repair --index .*/i`"):
        FaissIndex.open(index_dir)

    with pytest.raises(IndexExistsError, match=r"there is an index|6 keys that no version is published of"):
        create_index(index_dir, ENCODER)
    repair_index(index_dir)
    with FaissIndex.open(index_dir) as index:
        assert index.count() == 6


class Stopping(FakeEncoder):
    """An encoder that stops the build with its second batch."""

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        if self.batches:
            sys.exit("stopped")
        return super().encode_prepared(prepared)


def test_index_is_not_created_over_the_work_of_a_stopped_build(tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "c", 9)
    with pytest.raises(SystemExit, match="stopped"):
        build_with(corpus, tmp_path / "i", Stopping(), batch_size=4)

    with pytest.raises(IndexExistsError, match="4 keys that a stopped build embedded: run that build again"):
        create_index(tmp_path / "i", ENCODER)

    report = build_with(corpus, tmp_path / "i")
    assert (report.num_embedded, report.manifest.num_keys) == (5, 9)


def test_nothing_is_created_by_opening(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError):
        FaissIndex.open(tmp_path, writable=True)
    create_index(tmp_path, ENCODER)  # the lock was given back


def test_stored_key_is_found_at_once_as_it_was_given(index_dir: Path) -> None:
    image = StoredImage(b"bytes", "image/png")
    new = key("new", images=(image, image), metadata={"b": [1, None], "a": {"\u00e9": 1.5}}, pools=("q", "p", "q"))
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([new])

        hit = index.search(UNIT, 1)[0][0]
        assert (hit.key, hit.modality, hit.score) == ("new", Modality.FUSED, pytest.approx(1))
        assert (hit.payload.text, hit.payload.metadata, hit.payload.num_images) == ("text", new.metadata, 2)
        assert (index.get("new").pools, index.image("new", 1)) == (("p", "q"), image)
        assert index.vector("new").tolist() == UNIT[0].tolist()


def test_stored_key_replaces_all_of_what_had_its_name(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([key("k2", text="other")])

        assert index.get("k2").payload.metadata == {}
        assert (index.get("k2").pools, index.get("k2").payload.num_images) == ((), 0)
        with pytest.raises(KeyNotFoundError):
            index.image("k2")
        assert (index.count(), [hit.key for hit in index.search(UNIT, 99)[0]].count("k2")) == (6, 1)


def test_of_keys_with_one_name_the_last_is_stored(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([key("new", text="first"), key("new", text="last")])

        assert (index.get("new").payload.text, index.count()) == ("last", 7)


def test_deleted_keys_are_counted_once_and_gone(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([key("new")])

        assert index.delete(["k0", "new", "k0", "unknown", "\ud800"]) == 2
        assert index.delete(["k0"]) == 0

        assert [stored.key for stored in index.scan()] == ["k1", "k2", "k3", "k4", "k5"]
        assert len(index.search(UNIT, 99)[0]) == index.count() == 5


def test_equal_scores_come_by_the_time_of_the_last_change(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([key("b"), key("c"), key("a")])
        index.compact()
        index.upsert([key("c"), key("d")])

        for _ in range(2):
            assert [hit.key for hit in index.search(UNIT, 4, exact=True)[0]] == ["b", "a", "c", "d"]
            index.compact()


def loop() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    return metadata


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": " "}, "expected its key to be a string that is not blank"),
        ({"key": 7}, "expected its key to be a string"),
        ({"key": "\ud800"}, "its key is no Unicode text"),
        ({"text": "\ud800"}, "its text is no Unicode text"),
        ({"text": ""}, "expected its text to be a string that is not blank"),
        ({"text": None}, "it has neither text nor image"),
        ({"pools": ("",)}, "expected its pool to be a string that is not blank"),
        ({"metadata": []}, "expected metadata to be an object, got list"),
        ({"metadata": {"a": float("nan")}}, "Out of range float"),
        ({"metadata": {"a": "\ud800"}}, "surrogates not allowed"),
        ({"metadata": {"a": b"bytes"}}, "bytes is not JSON serializable"),
        ({"metadata": loop()}, "Circular reference"),
        ({"vector_D": UNIT}, r"expected a vector of 8 numbers, got shape \[1, 8\]"),
        ({"vector_D": UNIT[0, :7]}, r"got shape \[7\]"),
        ({"vector_D": UNIT[0].astype(int)}, "int64"),
        ({"vector_D": UNIT[0] * 2}, "expected a unit vector, got norm 2"),
        ({"vector_D": UNIT[0] * np.nan}, "expected a unit vector, got norm nan"),
    ],
)
def test_key_that_cannot_be_stored_is_refused_with_all_others(
    index_dir: Path, changes: dict[str, Any], reason: str
) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        with pytest.raises(InvalidKeyError, match=reason):
            index.upsert([key("good"), key("bad", **changes)])
        assert index.count() == 6
        assert index.info().details["num_unfolded"] == 0


def test_reader_refuses_changes(index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as index:
        calls: list[Callable[[], object]] = [lambda: index.upsert([]), lambda: index.delete([]), index.compact]
        for call in calls:
            with pytest.raises(ReadOnlyError, match="was opened for reading; open it with writable=True"):
                call()


def test_second_writer_is_refused_until_the_first_is_closed(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        with pytest.raises(IndexLockedError, match=f"by process {os.getpid()}"):
            FaissIndex.open(index_dir, writable=True)
        index.delete(["k0"])
    with FaissIndex.open(index_dir, writable=True) as index:
        assert index.delete(["k1"]) == 1


def test_compaction_of_nothing_publishes_nothing(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        before = index.manifest
        assert index.compact() == before
        index.upsert([])
        index.delete(["unknown"])
        assert index.compact() == before
    assert versions(index_dir) == ["1", "2"]


def test_compaction_folds_all_changes_and_hands_on_where_keys_came_from(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([key("new", pools=("p",))])
        index.delete(["k0"])
        before = [(hit.key, round(hit.score, 5)) for hit in index.search(UNIT, 99)[0]]

        manifest = index.compact()

        assert (manifest.version, manifest.num_keys, manifest.seq) == ("3", 6, 9)
        assert manifest.pools == {"even": 2, "odd": 3, "p": 1}
        assert (manifest.corpus, manifest.encoder) == ([], ENCODER)
        assert index.manifest == manifest
        assert index.info().details["num_unfolded"] == 0
        assert [(hit.key, round(hit.score, 5)) for hit in index.search(UNIT, 99)[0]] == before


def test_info_counts_what_is_there_now(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["k0", "k1"])
        index.upsert([key("new", pools=("even", "p"))])

        info = index.info()

        assert (info.engine, info.num_keys) == ("faiss", 5)
        assert info.modalities == {Modality.TEXT: 2, Modality.IMAGE: 1, Modality.FUSED: 2}
        assert info.pools == {"even": 3, "odd": 2, "p": 1}
        assert (info.details["num_folded"], info.details["num_unfolded"], info.details["is_writable"]) == (6, 3, True)


def test_changes_are_folded_in_the_background_when_there_are_enough(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=3) as index:
        index.upsert([key("a"), key("b")])
        assert versions(index_dir) == ["1", "2"]
        index.upsert([key("c")])
        until(lambda: index.info().details["num_unfolded"] == 0, "changes were folded")
        assert (index.manifest.version, index.count()) == ("3", 9)


def test_folding_under_way_is_finished_by_closing(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=1) as index:
        index.upsert([key("a")])

    with FaissIndex.open(index_dir) as index:
        assert (index.manifest.version, index.manifest.num_keys) == ("3", 7)


def test_removals_that_every_version_covers_are_forgotten(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True) as index:
        for _ in range(4):
            index.upsert([key("k0"), key("k1")])
            index.compact()
        generation = index._generation
        with generation.reader.transaction() as transaction:
            assert len(transaction.changes_since(0).removed) == 2  # those since the version before


@pytest.mark.parametrize("vector_type", ["float32", "float16"])
def test_score_of_a_key_is_the_same_before_and_after_folding(tmp_path: Path, vector_type: str) -> None:
    make_index(tmp_path / "i", [], vector_type)
    vectors_ND = unit_vectors(50, seed=3)
    with FaissIndex.open(tmp_path / "i", writable=True) as index:
        index.upsert([key(f"k{number}", vector_D=vector_D) for number, vector_D in enumerate(vectors_ND)])
        queries_QD = unit_vectors(5, seed=4)
        before = index.search(queries_QD, 50)
        index.compact()
        after = index.search(queries_QD, 50)
    for hits, others in zip(before, after, strict=True):
        scores = {hit.key: hit.score for hit in others}
        assert {hit.key: hit.score for hit in hits} == pytest.approx(scores, abs=1e-6)


def test_compaction_after_fewer_than_no_changes_is_refused(index_dir: Path) -> None:
    with pytest.raises(ValueError, match="expected compact_after to be 0, for never, or a number of changes, got -1"):
        FaissIndex.open(index_dir, writable=True, compact_after=-1)


def asks_for(factory: str) -> FoldOptions:
    return FoldOptions(structure=factory)


@pytest.mark.parametrize("factory", ["IVF64,Flat", "IVF4,PQ4x4fs", "IVF4,PQ4"])
def test_structure_that_lacks_keys_to_train_on_gives_way_to_exact_search_until_it_has_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, factory: str
) -> None:
    keys = new_keys(300)
    with FaissIndex.open(make_index(tmp_path / "i", keys), writable=True, compact_after=0) as index:
        assert structure_of(index.compact(asks_for(factory))).factory == factory

        index.delete([each.key for each in keys[10:]])
        with caplog.at_level(logging.WARNING):
            few = structure_of(index.compact())
        found = index.search(keys[3].vector_D[None], 20)[0]
        index.upsert(keys)
        many = structure_of(index.compact())

    assert f"structure '{factory}' cannot be trained on 10 vectors: " in caplog.text
    assert (few.factory, few.shortfalls) == (EXACT, [])
    assert few.instead_of is not None
    assert few.instead_of.factory == factory
    assert "10" in few.instead_of.reason
    assert any(line.startswith(f"asked for   {factory}, which cannot be trained") for line in structure_lines(few))
    assert [hit.key for hit in found] == ranked(keys[:10], keys[3].vector_D)
    assert (many.factory, many.instead_of) == (factory, None)


def test_impossible_structure_is_an_error_also_with_few_keys(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for factory in ("IVF0,Flat", "PCA0,IVF4,Flat", "PCA9,IVF4,Flat", "bogus"):
            with pytest.raises(InvalidStructureError):
                index.compact(asks_for(factory))
        assert structure_of(index.manifest).factory == EXACT
    assert len(versions(index_dir)) == 2


def structure_of(manifest: Manifest) -> StructureFacts:
    assert manifest.structure is not None
    return manifest.structure


def ranked(keys: Sequence[NewKey], query_D: NDArray[np.float32]) -> list[str]:
    return [each.key for each in sorted(keys, key=lambda each: -float(each.vector_D @ query_D))]


def test_folding_that_fails_is_tried_ever_less_often_and_told(
    index_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (index_dir / "folding").write_text("in the way")
    with FaissIndex.open(index_dir, writable=True, compact_after=1) as index, FaissIndex.open(index_dir) as reader:
        give_up_s = time.monotonic() + 1.5
        number = 0
        while time.monotonic() < give_up_s:
            index.upsert([key(f"new {number}")])
            number += 1
            time.sleep(0.01)
        failure = index.info().details["fold_failure"]
        assert 1 <= failure["num_failures"] <= 4 < number, "at once, and after 1, 3 and 7 seconds"
        assert "folding" in failure["reason"]
        at, next_try_at = (datetime.fromisoformat(failure[name]) for name in ("at", "next_try_at"))
        assert timedelta(seconds=1) <= next_try_at - at <= timedelta(seconds=5)
        until(
            lambda: reader.info().details["fold_failure"] == index.info().details["fold_failure"],
            "other processes are told the same",
        )
        assert reader.count() == 6 + number
        assert main(["info", "--index", str(index_dir)]) == 0
        assert "not folded" in capsys.readouterr().out
        with serving(FakeEncoder(fingerprint=ENCODER.fingerprint), reader) as client:
            told = client.get("/info").json()["index"]["fold_failure"]
        assert set(told) == {"at", "kind", "num_failures", "next_try_at"}
        assert told["kind"] == "File exists"

        (index_dir / "folding").unlink()
        until(lambda: index.info().details["num_unfolded"] == 0, "it was tried again, without another change")
        until(  # the version is there a moment before this is said
            lambda: all(one.info().details["fold_failure"] is None for one in (index, reader)),
            "the failure is no longer told",
        )
    with FaissIndex.open(index_dir) as index:
        assert index.manifest.num_keys == index.count() == 6 + number


def test_program_that_closes_no_writer_ends_though_folding_fails(index_dir: Path) -> None:
    (index_dir / "folding").write_text("in the way")
    program = (
        "import sys; from pathlib import Path; from anykey.index import FaissIndex\n"
        "index = FaissIndex.open(Path(sys.argv[1]), writable=True, compact_after=1)\n"
        "index.delete(['k0'])"
    )
    subprocess.run([sys.executable, "-c", program, index_dir], check=True, timeout=60, capture_output=True)


def test_changes_after_folding_that_failed_grow_no_store(index_dir: Path) -> None:
    (index_dir / "folding").write_text("in the way")
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for keep_versions in (2, 5):
            with pytest.raises(OSError, match="folding"):
                index.compact(FoldOptions(structure=EXACT, keep_versions=keep_versions))
        for number in range(20):
            index.upsert([key("new", text=f"text {number}")])
        with contextlib.closing(sqlite3.connect(index_dir / "stores" / "1" / "store.sqlite")) as db:
            assert db.execute("SELECT count(*) FROM retired").fetchone() == (0,)
        (index_dir / "folding").unlink()
        assert index.compact().options.keep_versions == 2  # what failed holds for none


def keep_five_versions(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.compact(FoldOptions(keep_versions=5))


def test_options_hold_for_later_versions_though_the_writer_is_killed_after_the_first(index_dir: Path) -> None:
    name = WritableDirectory(index_dir).next_name()
    killed_once(index_dir / "CURRENT", keep_five_versions, index_dir, content=f"{name}\n".encode())

    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.delete(["k0"])
        assert index.compact().options.keep_versions == 5
