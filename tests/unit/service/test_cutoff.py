"""The rule of the automatic cutoff, on drawn curves and on scores of a trained model with real photos.

Shape legend: K = hits, all keys of the corpus, best first.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.service.searching.ranking import CHANCE_HITS, automatic_cut

SCORES = Path(__file__).parents[2] / "data" / "flickr8k-scores.json"
Curve = tuple[NDArray[np.float32], list[int]]  # scores, and the places of what is relevant


def curves() -> list[Curve]:
    """Of 20 phrases and 15 nonsense queries with 250 keys."""
    queries = json.loads(SCORES.read_text())["queries"]
    return [(np.array(query["scores"], np.float32) / 1000, query["relevant"]) for query in queries]


def num_kept(scores_K: NDArray[np.float32]) -> int:
    """How many hits the rule leaves."""
    cut = automatic_cut(scores_K, scores_K, len(scores_K))
    assert cut is not None
    return int((scores_K >= cut).sum())


def f1(num_kept: int, relevant: list[int]) -> float:
    """Of the first hits."""
    return 2 * sum(place < num_kept for place in relevant) / (num_kept + len(relevant))


def drawn(relevant: list[float], num_others: int, seed: int = 0) -> NDArray[np.float32]:
    """A curve of some relevant keys and many others, whose scores are normal."""
    others = np.random.default_rng(seed).normal(0.2, 0.05, num_others)
    return np.sort(np.concatenate([relevant, others]))[::-1].astype(np.float32)


@pytest.mark.parametrize("num_others", [200, 2_000, 50_000])
@pytest.mark.parametrize("num_relevant", [1, 5, 40])
def test_relevant_keys_that_stand_out_are_what_is_kept(num_relevant: int, num_others: int) -> None:
    scores_K = drawn(list(np.linspace(0.6, 0.55, num_relevant)), num_others)
    assert num_kept(scores_K) == num_relevant


@pytest.mark.parametrize("num_others", [200, 2_000, 50_000])
def test_where_nothing_is_relevant_few_are_kept_however_many_keys_there_are(num_others: int) -> None:
    kept = [num_kept(drawn([], num_others, seed)) for seed in range(20)]
    assert float(np.mean(kept)) <= CHANCE_HITS + 1


def test_relevant_keys_in_the_background_hardly_move_it() -> None:
    few, many = drawn([0.6] * 5, 1_000), drawn([0.6] * 300, 1_000)
    assert (num_kept(few), num_kept(many)) == (5, 300)


def test_it_keeps_the_same_of_scores_that_are_shifted_and_scaled() -> None:
    for scores_K, _ in curves():
        for scale, shift in ((0.3, 0.0), (0.5, 0.4), (0.9, -0.2)):
            assert num_kept(scores_K) == num_kept((scores_K * scale + shift).astype(np.float32))


def test_of_too_few_keys_or_none_it_says_nothing() -> None:
    few_K = drawn([], 15)
    assert automatic_cut(few_K, few_K, 15) is None
    assert automatic_cut(few_K[:0], few_K, 15) is None


def test_what_is_the_same_as_the_query_is_kept_however_wide_the_background_is() -> None:
    others = np.random.default_rng(0).uniform(-0.6, 0.7, 2_000)
    scores_K = np.sort(np.concatenate([[0.99999994, 0.99], others]))[::-1].astype(np.float32)
    assert num_kept(scores_K) == 1


def test_equal_scores_are_all_kept() -> None:
    scores_K = np.full(100, 0.5, np.float32)
    assert num_kept(scores_K) == 100


def test_on_real_photos_it_is_as_good_as_the_flat_threshold_that_was_chosen_for_them() -> None:
    relevant = [(scores_K, places) for scores_K, places in curves() if places]
    nonsense = [scores_K for scores_K, places in curves() if not places]
    assert (len(relevant), len(nonsense)) == (20, 15)
    by_rule = float(np.mean([f1(num_kept(scores_K), places) for scores_K, places in relevant]))
    best_flat = max(
        float(np.mean([f1(int((scores_K >= flat).sum()), places) for scores_K, places in relevant]))
        for flat in np.arange(0.2, 0.9, 0.01)
    )
    assert by_rule > best_flat - 0.03
    assert float(np.mean([num_kept(scores_K) for scores_K in nonsense])) <= CHANCE_HITS + 1
