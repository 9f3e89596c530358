"""M-BEIR: datasets and candidate files as they are published."""

import json
from pathlib import Path

import fsspec
import pytest

from anykey.index.jobs.corpus import find_files
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.corpus.mbeir import pool_of
from anykey.sources.errors import InvalidRowError
from tests.corpora import entries, read, upload
from tests.factories import write_jsonl


def mbeir_dataset(root: Path) -> Path:
    local = root / "cand_pool" / "local"
    image = {"did": "9:1", "txt": None, "img_path": "mbeir_images/1.jpg", "modality": "image", "src_content": None}
    text = {"did": "2:1", "txt": "a fact", "modality": "text", "src_content": json.dumps({"id": 5})}
    both = {"did": "4:1", "txt": "x", "img_path": "mbeir_images/2.jpg", "modality": "image,text"}
    write_jsonl(local / "mbeir_b_task0_cand_pool.jsonl", [image, both])
    write_jsonl(local / "mbeir_a_task1_cand_pool.jsonl", [text, both])
    write_jsonl(root / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl", [text, image, both])
    return root


def test_mbeir_directory_gives_its_local_pools_by_file_name(tmp_path: Path) -> None:
    entries = read(mbeir_dataset(tmp_path / "data"))

    assert all(isinstance(entry, CorpusEntry) for entry in entries)
    found = [(entry.key, entry.pools) for entry in entries if isinstance(entry, CorpusEntry)]
    a_pool, b_pool = ("mbeir_a_task1",), ("mbeir_b_task0",)
    assert found == [("2:1", a_pool), ("4:1", a_pool), ("9:1", b_pool), ("4:1", b_pool)]


def test_mbeir_texts_take_mbeir_s_form_and_other_texts_stay(tmp_path: Path) -> None:
    (mbeir,) = read(write_jsonl(tmp_path / "m.jsonl", [{"did": "1:1", "txt": ' "two dogs"\r '}]))
    (other,) = read(write_jsonl(tmp_path / "o.jsonl", [{"key": "1:1", "text": "two dogs"}]))
    (empty,) = read(write_jsonl(tmp_path / "e.jsonl", [{"did": "1:1", "txt": '""'}]))

    assert isinstance(mbeir, CorpusEntry)
    assert isinstance(other, CorpusEntry)
    assert (mbeir.text, other.text) == ("Two dogs.", "two dogs")
    assert isinstance(empty, InvalidRowError)


def test_mbeir_directory_stands_for_its_test_pools_and_files_for_themselves(tmp_path: Path) -> None:
    local = tmp_path / "cand_pool" / "local"
    stems = ("mbeir_mscoco_task0_test", "mbeir_mscoco_task0_val", "mbeir_x_task0_train", "mbeir_nights_task4")
    for stem in stems:
        write_jsonl(local / f"{stem}_cand_pool.jsonl", [{"did": "9:1", "txt": "x"}])
    val = local / "mbeir_mscoco_task0_val_cand_pool.jsonl"

    pools = [pool_of(file) for file in find_files([str(tmp_path), str(val)])]
    assert pools == ["mbeir_mscoco_task0_test", "mbeir_nights_task4", "mbeir_mscoco_task0_val"]


def test_mbeir_image_paths_start_from_the_dataset_root(tmp_path: Path) -> None:
    root = mbeir_dataset(tmp_path / "data")

    first, _ = read(root / "cand_pool" / "local" / "mbeir_b_task0_cand_pool.jsonl")

    assert isinstance(first, CorpusEntry)
    assert first.images == (f"{root}/mbeir_images/1.jpg",)


def test_mbeir_source_is_decoded_into_the_metadata(tmp_path: Path) -> None:
    root = mbeir_dataset(tmp_path / "data")

    text, both = read(root / "cand_pool" / "local" / "mbeir_a_task1_cand_pool.jsonl")

    assert isinstance(text, CorpusEntry)
    assert isinstance(both, CorpusEntry)
    assert (text.metadata, both.metadata) == ({"src_content": {"id": 5}}, {})


def test_mbeir_source_that_is_no_json_stays_a_string(tmp_path: Path) -> None:
    row = {"did": "1:1", "txt": "t", "src_content": "plain NaN"}

    (entry,) = entries(write_jsonl(tmp_path / "c.jsonl", [row]))

    assert entry.metadata == {"src_content": "plain NaN"}


def test_global_mbeir_file_is_no_pool(tmp_path: Path) -> None:
    root = mbeir_dataset(tmp_path / "data")

    rows = read(root / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl")

    assert [row.pools for row in rows if isinstance(row, CorpusEntry)] == [(), (), ()]


@pytest.mark.parametrize("start", ["", "cand_pool/local", "cand_pool"])
def test_relative_paths_have_their_dataset_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    root = mbeir_dataset(tmp_path / "data")
    monkeypatch.chdir(root / start)
    name = (Path("cand_pool/local") / "mbeir_b_task0_cand_pool.jsonl").relative_to(start or ".")

    first, _ = entries(name)

    assert (first.images, first.pools) == ((f"{root}/mbeir_images/1.jpg",), ("mbeir_b_task0",))


def test_dataset_on_another_machine_is_read_alike(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    root = mbeir_dataset(tmp_path / "data")
    upload(root, "/mbeir-data", memory)

    remote = entries("memory://mbeir-data")

    assert [(row.key, row.pools) for row in remote] == [(row.key, row.pools) for row in entries(root)]
    assert remote[2].images == ("memory:///mbeir-data/mbeir_images/1.jpg",)
