"""Keys leave an index and come back as they were."""

import gc
import json
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from anykey.index import FaissIndex
from anykey.index.errors import (
    EncoderMismatchError,
    IndexNotFoundError,
    InvalidKeyError,
    InvalidShardError,
    InvalidStructureError,
    OutputExistsError,
    UnusableOptionError,
)
from anykey.index.jobs.shards import read_shard, write_shard
from anykey.index.jobs.transfer import export_faiss, export_shards, load_shards
from anykey.index.settings import FoldSettings
from tests.factories import break_data
from tests.full_disk import no_file_beyond
from tests.live_index import ENCODER, everything, make_index, new_keys


def ignore(count: int) -> None:
    """Takes progress."""


@pytest.mark.parametrize("vector_type", ["float32", "float16"])
def test_exported_keys_are_loaded_as_they_were(tmp_path: Path, vector_type: Any) -> None:
    make_index(tmp_path / "i", new_keys(10), vector_type)

    assert export_shards(tmp_path / "i", tmp_path / "out", ignore, shard_keys=4) == 10
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        f"keys-{number:05}.parquet" for number in range(3)
    ]
    assert load_shards([str(tmp_path / "out")], tmp_path / "other", ignore, vector_type) == 10

    assert everything(tmp_path / "other") == everything(tmp_path / "i")
    with FaissIndex.open(tmp_path / "other") as index:
        assert index.info().details["num_unfolded"] == 0
        assert index.info().encoder == ENCODER


def test_loading_replaces_keys_of_the_same_name_and_keeps_others(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(4, seed=1))
    make_index(tmp_path / "other", new_keys(6, seed=2))
    export_shards(tmp_path / "i", tmp_path / "out", ignore)

    load_shards([str(tmp_path / "out")], tmp_path / "other", ignore, "float32")

    first, second, found = everything(tmp_path / "i"), new_keys(6, seed=2), everything(tmp_path / "other")
    assert {key: found[key] for key in first} == first
    assert found["k5"][1] == second[5].vector_D.tobytes()


def test_readers_see_all_of_a_load_or_nothing(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(20, seed=1))
    make_index(tmp_path / "other", new_keys(6, seed=2))
    export_shards(tmp_path / "i", tmp_path / "out", ignore, shard_keys=5)
    seen = []
    with FaissIndex.open(tmp_path / "other") as reader:
        load_shards([str(tmp_path / "out")], tmp_path / "other", lambda count: seen.append(reader.count()))

        assert seen == [6] * 4
        assert (reader.count(), reader.info().details["num_unfolded"]) == (20, 0)


def test_load_that_fails_changes_nothing(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(20, seed=1))
    make_index(tmp_path / "other", new_keys(6, seed=2))
    export_shards(tmp_path / "i", tmp_path / "out", ignore, shard_keys=5)
    break_data(tmp_path / "out" / "keys-00003.parquet")
    before = everything(tmp_path / "other")
    told: list[int] = []

    with pytest.raises(InvalidShardError, match="keys-00003"):
        load_shards([str(tmp_path / "out")], tmp_path / "other", told.append)
    assert told == [5, 5, 5]
    assert everything(tmp_path / "other") == before


def test_load_that_fails_makes_no_index(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(20))
    export_shards(tmp_path / "i", tmp_path / "out", ignore, shard_keys=5)
    whole = (tmp_path / "out" / "keys-00003.parquet").read_bytes()
    break_data(tmp_path / "out" / "keys-00003.parquet")

    with pytest.raises(InvalidShardError, match="keys-00003"):
        load_shards([str(tmp_path / "out")], tmp_path / "other", ignore)
    with pytest.raises(IndexNotFoundError, match="build one with"):
        FaissIndex.open(tmp_path / "other")

    (tmp_path / "out" / "keys-00003.parquet").write_bytes(whole)
    load_shards([str(tmp_path / "out")], tmp_path / "other", ignore)
    assert everything(tmp_path / "other") == everything(tmp_path / "i")


