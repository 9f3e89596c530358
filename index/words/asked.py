"""What somebody types to find keys by their words, to a question that SQLite's FTS5 is asked.

Words stand for themselves, `"red canvas"` for the words beside each other in that order, `canv*` and `"red canv*"` for
all words that begin so. Nothing else has a meaning: what is typed never reaches FTS5 but as quoted words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from anykey.index.errors import InvalidSearchError
from anykey.index.words.tokens import LONGEST_JOINED, is_unspaced, plain, words_of

MOST_WORDS = 256  # of one question
_PIECE = re.compile(r'"([^"]*)"?\*?|([^\s"!#$%&()+,:;<=>?@\[\\\]^`{|}~]+)')
_SCRIPTS = re.compile(r"[0-9]+|[^0-9]+")


@dataclass(frozen=True)
class Phrase:
    """Words beside each other.

    Attributes:
        words: The words, in order; at least one.
        is_prefix: Whether the last one need only be a beginning.
    """

    words: tuple[str, ...]
    is_prefix: bool = False

    @property
    def expression(self) -> str:
        """The phrase as FTS5 has it."""
        return f'"{" ".join(self.words)}"{" *" * self.is_prefix}'


def phrases_of(asked: str) -> list[Phrase]:
    """All phrases that a key may have to be found by; it is found by any of them.

    A word with signs in it, or of letters and digits, is asked for in each way in which people write it, and so are
    two words beside each other: `SKU-123`, `sku 123` and `SKU123` find the same keys.

    Raises:
        InvalidSearchError: there are no words in it, or too many.
    """
    found: dict[Phrase, None] = {}
    pieces = list(_pieces(asked))
    if sum(len(words) for words, _, _ in pieces) > MOST_WORDS:
        raise InvalidSearchError(f"expected at most {MOST_WORDS} words to look for, got more")
    if not pieces:
        raise InvalidSearchError("expected words to look for, got none: a word has letters or digits")
    for words, is_prefix, is_quoted in pieces:
        found[Phrase(words, is_prefix)] = None
        if not is_quoted:
            found.update(dict.fromkeys(_spellings(words, is_prefix)))
    found.update(dict.fromkeys(_across(pieces)))
    return list(found)


def check_words(asked: str) -> None:
    """Makes sure that there are words to look for; raises as `phrases_of` does."""
    phrases_of(asked)


def expression_of(asked: str) -> str:
    """The question as FTS5 takes it; raises as `phrases_of` does."""
    return " OR ".join(phrase.expression for phrase in phrases_of(asked))


_Piece = tuple[tuple[str, ...], bool, bool]  # its words, whether it is a prefix, and whether it is quoted


def _pieces(asked: str) -> Iterator[_Piece]:
    """What stands between spaces or between quotes, as far as there are words in it."""
    for match in _PIECE.finditer(plain(asked)):
        quoted, bare = match.groups()
        piece = bare if quoted is None else quoted
        words = tuple(words_of(piece))
        if words:
            is_prefix = match[0].rstrip(' "').endswith("*")
            yield words, is_prefix, quoted is not None


def _spellings(words: tuple[str, ...], is_prefix: bool) -> Iterator[Phrase]:
    """Other ways to write one word: without its signs, and with its letters apart from its digits."""
    if any(map(is_unspaced, words)):
        return
    whole = "".join(words)
    if len(whole) > LONGEST_JOINED:
        return
    yield Phrase((whole,), is_prefix)
    yield Phrase(tuple(_SCRIPTS.findall(whole)), is_prefix)


def _across(pieces: list[_Piece]) -> Iterator[Phrase]:
    """Words beside each other as one: each two, and all of a run in which every one has a digit."""
    for is_bare, group in groupby(pieces, key=lambda piece: not piece[2]):
        run = list(group)
        if not is_bare:
            continue
        for first, second in pairwise(run):
            yield from _joined([first, second])
        for has_digits, numbers in groupby(run, key=lambda piece: any(map(str.isdigit, "".join(piece[0])))):
            some = list(numbers)
            if has_digits and len(some) > 2:
                yield from _joined(some)


def _joined(run: list[_Piece]) -> Iterator[Phrase]:
    words = [word for words, _, _ in run for word in words]
    whole = "".join(words)
    is_whole = not any(is_prefix for _, is_prefix, _ in run[:-1])
    if is_whole and len(whole) <= LONGEST_JOINED and not any(map(is_unspaced, words)):
        yield Phrase((whole,), run[-1][1])
