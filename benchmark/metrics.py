"""Ranking metrics, computed by `ir_measures` with trec_eval's code, and how sure their means are.

Nothing is guessed: a query without a ranking or without relevant keys is an error, never a 0 or a 1.

Shape legend: Q = queries, B = resamples, U = different values.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # a normal variable lies within so many deviations with a probability of 95 %
RESAMPLES = 2000
_ROUNDING = 1e-9  # what the errors of equal values stay below
_NAMES = {"success": "Success", "recall": "R", "precision": "P", "ndcg": "nDCG", "map": "AP", "mrr": "RR"}
_FORM = re.compile(r"(?P<name>[a-z]+)(@(?P<k>[1-9]\d*))?")
_WITHOUT_CUTOFF = ("map", "mrr", "ndcg")


def measured(
    names: Sequence[str], rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, NDArray[np.float64]]:
    """Metrics of every query `[Q]`, in the order of the qrels.

    - success@k: 1 if a relevant key is among the first k, else 0. M-BEIR and image-text papers print its mean as
      "Recall@k", trec_eval calls it `success_k`, ir_measures `Success@k`.
    - recall@k: share of the relevant keys among the first k; trec_eval's `recall_k`, ir_measures' `R@k`.
    - mrr: 1 / rank of the first relevant key, and nothing beyond the ranking's end; `recip_rank`, `RR`. mrr@k looks at
      the first k alone.
    - ndcg@k: discounted gain, a key's grade over log2(rank + 1), over that of the best ranking; `ndcg_cut_k`, `nDCG@k`.
    - precision@k, map, map@k: `P_k` and `P@k`; `map`, `map_cut_k` and `AP`, `AP@k`.

    Args:
        names: The metrics.
        rankings: Query to keys, best first, without repeats.
        qrels: Query to key to grade; a grade of 1 or more means relevant.

    Raises:
        ValueError: a metric is unknown, a judged query has no ranking, a ranking no judgements or a key twice, or a
            query has no relevant key.

    >>> measured(["success@1", "mrr"], {"q": ["cat", "dog"]}, {"q": {"dog": 1}})
    {'success@1': array([0.]), 'mrr': array([0.5])}
    """
    import ir_measures

    measures = {ir_measures.parse_measure(_theirs(name)): name for name in names}
    _check(rankings, qrels)
    # Scores are places: ties between a service's scores are not broken anew, by names.
    places = {query: {key: float(-place) for place, key in enumerate(keys)} for query, keys in rankings.items()}
    judged = {query: dict(grades) for query, grades in qrels.items()}
    values_Q = {name: np.zeros(len(qrels)) for name in names}
    position = {query: number for number, query in enumerate(qrels)}
    for metric in ir_measures.iter_calc(list(measures), judged, places):
        values_Q[measures[metric.measure]][position[metric.query_id]] = metric.value
    return values_Q


def bootstrap(values_Q: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over queries drawn like these: the percentiles of resampled means (Efron 1979).

    Where all values are one, resampling would claim certainty; then it is `interval`'s.

    Args:
        values_Q: Each query's value, in [0, 1].
        seed: Of the resampling; the same seed gives the same ends.

    Returns:
        Lower and upper end.
    """
    if np.ptp(values_Q) < _ROUNDING:
        return interval(float(values_Q.mean()), 0.0, len(values_Q))
    low, high = np.percentile(resampled(values_Q, seed), [2.5, 97.5])
    return float(low), float(high)


def resampled(values_Q: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Means `[B]` of `RESAMPLES` samples of the values, each as large as they are, drawn with replacement."""
    found_U, counts_U = np.unique(values_Q, return_counts=True)
    drawn_BU = np.random.default_rng(seed).multinomial(len(values_Q), counts_U / len(values_Q), size=RESAMPLES)
    means_B: NDArray[np.float64] = drawn_BU @ found_U / len(values_Q)
    return means_B


def interval(mean: float, error: float, num: float) -> tuple[float, float]:
    """95 % interval of the mean of numbers in [0, 1], such as a share: Wilson's (1927).

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


def _theirs(name: str) -> str:
    """A metric's name in `ir_measures`.

    Raises:
        ValueError: it is none of ours.
    """
    match = _FORM.fullmatch(name)
    if not match or match["name"] not in _NAMES or (match["k"] is None and match["name"] not in _WITHOUT_CUTOFF):
        expected = ", ".join(each if each in _WITHOUT_CUTOFF else f"{each}@k" for each in _NAMES)
        raise ValueError(f"unknown metric '{name}', expected one of {expected}")
    return _NAMES[match["name"]] + (f"@{match['k']}" if match["k"] else "")


def _check(rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Refuses what the metrics have no definition for."""
    if not qrels:
        raise ValueError("there are no queries")
    if missing := [query for query in qrels if query not in rankings]:
        raise ValueError(f"{len(missing)} judged queries have no ranking, the first is '{missing[0]}'")
    if unjudged := [query for query in rankings if query not in qrels]:
        raise ValueError(f"{len(unjudged)} ranked queries have no judgements, the first is '{unjudged[0]}'")
    for query, grades in qrels.items():
        if not any(grade >= 1 for grade in grades.values()):
            raise ValueError(f"query '{query}' has no relevant key")
        if len(set(rankings[query])) != len(rankings[query]):
            raise ValueError(f"the ranking of query '{query}' repeats a key")
