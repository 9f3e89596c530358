"""Rankings by words, alone or joined with a vector's, over a view of an index.

Shape legend: K = results, M = keys with some of the words, D = width.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anykey.index.deadline import Deadline
from anykey.index.errors import InvalidSearchError
from anykey.index.hits import SearchFacts
from anykey.index.key_index import EVERYTHING, Ranking, Scope
from anykey.index.search.view import View
from anykey.index.store.store_reader import ReadTransaction
from anykey.index.words.joining import MOST_JOINED, KeyScores, Words, joined, sum_of


@dataclass(frozen=True)
class WordSearch:
    """One search by words, at one moment.

    Attributes:
        view: The index.
        transaction: Its store at the same moment.
        scope: Which keys may be found.
        exact: Whether a vector is compared with every key of the scope.
        deadline: Until when the answer is wanted.
        facts: Told of how keys are found.
    """

    view: View
    transaction: ReadTransaction
    scope: Scope
    exact: bool
    deadline: Deadline
    facts: SearchFacts | None = None

    def rank(self, words: Words, query_1D: NDArray[np.float32] | None, k: int) -> Ranking:
        """The best keys by their words, and by a vector, `[1, D]`, if there is one; the best of both first."""
        if (facts := self.facts) is None:
            return self._rank(words, query_1D, k)
        began_s, by_vector_s = time.monotonic(), facts.scope_s + facts.compare_s
        ranking = self._rank(words, query_1D, k)
        facts.words_s += time.monotonic() - began_s - (facts.scope_s + facts.compare_s - by_vector_s)
        return ranking

    def _rank(self, words: Words, query_1D: NDArray[np.float32] | None, k: int) -> Ranking:
        by_words = [
            self._by_words(expression, weight)
            for expression, (_, weight) in zip(words.expressions, words.asked, strict=True)
        ]
        total = by_words[0] if len(by_words) == 1 else sum_of(by_words)
        if self.facts is not None:
            self.facts.num_keys, self.facts.num_with_words = self.view.num_keys, len(total.seqs_M)
            self.facts.is_scope_looked_up = self.scope != EVERYTHING
        if query_1D is None:
            best = (total if len(by_words) == 1 else joined(by_words, words.join)).best(k)
            cosines_K = np.full(len(best.seqs_M), np.nan, np.float32)
        else:
            if k > MOST_JOINED:
                raise InvalidSearchError(
                    f"expected at most {MOST_JOINED:,} hits of words and vectors together, got {k:,}"
                )
            by_vector = self._by_vector(query_1D, words.vector_weight)
            rankings = [by_vector, *(scores.best(MOST_JOINED) for scores in by_words)]
            best = joined(rankings, words.join).best(k)
            cosines_K = self.view.vectors(best.seqs_M) @ query_1D[0]
            self.view.files.require_cosines(cosines_K)
        self.view.recent.require_sound(best.seqs_M)
        return Ranking(cosines_K, best.seqs_M, total.of(best.seqs_M))

    def _by_words(self, expression: str, weight: float) -> KeyScores:
        seqs_M, scores_M = self.transaction.matches(expression)
        is_in_M = self.view.is_in(seqs_M, self.scope, self.transaction, self.deadline)
        return KeyScores(seqs_M[is_in_M], scores_M[is_in_M], weight)

    def _by_vector(self, query_1D: NDArray[np.float32], weight: float) -> KeyScores:
        scores, seqs = self.view.search(
            query_1D, MOST_JOINED, self.scope, self.transaction, self.exact, self.deadline, self.facts
        )
        is_there = seqs[0] >= 0
        scores_M = scores[0][is_there].astype(np.float64)
        return KeyScores(seqs[0][is_there], scores_M, weight, float(scores_M.min(initial=1.0)))
