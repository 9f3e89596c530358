"""What counts as a word: texts and metadata to the tokens that are searched, in one way for keys and for queries.

Case, accents of Latin, Greek and Cyrillic letters, width and ligatures make no difference. What is written without
spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) is taken letter by letter, so that a part of it is found as a run
of letters. A word that signs join, such as `SKU-123` or `t-shirt`, is its parts and also one word without the signs:
people type it in either way.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

GAP = "\u00b6"  # between what no phrase may reach across; no word has it
LONGEST_WORD = 128  # characters; what is longer is cut
LONGEST_JOINED = 48  # characters of a word with signs in it, without them
MOST_TOKENS = 20_000  # of one key
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKED = "\u0900-\u0963\u0966-\u0dff"  # Indic scripts, whose vowel signs are parts of words
_LETTER = rf"(?:[^\W_{_UNSPACED}]|[{_MARKED}])"
_WORD = re.compile(rf"{_LETTER}+|[{_UNSPACED}]")
# They begin where a word does and give no letter back, or a word of a million letters would be looked at from each.
_JOINED = re.compile(rf"(?<!{_LETTER}){_LETTER}++(?:[-_./'\u2010-\u2015\u2019]{_LETTER}++)++")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_ASCII_JOINED = re.compile(r"(?<![a-z0-9])[a-z0-9]++(?:[-_./'][a-z0-9]++)++")
_NUMBERS = re.compile(r"(?<![0-9])[0-9]++(?: [0-9]++)++")  # in groups, as telephone numbers are written
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0670]")
_CUT = itemgetter(slice(LONGEST_WORD))

Path = Sequence[str]


def plain(text: str) -> str:
    """A text without what makes no difference between words."""
    if text.isascii():
        return text.lower()
    parts = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFKC", parts).casefold()


def words_of(text: str) -> list[str]:
    r"""The words of a text, in its order.

    >>> words_of("Cr\u00e8me SKU-123")
    ['creme', 'sku', '123']
    """
    small = plain(text)
    return list(map(_CUT, (_ASCII_WORD if small.isascii() else _WORD).findall(small)))


def is_unspaced(word: str) -> bool:
    """Whether a word is a letter of a script that is written without spaces."""
    return re.fullmatch(rf"[{_UNSPACED}]", word) is not None


def tokens_of(key: str, text: str | None, metadata: str, fields: Sequence[Path] | None) -> str:
    """The tokens of a key, with spaces between them: its name, its text, and what its metadata say.

    Args:
        key: Its name.
        text: Its text, or `None`.
        metadata: Its metadata object as JSON; what cannot be read counts as empty.
        fields: The fields that count, each with all below it; `None` for all.
    """
    texts = [key]
    if text is not None:
        texts.append(text)
    if metadata != "{}" and fields != ():
        texts += _texts_in(metadata, fields)
    found: list[str] = []
    joined: list[str] = []
    for each in texts:
        small = plain(each)
        word, signed = (_ASCII_WORD, _ASCII_JOINED) if small.isascii() else (_WORD, _JOINED)
        found += map(_CUT, word.findall(small))
        found.append(GAP)
        for run in (*signed.findall(small), *_NUMBERS.findall(small)):  # also one word, without the signs or spaces
            whole = "".join(map(_CUT, word.findall(run)))
            if len(whole) <= LONGEST_JOINED:
                joined.append(whole)
        if len(found) > MOST_TOKENS:
            break
    tokens = found[:MOST_TOKENS]
    for whole in dict.fromkeys(joined[:MOST_TOKENS]):
        tokens += [whole, GAP]
    return " ".join(tokens[:-1])


def _texts_in(metadata: str, fields: Sequence[Path] | None) -> Iterable[str]:
    try:
        document = json.loads(metadata)
    except (ValueError, RecursionError):
        return []
    if fields is None:
        return _strings(document)
    return (text for path in fields for text in _strings(_at(document, path)))


def _at(document: Any, path: Path) -> Any:
    """What is at a path; of lists on the way, what is at it in each element."""
    for number, name in enumerate(path):
        if isinstance(document, list):
            return [_at(inner, path[number:]) for inner in document]
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _strings(document: Any) -> Iterator[str]:
    """All strings and whole numbers, in the order in which they are written."""
    pending = [document]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(reversed(item.values()))
        elif isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, str):
            yield item
        elif isinstance(item, int) and not isinstance(item, bool):
            yield str(item)
