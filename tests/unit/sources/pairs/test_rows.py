"""Captions are found under several names, of which the first that says something counts."""

import pytest

from anykey.sources.pairs.rows import captions_of, clean_texts


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"captions": ["one", " two\n"]}, ("one", "two")),
        ({"captions": ["one", "", "  "]}, ("one",)),
        ({"caption": "one"}, ("one",)),
        ({"text": "one"}, ("one",)),
        ({"captions": [], "caption": "one"}, ("one",)),
        ({"captions": ["many"], "caption": "one"}, ("many",)),
        ({"text": "one", "captions": ["many"]}, ("one",)),
        ({"captions": "one"}, ("one",)),
    ],
)
def test_captions_are_found_under_several_names(row: dict[str, object], captions: tuple[str, ...]) -> None:
    assert captions_of(row) == captions


@pytest.mark.parametrize("row", [{}, [], "text", None, 3, {"caption": ""}, {"text": [" "]}, {"captions": None}])
def test_a_row_without_captions_is_refused(row: object) -> None:
    with pytest.raises(ValueError, match="expected an object with one of text, captions, caption"):
        captions_of(row)


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        clean_texts(["fine", "broken \ud800"])
