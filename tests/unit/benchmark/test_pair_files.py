"""Pairs are found by pattern and read row by row; a bad row is named and left out, a bad file is an error."""

import json
from pathlib import Path

import pytest

from benchmark.errors import InvalidRowError, PairsError
from benchmark.pair_files import Photo, expand, read_photos
from benchmark.shards import Member, write_shard


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """Writes a shard of these files."""
    write_shard(path, [Member(name, data) for name, data in members.items()])
    return path


def read(path: Path) -> list[Photo]:
    """The file's pairs, all of them good."""
    photos = [row for row in read_photos([path]) if isinstance(row, Photo)]
    assert len(photos) == len(list(read_photos([path])))
    return photos


def captions(*texts: str) -> bytes:
    """A sample's JSON."""
    return json.dumps({"captions": list(texts)}).encode()


def test_samples_are_read_with_captions_from_json_or_text(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        {
            "x/1.jpg": b"one",
            "x/1.json": captions(" A dog. ", "", "Two dogs."),
            "2.PNG": b"two",
            "2.txt": b"A cat.\n\nA grey cat.\n",
            "3.json": b'{"caption": "A cow."}',
            "3.jpeg": b"three",
        },
    )
    photos = read(path)
    assert [(p.name, p.data, p.suffix) for p in photos] == [
        ("x/1", b"one", ".jpg"),
        ("2", b"two", ".png"),
        ("3", b"three", ".jpeg"),
    ]
    assert [p.captions for p in photos] == [("A dog.", "Two dogs."), ("A cat.", "A grey cat."), ("A cow.",)]


def test_a_manifest_names_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.PNG").write_bytes(b"one")
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"image": "a.PNG", "text": "A dog."}\n{"image": "a.PNG", "name": "b", "captions": ["A", "B"]}\n')
    first, second = read(path)
    assert (first.name, first.where, first.data, first.suffix) == ("a.PNG", f"{path}:2", b"one", ".png")
    assert (second.name, second.captions) == ("b", ("A", "B"))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"1.json": b"{}"}, "expected an image and a .json or .txt, found json"),
        ({"1.jpg": b"x"}, "expected an image and a .json or .txt, found jpg"),
        ({"1.jpg": b"x", "1.json": b'{"captions": []}'}, "expected an object with non-empty 'captions'"),
        ({"1.jpg": b"x", "1.json": b"{"}, "Expecting property name"),
        ({"1.jpg": b"x", "1.txt": b"\xff"}, "'utf-8' codec can't decode"),
        ({"1.jpg": b"x", "1.json": b"[1]"}, "expected an object with non-empty 'captions'"),
        ({"1.jpg": b"x", "1.json": b'{"captions": [1]}'}, "expected an object with non-empty 'captions'"),
    ],
)
def test_an_incomplete_sample_is_named_and_the_next_is_read(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    path = shard(tmp_path / "a.tar", {**members, "2.jpg": b"y", "2.txt": b"fine"})
    bad, good = read_photos([path])
    assert isinstance(bad, InvalidRowError)
    assert bad.where == f"{path}: sample '1'"
    assert bad.reason.startswith(reason)
    assert isinstance(good, Photo)


def test_a_row_without_its_image_says_why(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "gone.jpg", "text": "A dog."}')
    (row,) = read_photos([path])
    assert str(row) == f"{path}:1: cannot read gone.jpg: No such file or directory"


@pytest.mark.parametrize("damage", [b"this is no tar file at all", b"", b"x" * 1024])
def test_a_file_that_is_no_tar_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(damage)
    with pytest.raises(PairsError, match=r"a\.tar is no readable tar file"):
        list(read_photos([path]))


@pytest.mark.parametrize(("name", "said"), [("a.jsonl", "as UTF-8 JSONL"), ("a.zip", "expected a .tar shard or a")])
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(PairsError, match=said):
        list(read_photos([tmp_path / name]))


def test_a_truncated_shard_is_an_error_and_not_a_shorter_one(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"1.jpg": b"x" * 5000, "1.txt": b"A dog."})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(PairsError, match=r"a\.tar"):
        list(read_photos([path]))


def test_a_pattern_without_a_file_and_unbalanced_braces_are_named(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"no file '.*w-\*\.tar'"):
        expand([f"{tmp_path}/w-*.tar"])
    with pytest.raises(PairsError, match="unbalanced braces"):
        expand([f"{tmp_path}/{{0..9.tar"])
