"""Folders: every image is a key, what lies beside it belongs to it, and nothing is passed over unsaid."""

import json
import os
from pathlib import Path

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from anykey.sources.columns import parse_columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import SourceError
from anykey.sources.files.images import ImageStamp
from tests.corpora import bad_rows, entries, read, upload


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_images_have_their_sidecars_and_texts_stand_alone(tmp_path: Path) -> None:
    sidecar = json.dumps({"text": "two", "metadata": {"a": 1}, "pool": ["q", "p"], "width": 5}).encode()
    folder = fill(
        tmp_path / "photos",
        {
            "cats/1.jpg": b"1",
            "cats/1.txt": b"a cat\n",
            "cats/2.PNG": b"2",
            "cats/2.json": sidecar,
            "b.webp": b"3",
            "c.txt": b"x",
        },
    )

    b, c, first, second = entries(folder)

    assert (b.key, b.text, b.images, b.where) == ("b", None, (f"{folder}/b.webp",), f"{folder}/b.webp")
    assert (c.key, c.text, c.images) == ("c", "x", ())
    assert (first.key, first.text) == ("cats/1", "a cat")
    assert (second.text, second.metadata, second.pools) == ("two", {"width": 5, "a": 1}, ("p", "q"))


def test_json_and_txt_beside_one_image_both_count(tmp_path: Path) -> None:
    (entry,) = entries(fill(tmp_path, {"1.jpg": b"1", "1.txt": b"text", "1.json": b'{"key": "sku", "price": 2}'}))
    assert (entry.key, entry.text, entry.metadata) == ("sku", "text", {"price": 2})


def test_names_are_cut_at_their_last_dot(tmp_path: Path) -> None:
    (entry,) = entries(fill(tmp_path, {"a.b.jpg": b"1", "a.b.txt": b"text"}))
    assert (entry.key, entry.text) == ("a.b", "text")


def test_two_images_of_one_name_are_two_rows_of_one_key(tmp_path: Path) -> None:
    rows = entries(fill(tmp_path, {"a.jpg": b"1", "a.png": b"2", "a.txt": b"text"}))
    assert [(row.key, row.text) for row in rows] == [("a", "text")] * 2


def test_images_that_cannot_be_decoded_are_listed_too(tmp_path: Path) -> None:
    (entry,) = entries(fill(tmp_path, {"a.heic": b"1"}))
    assert entry.images == (f"{tmp_path}/a.heic",)


def test_what_is_left_aside_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"a.jpg": b"1", "b.md": b"", "c/d.md": b"", "e": b"", ".hidden.md": b"", ".git/x.md": b""}
    entries(fill(tmp_path, files))
    assert f"{tmp_path}: left aside 3 files that are no image, .txt or .json: .md (2), no suffix (1)" in caplog.text


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.jpg": b"1", "a.json": b"{"}, ".json: not JSON"),
        ({"a.jpg": b"1", "a.json": b"\xff{}"}, ".json: not UTF-8"),
        ({"a.jpg": b"1", "a.txt": b"\xff"}, ".txt: not UTF-8 (byte 0)"),
        ({"a.json": b"{}"}, "neither text nor image"),
        ({"a.txt": b"x" * (16 * 2**20 + 1)}, "cannot read a.txt: it has more than 16777216 bytes"),
        ({"a.jpg": b"1", "a.json": b'{"metadata": [1]}'}, "'metadata' must be an object, got a list"),
    ],
)
def test_bad_sidecar_is_an_error_with_place_and_reason(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    folder = fill(tmp_path, {**files, "good.txt": b"x"})

    ((where, found),) = bad_rows(folder)

    assert (where, len(read(folder))) == (f"{folder}/{min(files)}", 2)
    assert found.startswith(reason)


def test_link_to_nowhere_beside_an_image_is_a_bad_row(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": b"1"})
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    assert bad_rows(tmp_path) == [(f"{tmp_path}/a.jpg", "cannot read a.txt: No such file or directory")]


def test_name_that_is_no_utf8_is_a_bad_row(tmp_path: Path) -> None:
    fill(tmp_path, {os.fsdecode(b"caf\xe9.jpg"): b"1", "a.txt": b"x"})
    assert bad_rows(tmp_path) == [(f"{tmp_path}/caf\\udce9.jpg", "its name is not UTF-8")]


def test_folder_without_images_or_texts_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected images, \.txt, \.json or \.parquet in it.*; found nothing"):
        read(tmp_path)
    fill(tmp_path, {"0.tar": b"", "1.tar": b""})
    with pytest.raises(SourceError, match=r"found \.tar \(2\)\. Files of other formats are named one by one"):
        read(tmp_path)


def test_keys_can_begin_with_the_folder_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "photos", {"a.txt": b"x"})
    monkeypatch.chdir(tmp_path / "photos")
    for name in (tmp_path / "photos", f"{tmp_path}/photos/", "."):
        assert [entry.key for entry in entries(name, prefix_keys=True)] == ["photos/a"]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_folder_elsewhere_is_read_alike(tmp_path: Path, memory: fsspec.AbstractFileSystem, num_threads: int) -> None:
    folder = fill(
        tmp_path / "p", {f"{number}.{kind}": b"%d" % number for number in range(40) for kind in ("jpg", "txt")}
    )
    for path in folder.iterdir():
        memory.pipe(f"/p/{path.name}", path.read_bytes())

    local, remote = entries(folder), entries("memory://p", num_threads=num_threads)

    assert [(row.key, row.text) for row in remote] == [(row.key, row.text) for row in local]
    (stamp,) = remote[0].images
    assert isinstance(stamp, ImageStamp)  # from the listing: no image was asked for
    assert (stamp.location, stamp.size_bytes) == ("memory:///p/0.jpg", 1)


def hub_folder(folder: Path, suffix: str, rows: list[dict[str, object]]) -> Path:
    """Images with a table that names them, as Hugging Face's `datasets` reads it."""
    fill(folder, {str(row["file_name"]): b"%d" % number for number, row in enumerate(rows)})
    path = folder / f"metadata.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8-sig")
    return folder


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("text", ["text", "caption", "captions"])
def test_a_table_names_the_images_of_a_folder(tmp_path: Path, suffix: str, text: str) -> None:
    rows: list[dict[str, object]] = [
        {"file_name": "b.png", text: "two", "place": "lawn"},
        {"file_name": "in/a.png", text: "one", "place": "sea"},
    ]
    folder = fill(
        hub_folder(tmp_path / "hub" / "train", suffix, rows), {"in/alone.png": b"3", "c.jpg": b"", "c.txt": b"x"}
    )

    found = entries(folder.parent)

    assert [(row.key, row.text, row.images, row.metadata) for row in found] == [
        ("train/b", "two", (f"{folder}/b.png",), {"place": "lawn"}),
        ("train/in/a", "one", (f"{folder}/in/a.png",), {"place": "sea"}),
        ("train/c", "x", (f"{folder}/c.jpg",), {}),
        ("train/in/alone", None, (f"{folder}/in/alone.png",), {}),
    ]
    (named, *_) = entries(folder.parent, columns=parse_columns(["key=place"]), prefix_keys=True)
    assert named.key == "lawn"
    assert next(row.key for row in entries(folder.parent, prefix_keys=True)) == "hub/train/b"


