"""A JSONL manifest: images relative to the file, one bad line one bad row."""

from pathlib import Path

import pytest

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.manifest import Manifest
from anykey.sources.pairs.pair import Side
from tests.drawn_pairs import drawn_pairs, read_all, write_manifest


def manifest_of(path: Path, *lines: str) -> Manifest:
    (path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    return Manifest(DataFile(path / "pairs.jsonl"))


def test_rows_are_pairs_with_images_beside_the_file(tmp_path: Path) -> None:
    pairs = drawn_pairs(3)
    manifest = Manifest(DataFile(write_manifest(tmp_path / "sub" / "pairs.jsonl", pairs)))
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


def test_fields_have_the_names_of_columns_too(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, '{"file_name": "a.jpg", "title": "one", "name": null}', '{"filepath": "b.jpg"}')
    assert (manifest[0].name, manifest[0].image, manifest[0].captions) == ("a.jpg", tmp_path / "a.jpg", ("one",))
    assert (manifest[1].image, manifest[1].captions) == (tmp_path / "b.jpg", ())


def test_byte_order_marks_are_no_part_of_rows(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, '\ufeff{"image": "a.jpg", "caption": "one"}', '\ufeff{"text": "\ufefftwo"}')
    assert [manifest[row].captions for row in range(2)] == [("one",), ("\ufefftwo",)]  # from two files joined


@pytest.mark.parametrize("name", ["url", "URL", "image_url"])
def test_a_row_that_names_its_image_by_an_address_alone_is_no_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRowError, match=f"column '{name}' holds addresses, and images are not fetched here"):
        manifest_of(tmp_path, f'{{"{name}": "https://host/a.jpg", "caption": "one"}}')[0]
    assert manifest_of(tmp_path, f'{{"{name}": null, "caption": "one"}}')[0].captions == ("one",)
    assert manifest_of(tmp_path, f'{{"{name}": "https://host/a", "image": "a.jpg"}}')[0].image == tmp_path / "a.jpg"


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    assert manifest_of(tmp_path, '{"image": "/photos/a.jpg", "text": "one"}')[0].image == Path("/photos/a.jpg")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ("{}", "expected an image, a text or both, found neither"),
        ('{"image": null, "text": null}', "expected an image, a text or both, found neither"),
        ('{"image": " ", "text": [" ", null]}', "expected an image, a text or both, found neither"),
        ('{"query": {"text": "one"}}', "expected an image, a text or both, found neither"),
        ('{"image": "a.jpg", "text": {"en": "one"}}', "expected a text, a list of texts or null, got an object"),
        ('{"image": "a.jpg", "text": ["one", 2]}', "expected a text, a list of texts or null, got a number"),
        ('{"image": ["a.jpg", "b.jpg"], "text": "one"}', "expected one image in 'image', got 2"),
        ('{"text": "one", "text": "two"}', "field 'text' is there twice"),
        ('{"text": "one", "size": NaN}', "not standard JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"image": "a.jpg", "text": "\\ud83d"}', "not standard JSON"),
        ('{"image": "a\\u0000.jpg", "text": "one"}', "holds a zero byte"),
        ('{"image": "a\\ud800.jpg", "text": "one"}', "not standard JSON"),
        ('{"image": "https://host/a.jpg", "text": "one"}', "is a URL: expected a path"),
        ('{"image": "a.jpg", "text": "one", "query": "two"}', "expected 'query' with an 'image'"),
        ('{"image": "a.jpg", "text": "one", "query": {}}', "expected 'query' with an 'image'"),
        ('{"image": "a.jpg", "text": "one", "query": {"text": " "}}', "expected 'query' with an 'image'"),
        ('{"image": "a.jpg", "text": "one", "query": {"image": 3}}', "expected 'query' with 'image'"),
        ('{"image": "a.jpg", "text": "one", "query": {"texts": [3]}}', "expected a text, got int"),
        ('{"image": "a.jpg", "text": "one", "negatives": {"text": "two"}}', "expected 'negatives', a list"),
        ('{"image": "a.jpg", "text": "one", "negatives": [null]}', "expected 'negatives' with an 'image'"),
        ('{"caption": "one", "image": 3}', "'image' must hold bytes or names of files, got a number"),
    ],
)
def test_a_row_that_is_no_pair_says_why(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(InvalidRowError, match=reason):
        manifest_of(tmp_path, line)[0]


def test_a_row_may_be_one_half(tmp_path: Path) -> None:
    lines = (
        '{"image": "a.jpg"}',
        '{"caption": "one"}',
        '{"image": "a.jpg", "text": null}',
        '{"image": null, "text": "x"}',
        '{"image": "a.jpg", "caption": "", "captions": []}',
        '{"image": " ", "text": "x"}',
    )
    manifest = manifest_of(tmp_path, *lines)
    image = tmp_path / "a.jpg"
    halves = [(manifest[n].image, manifest[n].captions) for n in range(6)]
    assert halves == [(image, ()), (None, ("one",)), (image, ()), (None, ("x",)), (image, ()), (None, ("x",))]
    assert manifest[1].name == manifest[1].where == f"{tmp_path / 'pairs.jsonl'}:2"


def test_a_row_may_bring_a_query_and_negatives(tmp_path: Path) -> None:
    line = """{"image": "a.jpg", "text": "one", "query": {"image": "q.jpg", "text": "but red"},
        "negatives": [{"texts": ["two", " three "]}, {"image": "/b.jpg"}]}"""
    pair = manifest_of(tmp_path, line.replace("\n", " "))[0]
    assert pair.query == Side(tmp_path / "q.jpg", ("but red",))
    assert pair.negatives == (Side(None, ("two", "three")), Side(Path("/b.jpg")))


def test_line_ends_and_long_lines_do_no_harm(tmp_path: Path) -> None:
    long = "word " * 400_000
    manifest = manifest_of(tmp_path, '{"text": "one"}\r', "\r", f'{{"text": "{long}"}}', '{"text": "last"}')
    assert [manifest[n].captions for n in range(3)] == [("one",), (long.strip(),), ("last",)]


def test_a_fetched_manifest_has_no_folder_for_its_images(tmp_path: Path) -> None:
    manifest_of(tmp_path, '{"image": "a.jpg", "text": "one"}', '{"text": "two"}', '{"image": "/a.jpg"}')
    manifest = Manifest(DataFile(tmp_path / "pairs.jsonl", url="https://host/pairs.jsonl"))
    with pytest.raises(InvalidRowError, match=r"https://host/pairs.jsonl:1: image a.jpg is relative to a file that"):
        manifest[0]
    assert (manifest[1].captions, manifest[2].image) == (("two",), Path("/a.jpg"))


def test_a_separator_inside_a_caption_does_not_end_the_line(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path, '{"image": "a.jpg", "caption": "one\u2028two\x85three"}', '{"image": "b.jpg", "text": "x"}'
    )
    assert len(manifest) == 2
    assert manifest[0].captions == ("one\u2028two\x85three",)


def test_a_line_in_another_encoding_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(b'{"text": "\xff"}\n{"text": "two"}\n')
    rows = read_all(Manifest(DataFile(tmp_path / "pairs.jsonl")))
    assert [row if isinstance(row, str) else row.captions for row in rows] == ["not UTF-8 (byte 10)", ("two",)]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*pairs\.jsonl"):
        Manifest(DataFile(tmp_path / "pairs.jsonl"))