@pytest.mark.parametrize("are_versions_there", [True, False])
def test_load_keeps_what_an_index_without_current_holds(tmp_path: Path, are_versions_there: bool) -> None:
    make_index(tmp_path / "i", new_keys(4, seed=1))
    export_shards(tmp_path / "i", tmp_path / "out", ignore)
    make_index(tmp_path / "other", new_keys(9, seed=2))
    (tmp_path / "other" / "CURRENT").unlink()
    if not are_versions_there:
        shutil.rmtree(tmp_path / "other" / "versions")

    load_shards([str(tmp_path / "out")], tmp_path / "other", ignore)

    first, found = everything(tmp_path / "i"), everything(tmp_path / "other")
    assert len(found) == 9
    assert {key: found[key] for key in first} == first


def test_vector_type_is_for_new_indexes(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(4), "float16")
    export_shards(tmp_path / "i", tmp_path / "out", ignore)

    load_shards([str(tmp_path / "out")], tmp_path / "i", ignore, "float16")
    with pytest.raises(UnusableOptionError, match=r"--vectors float32: .*/i keeps vectors as float16"):
        load_shards([str(tmp_path / "out")], tmp_path / "i", ignore, "float32")
    load_shards([str(tmp_path / "out")], tmp_path / "other", ignore)
    with FaissIndex.open(tmp_path / "other") as index:
        assert index.info().details["vectors"] == "float32"


