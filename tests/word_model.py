"""Finding keys by their words, as slowly and as plainly as it can be done: what the index must agree with.

BM25 as SQLite's FTS5 has it: k1 = 1.2, b = 0.75, and an inverse document frequency that is never negative.
"""

import json
import math
from collections.abc import Iterable

from anykey.index.hits import StoredKey
from anykey.index.words.asked import Phrase, phrases_of
from anykey.index.words.tokens import tokens_of

K1, B, LEAST_IDF = 1.2, 0.75, 1e-6


class WordModel:
    """All keys of an index, with their tokens."""

    def __init__(self, keys: Iterable[StoredKey]) -> None:
        self._tokens = {key.key: _tokens(key) for key in keys}

    def scores(self, asked: str) -> dict[str, float]:
        """The BM25 score of each key that has any of the words."""
        average = sum(map(len, self._tokens.values())) / max(1, len(self._tokens))
        scores: dict[str, float] = {}
        for phrase in phrases_of(asked):
            counts = {key: found for key, tokens in self._tokens.items() if (found := _count(phrase, tokens))}
            idf = math.log((len(self._tokens) - len(counts) + 0.5) / (len(counts) + 0.5)) if counts else 0.0
            for key, count in counts.items():
                length = len(self._tokens[key]) / average
                part = count * (K1 + 1) / (count + K1 * (1 - B + B * length))
                scores[key] = scores.get(key, 0.0) + (idf if idf > 0 else LEAST_IDF) * part
        return scores


def _tokens(key: StoredKey) -> list[str]:
    return tokens_of(key.key, key.payload.text, json.dumps(key.payload.metadata), None).split()


def _count(phrase: Phrase, tokens: list[str]) -> int:
    """How often the phrase occurs."""
    *first, last = phrase.words
    size = len(phrase.words)
    return sum(
        tokens[place : place + size - 1] == first
        and (tokens[place + size - 1].startswith(last) if phrase.is_prefix else tokens[place + size - 1] == last)
        for place in range(len(tokens) - size + 1)
    )
