"""A JSONL manifest: images relative to the file, one bad line one bad row."""

from pathlib import Path

import pytest

from tests.drawn_pairs import drawn_pairs, write_manifest
from training.errors import InvalidPairsError, InvalidRowError
from training.sources.manifest import Manifest


def manifest_of(path: Path, *lines: str) -> Manifest:
    (path / "pairs.jsonl").write_text("\n".join(lines))
    return Manifest(path / "pairs.jsonl")


def test_rows_are_pairs_with_images_beside_the_file(tmp_path: Path) -> None:
    pairs = drawn_pairs(3)
    manifest = Manifest(write_manifest(tmp_path / "sub" / "pairs.jsonl", pairs))
    assert len(manifest) == 3
    found = manifest[2]
    assert (found.name, found.captions) == (pairs[2].name, pairs[2].captions)
    assert isinstance(found.image, Path)
    assert found.image.read_bytes() == pairs[2].image


def test_blank_lines_do_not_count_but_line_numbers_do(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, "", '{"image": "a.jpg", "caption": "one"}', "  ", "oops")
    assert len(manifest) == 2
    assert manifest[0].name == "a.jpg"
    with pytest.raises(InvalidRowError) as caught:
        manifest[1]
    assert caught.value.where == f"{tmp_path / 'pairs.jsonl'}:4"


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    assert manifest_of(tmp_path, '{"image": "/photos/a.jpg", "text": "one"}')[0].image == Path("/photos/a.jpg")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("[1]", "expected an object"),
        ('{"image": "a.jpg"}', "non-empty 'captions'"),
        ('{"caption": "one"}', "expected 'image', a path"),
        ('{"caption": "one", "image": ""}', "expected 'image', a path"),
        ('{"caption": "one", "image": 3}', "expected 'image', a path"),
    ],
)
def test_a_row_that_is_no_pair_says_why(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(InvalidRowError, match=reason):
        manifest_of(tmp_path, line)[0]


def test_a_separator_inside_a_caption_does_not_end_the_line(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path, '{"image": "a.jpg", "caption": "one\u2028two\x85three"}', '{"image": "b.jpg", "text": "x"}'
    )
    assert len(manifest) == 2
    assert manifest[0].captions == ("one\u2028two\x85three",)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "pairs.jsonl").write_bytes(content)
    with pytest.raises(InvalidPairsError, match=r"cannot read .*pairs\.jsonl as UTF-8 JSONL"):
        Manifest(tmp_path / "pairs.jsonl")
