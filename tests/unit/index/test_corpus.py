"""Readers: every row comes as an entry or as an error that names its place, in a fixed order."""

import json
from pathlib import Path
from typing import Any

import pytest

from index.corpus import CorpusEntry, find_files, read_file
from index.errors import InvalidCorpusError, InvalidRowError
from tests.factories import write_jsonl


def read(*paths: Path) -> list[CorpusEntry | InvalidRowError]:
    return [row for file in find_files(list(paths)) for row in read_file(file)]


def read_one(tmp_path: Path, row: dict[str, Any] | str) -> CorpusEntry | InvalidRowError:
    (found,) = read(write_jsonl(tmp_path / "one.jsonl", [row]))
    return found


def test_jsonl_row_gives_key_text_images_metadata_and_pools(tmp_path: Path) -> None:
    row = {"key": "k", "text": "t", "image": ["a.png", "sub/b.png"], "metadata": {"n": [1]}, "pool": ["q", "p"]}

    entry = read_one(tmp_path, row)

    images = (tmp_path / "a.png", tmp_path / "sub/b.png")
    assert entry == CorpusEntry("k", "t", images, f"{tmp_path}/one.jsonl:1", {"n": [1]}, ("p", "q"))


def test_image_may_be_one_path_and_absolute(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"key": "k", "image": "/elsewhere/a.png"})

    assert isinstance(entry, CorpusEntry)
    assert entry.images == (Path("/elsewhere/a.png"),)
    assert (entry.text, entry.metadata, entry.pools) == (None, {}, ())


def test_blank_text_counts_as_absent(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"key": "k", "text": " \n", "image": "a.png"})

    assert isinstance(entry, CorpusEntry)
    assert entry.text is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "t"}, "no key"),
        ({"key": None, "text": "t"}, "no key"),
        ({"key": 7, "text": "t"}, "'key' must be a string, got a number"),
        ({"key": " ", "text": "t"}, "'key' must not be empty"),
        ({"key": "k"}, "neither text nor image"),
        ({"key": "k", "text": ""}, "neither text nor image"),
        ({"key": "k", "text": "  ", "image": []}, "neither text nor image"),
        ({"key": "k", "text": 1}, "'text' must be a string or null, got a number"),
        ({"key": "k", "image": {"path": "a"}}, "'image' must be a string or a list of strings, got an object"),
        ({"key": "k", "image": ["a", None]}, "'image' must be a string or a list of strings, got null"),
        ({"key": "k", "image": ["a", ""]}, "'image' must not hold an empty string"),
        ({"key": "k", "text": "t", "metadata": [1]}, "'metadata' must be an object, got a list"),
        ({"key": "k", "text": "t", "pool": True}, "'pool' must be a string or a list of strings, got a boolean"),
        ({"did": "1:1", "txt": None}, "neither text nor image: expected 'txt', 'img_path', or both"),
        ({"did": "1:1", "txt": "t", "modality": "sound"}, "'modality' must be one of"),
        ({"did": "1:1", "txt": ["t"]}, "'txt' must be a string or null, got a list"),
        ("nonsense", "not JSON (Expecting value, column 1)"),
        ('{"key": "k", "text": "t"', "not JSON"),
        ('["key"]', "expected a JSON object, got a list"),
        ('{"key": "k", "text": "t", "metadata": {"x": NaN}}', "not standard JSON"),
        ('{"key": "k", "text": "t", "metadata": {"x": 1e999}}', "not standard JSON"),
        ('{"key": "\\ud800", "text": "t"}', "not standard JSON"),
        ("[" * 100_000, "not standard JSON"),
        ('{"key": "k", "text": "t", "metadata": {"x": ' + "9" * 5000 + "}}", "not standard JSON"),
    ],
)
def test_bad_row_is_an_error_with_place_and_reason(tmp_path: Path, row: dict[str, Any] | str, reason: str) -> None:
    error = read_one(tmp_path, row)

    assert isinstance(error, InvalidRowError)
    assert error.where == f"{tmp_path}/one.jsonl:1"
    assert error.reason.startswith(reason)
    assert len(str(error)) < 300


def test_bytes_that_are_not_utf8_are_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"key": "a", "text": "\xff"}\n{"key": "b", "text": "fine"}\n')

    bad, good = read(path)

    assert isinstance(bad, InvalidRowError)
    assert bad.reason == "not UTF-8 (byte 22)"
    assert isinstance(good, CorpusEntry)


def test_reading_goes_on_after_a_bad_row_and_counts_blank_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", ["{", "", {"key": "k", "text": "t"}])

    bad, good = read(path)

    assert isinstance(bad, InvalidRowError)
    assert isinstance(good, CorpusEntry)
    assert (bad.where, good.where) == (f"{path}:1", f"{path}:3")


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"key": "a", "text": "x"}\r\n{"key": "b", "text": "y"}\r\n')

    assert [row.key for row in read(path)] == ["a", "b"]


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

    assert [file.pool for file in find_files([tmp_path])] == ["mbeir_mscoco_task0_test", "mbeir_nights_task4"]
    assert [file.pool for file in find_files([tmp_path, val])][2:] == ["mbeir_mscoco_task0_val"]


def test_mbeir_image_paths_start_from_the_dataset_root(tmp_path: Path) -> None:
    root = mbeir_dataset(tmp_path / "data")

    first, _ = read(root / "cand_pool" / "local" / "mbeir_b_task0_cand_pool.jsonl")

    assert isinstance(first, CorpusEntry)
    assert first.images == (root / "mbeir_images" / "1.jpg",)


def test_mbeir_source_is_decoded_into_the_metadata(tmp_path: Path) -> None:
    root = mbeir_dataset(tmp_path / "data")

    text, both = read(root / "cand_pool" / "local" / "mbeir_a_task1_cand_pool.jsonl")

    assert isinstance(text, CorpusEntry)
    assert isinstance(both, CorpusEntry)
    assert (text.metadata, both.metadata) == ({"src_content": {"id": 5}}, {})


def test_mbeir_source_that_is_no_json_stays_a_string(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"did": "1:1", "txt": "t", "src_content": "plain NaN"})

    assert isinstance(entry, CorpusEntry)
    assert entry.metadata == {"src_content": "plain NaN"}


def test_global_mbeir_file_is_no_pool(tmp_path: Path) -> None:
    root = mbeir_dataset(tmp_path / "data")

    rows = read(root / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl")

    assert [row.pools for row in rows if isinstance(row, CorpusEntry)] == [(), (), ()]


def test_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCorpusError, match="does not exist"):
        find_files([tmp_path / "nowhere.jsonl"])


def test_directory_without_candidate_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCorpusError, match=r"is no M-BEIR dataset: expected cand_pool/local/\*\.jsonl"):
        find_files([tmp_path])
