"""JSONL: every row comes as an entry or as an error that names its place, in a fixed order."""

from pathlib import Path
from typing import Any

import pytest

from anykey.sources.columns import parse_columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import InvalidRowError
from tests.corpora import entries, read
from tests.factories import write_jsonl


def read_one(tmp_path: Path, row: dict[str, Any] | str) -> CorpusEntry | InvalidRowError:
    (found,) = read(write_jsonl(tmp_path / "one.jsonl", [row]))
    return found


def test_jsonl_row_gives_key_text_images_metadata_and_pools(tmp_path: Path) -> None:
    row = {"key": "k", "text": "t", "image": ["a.png", "sub/b.png"], "metadata": {"n": [1]}, "pool": ["q", "p"]}

    entry = read_one(tmp_path, row)

    images = (f"{tmp_path}/a.png", f"{tmp_path}/sub/b.png")
    assert entry == CorpusEntry("k", "t", images, f"{tmp_path}/one.jsonl:1", {"n": [1]}, ("p", "q"))


def test_image_may_be_one_path_and_absolute(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"key": "k", "image": "/elsewhere/a.png"})

    assert isinstance(entry, CorpusEntry)
    assert entry.images == ("/elsewhere/a.png",)
    assert (entry.text, entry.metadata, entry.pools) == (None, {}, ())


@pytest.mark.parametrize("image", ["", " ", [""], [None, ""]])
def test_blank_names_count_as_absent(tmp_path: Path, image: str | list[str]) -> None:
    entry = read_one(tmp_path, {"key": "k", "text": "red shoe", "image": image, "pool": image})

    assert isinstance(entry, CorpusEntry)
    assert (entry.text, entry.images, entry.pools) == ("red shoe", (), ())
    entry = read_one(tmp_path, {"key": "k", "image": ["", "a.png"]})
    assert isinstance(entry, CorpusEntry)
    assert entry.images == (f"{tmp_path}/a.png",)


@pytest.mark.parametrize("row", [{"key": 7, "text": "t"}, {"did": 7, "txt": "t"}])
def test_a_whole_number_as_key_is_its_decimal_text(tmp_path: Path, row: dict[str, Any]) -> None:
    entry = read_one(tmp_path, row)

    assert isinstance(entry, CorpusEntry)
    assert entry.key == "7"


def test_a_list_of_texts_is_one_text_of_so_many_lines(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"key": "k", "text": ["two dogs", "", "dogs on a lawn"]})

    assert isinstance(entry, CorpusEntry)
    assert entry.text == "two dogs\ndogs on a lawn"


def test_blank_text_counts_as_absent(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"key": "k", "text": " \n", "image": "a.png"})

    assert isinstance(entry, CorpusEntry)
    assert entry.text is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "t"}, "no key"),
        ({"key": None, "text": "t"}, "no key"),
        ({"key": 1.0, "text": "t"}, "'key' must be a string or a whole number, got 1.0"),
        ({"key": True, "text": "t"}, "'key' must be a string or a whole number, got a boolean"),
        ({"key": " ", "text": "t"}, "'key' must not be empty"),
        ({"key": "k"}, "neither text nor image"),
        ({"key": "k", "text": ""}, "neither text nor image"),
        ({"key": "k", "text": "  ", "image": []}, "neither text nor image"),
        ({"key": "k", "text": 1}, "'text' must be a string or null, got a number"),
        ({"key": "k", "text": ["a", 1]}, "'text' must be a string, a list of strings or null, got a number in it"),
        ({"key": "k", "text": ["", None]}, "neither text nor image"),
        ({"key": "k", "image": {"path": "a"}}, "'image' must be a string or a list of strings, got an object"),
        ({"key": "k", "image": ["a", 7]}, "'image' must be a string or a list of strings, got a number"),
        ({"key": "k", "image": ["", None]}, "neither text nor image"),
        ({"key": "k", "text": "t", "metadata": [1]}, "'metadata' must be an object, got a list"),
        ({"key": "k", "text": "t", "pool": True}, "'pool' must be a string or a list of strings, got a boolean"),
        ({"did": "1:1", "txt": None}, "neither text nor image: expected 'txt', 'img_path', or both"),
        ({"did": "1:1", "txt": "t", "modality": "sound"}, "'modality' must be one of"),
        ({"did": "1:1", "txt": ["t"]}, "'txt' must be a string or null, got a list"),
        ("nonsense", "not JSON (Expecting value, column 1)"),
        ('{"key": "k", "text": "t"', "not JSON"),
        ('{"key": "k", "text": "a", "text": "b"}', "field 'text' is there twice"),
        ('{"key": "k", "text": "a", "metadata": {"p": 1, "p": 1}}', "field 'p' is there twice"),
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


def test_images_may_be_urls_and_file_urls_are_paths(tmp_path: Path) -> None:
    entry = read_one(tmp_path, {"key": "k", "image": ["https://host/a.png?size=2", "file:///data/b%20c.png"]})

    assert isinstance(entry, CorpusEntry)
    assert entry.images == ("https://host/a.png?size=2", "/data/b c.png")


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"sku": "1", "title": "shoe", "photo": "a.png", "text": "aside"}])

    (entry,) = entries(path, columns=parse_columns(["key=sku", "text=title", "image=photo"]))

    assert (entry.key, entry.text, entry.images) == ("1", "shoe", (f"{tmp_path}/a.png",))
    (bad,) = read(path)
    assert isinstance(bad, InvalidRowError)
