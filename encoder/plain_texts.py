"""Texts as plain characters: of bounded length, and with no control token that a tokenizer would take for its own."""

import unicodedata
from collections.abc import Iterator
from typing import Any

MAX_TOKEN_CHARS = 32  # of CLIP's vocabulary, with the mark of a word's end, which stands for the space between
MIN_HEAD_CHARS = 2_500


def head_chars(context_length: int) -> int:
    """How many characters of a text are split into tokens at most, which is more than a context of tokens holds."""
    return max(MIN_HEAD_CHARS, MAX_TOKEN_CHARS * context_length)


def head_of(text: str, max_chars: int) -> tuple[str, bool]:
    """What is encoded of a text, white space collapsed where it is longer, and whether that is less than all of it."""
    if len(text) <= max_chars:
        return text, False
    collapsed = " ".join(text.split())
    return collapsed[:max_chars], len(collapsed) > max_chars


def longer_and_longer(text: str, num_chars: int = MIN_HEAD_CHARS) -> Iterator[str]:
    """Beginnings of a text that end with a line, each twice as long as the one before, and at last the whole.

    No token goes over two lines, so those of a beginning are those of the whole text.

    Args:
        text: Any text.
        num_chars: Fewer than these the first one has not.
    """
    while (end := text.find("\n", num_chars)) >= 0:
        yield text[:end]
        num_chars = 2 * (end + 1)
    yield text


def control_tokens(tokenizer: Any) -> list[str]:
    """What a Hugging Face tokenizer takes for control tokens wherever it stands, but for those that are plain words."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added if token.special)}
    return sorted(name for name in names if len(name) > 1 and not name[0].isalnum())


def spelled_out(text: str, control: list[str]) -> str:
    """The text with a space within each control token, which makes plain characters of it; all else as it is.

    Letters that a tokenizer may take for those of a control token, such as full-width ones, count as such.
    """
    pieces = _folded(text)
    folded = "".join(pieces)
    cuts = {place + 1 for token in control for place in _places("".join(_folded(token)), folded)}
    if not cuts:
        return text
    kept, start = [], 0
    for character, piece in zip(text, pieces, strict=True):
        is_cut_L = [start + n in cuts for n in range(len(piece))]
        start += len(piece)
        if any(is_cut_L[1:]):  # one character stands for several of the token's
            kept += [f" {letter}" if is_cut else letter for letter, is_cut in zip(piece, is_cut_L, strict=True)]
        else:
            kept.append(f" {character}" if is_cut_L[0] else character)
    return "".join(kept)


def _folded(text: str) -> list[str]:
    """What each character is in Unicode's form NFKC, one or several letters."""
    return [unicodedata.normalize("NFKC", character) for character in text]


def _places(token: str, text: str) -> Iterator[int]:
    """Where a token begins in a text."""
    place = text.find(token)
    while place >= 0:
        yield place
        place = text.find(token, place + 1)