def test_faiss_file_and_its_keys_are_in_one_order(tmp_path: Path) -> None:
    keys = new_keys(7)
    make_index(tmp_path / "i", keys)

    assert export_faiss(tmp_path / "i", tmp_path / "out", ignore) == 7

    vectors = faiss.read_index(str(tmp_path / "out" / "vectors.faiss"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "keys.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [key.key for key in keys]
    assert lines[0] == {
        "key": "k0",
        "modality": "text",
        "text": "text 0",
        "metadata": {"number": 0},
        "pool": ["even"],
    }
    for position, key in enumerate(keys):
        assert np.array_equal(vectors.reconstruct(position), key.vector_D)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    for export in (export_shards, export_faiss):
        with pytest.raises(OutputExistsError, match="is not empty"):
            export(tmp_path / "i", tmp_path / "out", ignore)


def test_what_a_killed_export_left_is_written_over_unless_another_one_is_at_work(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(3))
    leftover = tmp_path / "out" / ".part"
    (leftover / "images").mkdir(parents=True)
    (leftover / "keys-00000.parquet").write_bytes(b"half")

    def meanwhile(count: int) -> None:
        with pytest.raises(OutputExistsError, match=rf"written to by another export \(process {os.getpid()}\)"):
            export_faiss(tmp_path / "i", tmp_path / "out", ignore)

    assert export_shards(tmp_path / "i", tmp_path / "out", meanwhile, shard_keys=2) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["keys-00000.parquet", "keys-00001.parquet"]


def test_folder_of_an_export_that_was_stopped_is_not_loaded(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(4))
    export_shards(tmp_path / "i", tmp_path / "out", ignore, shard_keys=2)
    (tmp_path / "out" / ".part").mkdir()
    (tmp_path / "out" / "keys-00001.parquet").rename(tmp_path / "out" / ".part" / "keys-00001.parquet")

    with pytest.raises(InvalidShardError, match=r"an export into .*out has not ended"):
        load_shards([str(tmp_path / "out")], tmp_path / "loaded", ignore)
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize(("form", "name"), [("parquet", "keys-00000.parquet"), ("faiss", ".part")])
def test_export_without_room_names_where(tmp_path: Path, form: str, name: str) -> None:
    make_index(tmp_path / "i", new_keys(500))
    export = export_shards if form == "parquet" else export_faiss

    with no_file_beyond(1000), pytest.raises(OSError, match="File too large") as failed:
        export(tmp_path / "i", tmp_path / "out", ignore)

    assert str(failed.value.filename).endswith(name)
    assert list((tmp_path / "out").iterdir()) == []
    assert export(tmp_path / "i", tmp_path / "out", ignore) == 500


def test_export_without_room_is_over_when_it_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_index(tmp_path / "i", new_keys(500))
    with no_file_beyond(1000), pytest.raises(OSError, match="File too large"):
        export_shards(tmp_path / "i", tmp_path / "out", ignore)

    told: list[object] = []
    monkeypatch.setattr(traceback, "format_exception", lambda *error: told.append(error) or [])  # by Arrow, of a write
    gc.collect()
    assert told == []


@pytest.mark.parametrize("form", ["parquet", "faiss"])
def test_export_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path, form: str) -> None:
    make_index(tmp_path / "i", new_keys(7))

    def export(advance: Callable[[int], None]) -> int:
        if form == "parquet":
            return export_shards(tmp_path / "i", tmp_path / "out", advance, shard_keys=3)
        return export_faiss(tmp_path / "i", tmp_path / "out", advance)

    def fail(count: int) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        export(fail)
    assert list((tmp_path / "out").iterdir()) == []
    assert export(ignore) == 7
    assert not (tmp_path / "out" / ".part").exists()


def test_shards_of_another_encoder_are_refused(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(3))
    export_shards(tmp_path / "i", tmp_path / "out", ignore)
    records = next(read_shard(str(tmp_path / "out" / "keys-00000.parquet")))
    other = ENCODER.model_copy(update={"fingerprint": "sha256:other"})
    write_shard(str(tmp_path / "other.parquet"), records, other, "float32")

    with pytest.raises(EncoderMismatchError, match="made by different encoders"):
        load_shards([str(tmp_path / "out"), str(tmp_path / "other.parquet")], tmp_path / "new", ignore, "float32")
    with pytest.raises(EncoderMismatchError, match="fingerprint"):
        load_shards([str(tmp_path / "other.parquet")], tmp_path / "i", ignore, "float32")


def test_what_is_no_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "rubbish.parquet").write_bytes(b"rubbish")
    with pytest.raises(InvalidShardError, match=r"rubbish\.parquet is no Parquet file that can be read"):
        load_shards([str(tmp_path / "rubbish.parquet")], tmp_path / "new", ignore, "float32")
    make_index(tmp_path / "i", new_keys(3))
    export_shards(tmp_path / "i", tmp_path / "out", ignore)
    table = pq.read_table(tmp_path / "out" / "keys-00000.parquet")
    pq.write_table(table.drop_columns(["vector"]), tmp_path / "columns.parquet")
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "encoder.parquet")

    for name, reason in (("columns", "it has no column vector"), ("encoder", "its schema does not name the encoder")):
        with pytest.raises(InvalidShardError, match=reason):
            load_shards([str(tmp_path / f"{name}.parquet")], tmp_path / "new", ignore, "float32")
    with pytest.raises(InvalidShardError, match=r"no \*\.parquet in"):
        load_shards([str(tmp_path / "i")], tmp_path / "new", ignore, "float32")
    assert not (tmp_path / "new").exists()


def test_damaged_vector_is_refused_by_its_key(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(2))
    export_shards(tmp_path / "i", tmp_path / "out", ignore)
    (record, other) = next(read_shard(str(tmp_path / "out" / "keys-00000.parquet")))
    assert record.vector_D is not None
    long = type(record)(**{**vars(record), "vector_D": 2 * record.vector_D})
    write_shard(str(tmp_path / "long.parquet"), [other, long], ENCODER, "float32")

    with pytest.raises(InvalidKeyError, match="key 'k0' cannot be stored: expected a unit vector, got norm 2"):
        load_shards([str(tmp_path / "long.parquet")], tmp_path / "new", ignore, "float32")


def test_impossible_structure_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    make_index(tmp_path / "i", new_keys(4))
    export_shards(tmp_path / "i", tmp_path / "out", ignore)
    told: list[int] = []
    settings = FoldSettings(structure="IVF4,PQ7")

    for place in ("i", "new"):
        with pytest.raises(InvalidStructureError, match=r"'IVF4,PQ7' .* 7 codes do not divide it"):
            load_shards([str(tmp_path / "out")], tmp_path / place, told.append, settings=settings)
    assert (told, (tmp_path / "new").exists()) == ([], False)
