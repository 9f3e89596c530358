"""An index and training read the same samples of shards and folders: the same images, and all of the same captions.

The text of a key is its captions, one to a line.
"""

import json
from pathlib import Path

import pytest

from anykey.sources.errors import InvalidRowError
from anykey.sources.pairs import open_pairs
from anykey.sources.pairs.pair import Pair
from tests.corpora import read, write_tar
from tests.drawn_pairs import read_all

MARK = b"\xef\xbb\xbf"
IMAGE = ("a.jpg", b"picture")
JSON_WITHOUT_CAPTION = json.dumps({"caption": None, "url": "https://host/a.jpg", "width": 3}).encode()

SAMPLES: dict[str, list[tuple[str, bytes]]] = {
    "image and text": [IMAGE, ("a.txt", b"one")],
    "five captions": [IMAGE, ("a.txt", b"one\n\n two \r\nthree\nfour\nfive\n")],
    "a list of captions": [IMAGE, ("a.json", b'{"captions": ["one", "two"]}')],
    "a list of captions beside a text": [IMAGE, ("a.json", b'{"captions": ["one", "two"]}'), ("a.txt", b"three")],
    "one caption": [IMAGE, ("a.json", b'{"caption": "one"}')],
    "text": [IMAGE, ("a.json", b'{"text": "one"}')],
    "a list of texts": [IMAGE, ("a.json", b'{"text": ["one", "two"]}')],
    "img2dataset": [IMAGE, ("a.txt", b"one"), ("a.json", b'{"caption": "one", "url": "https://host/a.jpg"}')],
    "img2dataset without a caption": [IMAGE, ("a.txt", b"one"), ("a.json", JSON_WITHOUT_CAPTION)],
    "an empty caption": [IMAGE, ("a.txt", b"one"), ("a.json", b'{"caption": " ", "captions": []}')],
    "JSON of other things": [IMAGE, ("a.txt", b"one"), ("a.json", b"{}")],
    "marks": [IMAGE, ("a.txt", MARK + b"one")],
    "marks in JSON": [IMAGE, ("a.json", MARK + b'{"caption": "one"}')],
    "suffixes in capitals": [("a.JPG", b"x"), ("a.TXT", b"one")],
    "a text alone": [("a.txt", b"one")],
    "a text before captions": [IMAGE, ("a.json", b'{"captions": ["two"], "text": "one"}')],
    "a field twice": [IMAGE, ("a.json", b'{"text": "one", "text": "two"}')],
    "a caption of another kind": [IMAGE, ("a.json", b'{"caption": 3}'), ("a.txt", b"one")],
    "no UTF-8": [IMAGE, ("a.txt", b"\xff")],
    "no JSON": [IMAGE, ("a.json", b"{")],
    "no object": [IMAGE, ("a.json", b"[1]")],
    **{f"a .{s}": [(f"a.{s}", b"x"), ("a.txt", b"one")] for s in ("jpeg", "PNG", "webp", "gif", "bmp", "tif", "tiff")},
    **{f"a .{s}": [(f"a.{s}", b"x"), ("a.txt", b"one")] for s in ("avif", "heic", "NEF", "svg", "jp2")},
}


def as_shard(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    return write_tar(folder / "shard.tar", members)


def as_folder(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    for name, data in members:
        (folder / name).write_bytes(data)
    return folder


def in_training(path: Path) -> tuple[bool, list[str]] | None:
    """Whether there is an image, and the captions; `None` for a bad row."""
    (row,) = read_all(open_pairs([str(path)]))
    return (row.image is not None, list(row.captions)) if isinstance(row, Pair) else None


def in_an_index(path: Path) -> tuple[bool, list[str]] | None:
    (row,) = read(path)
    if isinstance(row, InvalidRowError):
        return None
    lines = [line.strip() for line in (row.text or "").split("\n")]
    return bool(row.images), [line for line in lines if line]


IN_SHARDS = {
    **SAMPLES,
    "an image alone": [IMAGE],
    "a blank text": [IMAGE, ("a.txt", b" \n")],
    "a numbered image": [("a.0.jpg", b"x"), ("a.txt", b"one")],
    "twice, but for case": [IMAGE, ("a.JPG", b"y"), ("a.txt", b"one")],
    "no suffix": [("a", b"x")],
    "neither": [("a.cls", b"3")],
}


@pytest.mark.parametrize("sample", IN_SHARDS)
def test_a_sample_of_a_shard(tmp_path: Path, sample: str) -> None:
    path = as_shard(tmp_path, IN_SHARDS[sample])
    assert in_an_index(path) == in_training(path)


@pytest.mark.parametrize("sample", [name for name in SAMPLES if name != "a text alone"])  # training pairs images
def test_a_sample_of_a_folder(tmp_path: Path, sample: str) -> None:
    path = as_folder(tmp_path, SAMPLES[sample])
    assert in_an_index(path) == in_training(path)


@pytest.mark.parametrize("write", [as_shard, as_folder])
def test_an_index_says_how_many_texts_have_several_lines(
    tmp_path: Path, write: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(write)
    files = [(f"{n}.jpg", b"x") for n in range(3)] + [("0.txt", b"one\ntwo"), ("1.txt", b"one\n")]
    read(write(tmp_path, [*files, ("2.json", b'{"captions": ["one", "two"]}')]))
    assert "2 texts have several lines, which together are the one text of a key" in caplog.text
