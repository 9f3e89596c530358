"""Ranking metrics. Pure functions; no I/O, no torch.

Relevance is binary: M-BEIR's grades are all 1, and any grade above 0 counts as relevant here. Nothing is
guessed: a query without a ranking or without relevant keys is an error, never a 0 or a 1.

Shape legend: Q = queries, K = keys returned for one query (may differ per query).
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

Z95 = 1.959963984540054  # a normal variable lies within so many deviations with a probability of 95 %
_ROUNDING = 1e-9  # what the errors of equal values stay below


def success_at_k(ranked_keys_QK: Sequence[Sequence[str]], relevant_keys_Q: Sequence[AbstractSet[str]], k: int) -> float:
    """Share of queries with at least one relevant key among their first `k`.

    M-BEIR and image-text papers print this number as "Recall@k"; trec_eval calls it `success_k`. It agrees with
    `recall_at_k` only where every query has exactly one relevant key.

    Args:
        ranked_keys_QK: Per query, keys best first, without repeats. A query that returned fewer than `k` keys
            is scored as it stands.
        relevant_keys_Q: Per query, the non-empty set of relevant keys.
        k: Cut-off rank, at least 1.

    Returns:
        Fraction in [0, 1]; every query weighs the same.

    Raises:
        ValueError: `k` is below 1, there are no queries, the sequences differ in length, a ranking repeats a
            key, or a query has no relevant key.

    >>> success_at_k([["cat", "dog"], ["car", "bus"]], [{"dog"}, {"van"}], k=2)
    0.5
    """
    _check(ranked_keys_QK, relevant_keys_Q, k)
    pairs = zip(ranked_keys_QK, relevant_keys_Q, strict=True)
    return _mean([0.0 if relevant.isdisjoint(ranked[:k]) else 1.0 for ranked, relevant in pairs])


def recall_at_k(ranked_keys_QK: Sequence[Sequence[str]], relevant_keys_Q: Sequence[AbstractSet[str]], k: int) -> float:
    """Share of a query's relevant keys among its first `k`, averaged over queries; trec_eval's `recall_k`.

    Args:
        ranked_keys_QK: As for `success_at_k`.
        relevant_keys_Q: As for `success_at_k`.
        k: Cut-off rank, at least 1.

    Returns:
        Fraction in [0, 1]; every query weighs the same, however many relevant keys it has.

    Raises:
        ValueError: As for `success_at_k`.

    >>> recall_at_k([["cat", "dog"]], [{"dog", "wolf"}], k=2)
    0.5
    """
    _check(ranked_keys_QK, relevant_keys_Q, k)
    pairs = zip(ranked_keys_QK, relevant_keys_Q, strict=True)
    return _mean([len(relevant & set(ranked[:k])) / len(relevant) for ranked, relevant in pairs])


def mean_reciprocal_rank(
    ranked_keys_QK: Sequence[Sequence[str]], relevant_keys_Q: Sequence[AbstractSet[str]], k: int | None = None
) -> float:
    """One over the rank of the first relevant key, 0 where there is none, averaged over queries.

    Without `k` this is trec_eval's `recip_rank`, which has no cut-off but the length of the ranking.

    Args:
        ranked_keys_QK: As for `success_at_k`.
        relevant_keys_Q: As for `success_at_k`.
        k: Cut-off rank, at least 1; the whole ranking when absent.

    Returns:
        Fraction in [0, 1].

    Raises:
        ValueError: As for `success_at_k`.

    >>> mean_reciprocal_rank([["cat", "dog"]], [{"dog"}])
    0.5
    """
    _check(ranked_keys_QK, relevant_keys_Q, 1 if k is None else k)
    pairs = zip(ranked_keys_QK, relevant_keys_Q, strict=True)
    return _mean([_reciprocal_rank(ranked[:k], relevant) for ranked, relevant in pairs])


def ndcg_at_k(ranked_keys_QK: Sequence[Sequence[str]], relevant_keys_Q: Sequence[AbstractSet[str]], k: int) -> float:
    """Normalised discounted cumulative gain with binary gains; trec_eval's `ndcg_cut_k`.

    A relevant key at rank r gains 1 / log2(r + 1); the sum is divided by that of the best possible ranking.

    Args:
        ranked_keys_QK: As for `success_at_k`.
        relevant_keys_Q: As for `success_at_k`.
        k: Cut-off rank, at least 1.

    Returns:
        Fraction in [0, 1].

    Raises:
        ValueError: As for `success_at_k`.

    >>> ndcg_at_k([["dog", "cat"]], [{"dog"}], k=10)
    1.0
    """
    _check(ranked_keys_QK, relevant_keys_Q, k)
    pairs = zip(ranked_keys_QK, relevant_keys_Q, strict=True)
    return _mean([_ndcg(ranked, relevant, k) for ranked, relevant in pairs])


def interval(mean: float, error: float, num: float) -> tuple[float, float]:
    """95 % interval of the mean of numbers in [0, 1], such as a share: Wilson's.

    It is taken for as large a sample as would make a share err by `error`, which of shares is `num` itself; where
    values weigh differently it is smaller. Unlike mean +- 1.96 errors it stays within [0, 1], and is no point where
    all queries agree.

    Args:
        mean: The mean.
        error: Its standard error.
        num: Size of the sample, which counts only where the error is 0, but for rounding.

    Returns:
        Lower and upper end.

    >>> low, high = interval(0.5, 0.05, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    >>> low, high = interval(1.0, 0.0, 50)
    >>> round(low, 3), high
    (0.929, 1.0)
    """
    size = mean * (1 - mean) / error**2 if error > _ROUNDING else num
    weight = Z95**2 / size
    centre = (mean + weight / 2) / (1 + weight)
    half = Z95 * math.sqrt(mean * (1 - mean) / size + weight / (4 * size)) / (1 + weight)
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values."""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values)) / len(values)


