"""Shards are found by pattern and read sample by sample; what is missing is named."""

import json
from pathlib import Path

import pytest

from benchmark.errors import PairsError
from benchmark.shards import Member, expand, read_photos, write_shard


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """Writes a shard of these files."""
    write_shard(path, [Member(name, data) for name, data in members.items()])
    return path


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
    photos = list(read_photos([path]))
    assert [(p.name, p.data, p.extension) for p in photos] == [
        ("x/1", b"one", "jpg"),
        ("2", b"two", "png"),
        ("3", b"three", "jpeg"),
    ]
    assert [p.captions for p in photos] == [("A dog.", "Two dogs."), ("A cat.", "A grey cat."), ("A cow.",)]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"1.json": b"{}"}, "sample '1' has no image"),
        ({"1.jpg": b"x"}, "sample '1' has no caption"),
        ({"1.jpg": b"x", "1.json": b'{"captions": []}'}, "sample '1' has no caption"),
        ({"1.jpg": b"x", "1.json": b"{"}, "sample '1' has unreadable captions"),
        ({"1.jpg": b"x", "1.txt": b"\xff"}, "sample '1' has unreadable captions"),
        ({"1.jpg": b"x", "1.json": b"[1]"}, "expected a JSON object with 'captions'"),
        ({"1.jpg": b"x", "1.json": b'{"captions": [1]}'}, "expected a JSON object with 'captions'"),
    ],
)
def test_an_incomplete_sample_is_named(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(PairsError, match=said) as caught:
        list(read_photos([path]))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [b"this is no tar file at all", b""])
def test_a_file_that_is_no_tar_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(damage)
    with pytest.raises(PairsError, match=r"a\.tar: not a readable tar file"):
        list(read_photos([path]))


def test_a_truncated_shard_is_an_error_and_not_a_shorter_one(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"1.jpg": b"x" * 5000, "1.txt": b"A dog."})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(PairsError, match=r"a\.tar"):
        list(read_photos([path]))


def test_patterns_count_and_match(tmp_path: Path) -> None:
    for name in ("t-00.tar", "t-01.tar", "t-02.tar", "v.tar"):
        shard(tmp_path / name, {})
    assert [p.name for p in expand([f"{tmp_path}/t-{{00..01}}.tar"])] == ["t-00.tar", "t-01.tar"]
    assert [p.name for p in expand([f"{tmp_path}/t-*.tar", f"{tmp_path}/v.tar"])][-2:] == ["t-02.tar", "v.tar"]
    assert [p.name for p in expand([f"{tmp_path}/v.tar", f"{tmp_path}/?.tar"])] == ["v.tar"]
    with pytest.raises(PairsError, match="no shard matches"):
        expand([f"{tmp_path}/w-*.tar"])
    with pytest.raises(PairsError, match=r"t-03\.tar"):
        expand([f"{tmp_path}/t-{{00..03}}.tar"])