def test_a_row_of_such_a_table_that_is_wrong_is_a_bad_row(tmp_path: Path) -> None:
    lines = ['{"file_name": "a.png", "text": "one"}', '{"text": "two"}', "{"]
    fill(tmp_path, {"a.png": b"1", "metadata.jsonl": "\n".join(lines).encode()})
    place = f"{tmp_path}/metadata.jsonl"
    assert [(where, reason[:6]) for where, reason in bad_rows(tmp_path)] == [
        (f"{place}:2", "no key"),
        (f"{place}:3", "not JS"),
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_image_whose_row_is_wrong_is_not_stored_without_what_the_row_says(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, object]] = [{"file_name": "in/../a.png", "text": 5}, {"file_name": "b.png", "text": 6}]
    folder = fill(hub_folder(tmp_path / "train", suffix, rows), {"a.png": b"1", "b.png": b"2", "c.png": b"3"})

    assert [row.key for row in read(folder) if isinstance(row, CorpusEntry)] == ["c"]
    assert [reason for _, reason in bad_rows(folder)] == ["'text' must be a string or null, got a number"] * 2


@pytest.mark.parametrize("first", ['{"text": "of the whole set"}', '{"made": "by hand"}', "5"])
def test_a_table_is_known_by_any_of_its_rows(tmp_path: Path, first: str) -> None:
    lines = [first, '{"file_name": "a.png", "caption": "one"}', '{"file_name": "b.png", "caption": "two"}']
    fill(tmp_path, {"a.png": b"1", "b.png": b"2", "metadata.jsonl": "\n".join(lines).encode()})

    texts = {row.key: row.text for row in read(tmp_path) if isinstance(row, CorpusEntry)}
    assert texts == {"a": "one", "b": "two"}
    assert [where for where, _ in bad_rows(tmp_path)] == [f"{tmp_path}/metadata.jsonl:1"]


@pytest.mark.parametrize("name", [".", "/", "./."])
def test_a_row_that_names_no_file_is_a_bad_row(tmp_path: Path, name: str) -> None:
    lines = [f'{{"file_name": "{name}"}}', '{"file_name": "a.png", "text": "one"}']
    fill(tmp_path, {"a.png": b"1", "metadata.jsonl": "\n".join(lines).encode()})

    assert bad_rows(tmp_path) == [(f"{tmp_path}/metadata.jsonl:1", f"'file_name' must name a file, got '{name}'")]
    assert [(row.key, row.text) for row in read(tmp_path) if isinstance(row, CorpusEntry)] == [("a", "one")]


def test_metadata_without_names_of_files_is_left_aside_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = entries(
        fill(tmp_path, {"a.png": b"1", "metadata.csv": b"width,height\n1,2\n", "in/metadata.jsonl": b"["})
    )
    assert entry.key == "a"
    assert "left aside 2 files that are no image, .txt or .json: .jsonl (1), .csv (1)" in caplog.text


def test_a_folder_of_parquet_parts_is_read_in_the_order_of_their_paths(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("10", "9", "a/0", "a-b/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table({"key": [name], "text": ["x"]}), tmp_path / f"{name}.parquet")
    fill(tmp_path, {"_SUCCESS": b""})

    assert [row.key for row in entries(tmp_path)] == ["10", "9", "a-b/0", "a/0"]  # plain strings: "-" before "/"
    assert "left aside 1 files: no suffix (1)" in caplog.text


def test_a_table_names_the_images_of_a_folder_elsewhere(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    rows: list[dict[str, object]] = [{"file_name": "in/a.png", "text": "one"}, {"file_name": "b.png", "text": "two"}]
    upload(fill(hub_folder(tmp_path, "jsonl", rows), {"c.png": b"3"}), "/hub", memory)
    found = [(row.key, row.text) for row in entries("memory://hub")]
    assert found == [("in/a", "one"), ("b", "two"), ("c", None)]