def paired(
    rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]
) -> tuple[list[Sequence[str]], list[frozenset[str]]]:
    """Rankings and relevant keys side by side, one entry per query of the qrels, in the qrels' order.

    Args:
        rankings: Query id to keys, best first.
        qrels: Query id to key to grade; a grade above 0 means relevant.

    Returns:
        What the metrics take as their first two arguments.

    Raises:
        ValueError: a judged query has no ranking, a ranking no judgements, or a query no relevant key.

    >>> paired({"q1": ["cat", "dog"]}, {"q1": {"dog": 1, "cat": 0}})
    ([['cat', 'dog']], [frozenset({'dog'})])
    """
    if missing := [query for query in qrels if query not in rankings]:
        raise ValueError(f"{len(missing)} judged queries have no ranking, the first is '{missing[0]}'")
    if unjudged := [query for query in rankings if query not in qrels]:
        raise ValueError(f"{len(unjudged)} ranked queries have no judgements, the first is '{unjudged[0]}'")
    relevant = [frozenset(key for key, grade in grades.items() if grade > 0) for grades in qrels.values()]
    for query, keys in zip(qrels, relevant, strict=True):
        if not keys:
            raise ValueError(f"query '{query}' has no relevant key")
    return [rankings[query] for query in qrels], relevant


def _check(ranked_keys_QK: Sequence[Sequence[str]], relevant_keys_Q: Sequence[AbstractSet[str]], k: int) -> None:
    """Refuses what the metrics have no definition for."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not ranked_keys_QK or len(ranked_keys_QK) != len(relevant_keys_Q):
        raise ValueError(
            f"need one relevant set per query: {len(ranked_keys_QK)} rankings, {len(relevant_keys_Q)} relevant sets"
        )
    if not all(relevant_keys_Q):
        raise ValueError("every query needs at least one relevant key")
    for position, ranked in enumerate(ranked_keys_QK):
        if len(set(ranked)) != len(ranked):
            raise ValueError(f"the ranking at position {position} repeats a key")


def _reciprocal_rank(ranked: Sequence[str], relevant: AbstractSet[str]) -> float:
    return next((1.0 / rank for rank, key in enumerate(ranked, start=1) if key in relevant), 0.0)


def _ndcg(ranked: Sequence[str], relevant: AbstractSet[str], k: int) -> float:
    """Of one query. The ideal ranking has `k` places even where the query returned fewer keys."""
    gain = math.fsum(1 / math.log2(rank + 1) for rank, key in enumerate(ranked[:k], start=1) if key in relevant)
    best = math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
    return gain / best


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
