"""Captions are found under three names, and a row without any is refused unless it plainly has none."""

import pytest

from anykey.sources.pairs.rows import captions_of, clean_texts, says_nothing


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"captions": ["one", " two\n"]}, ("one", "two")),
        ({"captions": ["one", "", "  "]}, ("one",)),
        ({"caption": "one"}, ("one",)),
        ({"text": "one"}, ("one",)),
        ({"captions": [], "caption": "one"}, ("one",)),
        ({"captions": ["many"], "caption": "one"}, ("many",)),
        ({"captions": "one"}, ("one",)),
    ],
)
def test_captions_are_found_under_three_names(row: dict[str, object], captions: tuple[str, ...]) -> None:
    assert captions_of(row) == captions


@pytest.mark.parametrize(
    "row", [{}, [], "text", None, 3, {"captions": [1]}, {"caption": ""}, {"text": [" "]}, {"text": {"a": 1}}]
)
def test_a_row_without_captions_is_refused(row: object) -> None:
    with pytest.raises(ValueError, match="expected an object with non-empty 'captions', 'caption' or 'text'"):
        captions_of(row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, True),
        ({"image": "a.jpg"}, True),
        ({"captions": None, "caption": None, "text": None}, True),
        ({"captions": []}, False),
        ({"text": ""}, False),
        ([], False),
        (None, False),
    ],
)
def test_only_an_absent_or_null_caption_says_that_there_is_none(row: object, expected: bool) -> None:
    assert says_nothing(row) is expected


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        clean_texts(["fine", "broken \ud800"])
