"""Several rankings of one query to one: by reciprocal rank, or by weighted scores.

Shape legend: M = keys in a ranking, J = keys in any ranking, K = keys that are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anykey.index.errors import InvalidSearchError
from anykey.index.words.asked import expression_of

Join = Literal["rank", "weight"]
RANK_OFFSET = 60  # k of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009)
MOST_JOINED = 1_000  # keys of each ranking that are looked at where a vector takes part


@dataclass(frozen=True)
class Words:
    """Words to find keys by, and how their ranking is joined with a vector's.

    Attributes:
        asked: What was typed, with its weight, which is above 0; at least one.
        join: `rank` adds `weight / (60 + rank)` of each ranking; `weight` adds scores that are brought to [0, 1], times
            their weights.
        vector_weight: The weight of the vector's ranking; above 0.
    """

    asked: tuple[tuple[str, float], ...]
    join: Join = "rank"
    vector_weight: float = 1.0
    expressions: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.asked:
            raise InvalidSearchError("expected words to look for, got none")
        for weight in (self.vector_weight, *(weight for _, weight in self.asked)):
            if not 0 < weight < float("inf"):
                raise InvalidSearchError(
                    f"expected a weight above 0 of words and of what they are joined with, got {weight}"
                )
        object.__setattr__(self, "expressions", tuple(expression_of(asked) for asked, _ in self.asked))


@dataclass(frozen=True)
class KeyScores:
    """Keys by their scores.

    Attributes:
        seqs_M: Their change numbers.
        scores_M: Their scores; higher is better.
        weight: How much it counts.
        lowest: The score that counts as nothing, where scores are added.
    """

    seqs_M: NDArray[np.int64]
    scores_M: NDArray[np.float64]
    weight: float = 1.0
    lowest: float = 0.0

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Places of the keys, best first; equal scores by change number."""
        return np.lexsort((self.seqs_M, -self.scores_M))

    def best(self, count: int) -> "KeyScores":
        """The best of them alone, best first."""
        few = self
        if len(self.seqs_M) > 4 * count:  # sorts a few instead of all
            threshold = np.partition(self.scores_M, -count)[-count]
            is_few_M = self.scores_M >= threshold
            few = KeyScores(self.seqs_M[is_few_M], self.scores_M[is_few_M])
        first = few.order[:count]
        return KeyScores(few.seqs_M[first], few.scores_M[first], self.weight, self.lowest)

    def of(self, wanted_K: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scores `[K]` of some keys, in any order; not a number for those that have none."""
        if not len(self.seqs_M):
            return np.full(len(wanted_K), np.nan)
        order = np.argsort(self.seqs_M)
        places = order[np.minimum(np.searchsorted(self.seqs_M, wanted_K, sorter=order), len(order) - 1)]
        return np.where(self.seqs_M[places] == wanted_K, self.scores_M[places], np.nan)

    def parts(self, join: Join) -> NDArray[np.float64]:
        """What it adds to the joined score of each of its keys, `[M]`."""
        if join == "rank":
            parts_M = np.empty(len(self.seqs_M))
            parts_M[self.order] = self.weight / (RANK_OFFSET + np.arange(1, len(self.seqs_M) + 1))
            return parts_M
        highest = float(self.scores_M.max(initial=self.lowest))
        if highest <= self.lowest:
            return np.full(len(self.seqs_M), self.weight)
        return self.weight * np.clip((self.scores_M - self.lowest) / (highest - self.lowest), 0, 1)


def joined(rankings: Sequence[KeyScores], join: Join) -> KeyScores:
    """All keys of some rankings, by the sum of what each adds."""
    return _summed(rankings, [ranking.parts(join) for ranking in rankings])


def sum_of(rankings: Sequence[KeyScores]) -> KeyScores:
    """All keys of some rankings, by the weighted sum of their scores as they are."""
    return _summed(rankings, [ranking.weight * ranking.scores_M for ranking in rankings])


def _summed(rankings: Sequence[KeyScores], parts: Sequence[NDArray[np.float64]]) -> KeyScores:
    seqs = np.concatenate([ranking.seqs_M for ranking in rankings])
    seqs_J, places = np.unique(seqs, return_inverse=True)
    scores_J = np.zeros(len(seqs_J))
    np.add.at(scores_J, places.reshape(-1), np.concatenate(parts))
    return KeyScores(seqs_J, scores_J)
