"""Averages over the three ways to deal out the mixed pool, against a loop; means that know nothing of the test."""

from statistics import mean

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from anykey.encoder.fusion import Fusion
from anykey.sources.errors import SourceError
from anykey.training.study.evaluation import Row
from anykey.training.study.measures import gains_of_pairs, measure_centrings, measure_rotations
from anykey.training.study.results import Results, Spread
from anykey.training.validation import COMBINATIONS, MODALITIES, HeldOut


def held_out_of(num_pairs: int, seed: int = 0, gap: float = 0.0, noise: float = 1.0) -> HeldOut:
    """Vectors that often find their partner; modalities `gap` apart."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(num_pairs, 12, generator=generator)
    away = {name: gap * torch.eye(12)[place] for place, name in enumerate(MODALITIES)}

    def side() -> dict[str, Tensor]:
        return {
            name: functional.normalize(
                base + noise * torch.randn(num_pairs, 12, generator=generator) + away[name], dim=-1
            )
            for name in MODALITIES
        }

    return HeldOut(side(), side(), torch.ones(num_pairs, dtype=torch.bool))


def slow_mixed(held_out: HeldOut, num_pairs: int, combination: str, k: int) -> float:
    """Each pair as the wanted kind of key once, the others as the other kinds in turn."""
    query, wanted = combination.split(">")
    hits = []
    for shift in range(3):
        kinds = [MODALITIES[(row + shift) % 3] for row in range(num_pairs)]
        pool = [held_out.keys[kind][row] for row, kind in enumerate(kinds)]
        for row in range(num_pairs):
            if kinds[row] == wanted:
                scores = [float(held_out.queries[query][row] @ key) for key in pool]
                hits.append(sum(score > scores[row] for score in scores) < k)
    assert len(hits) == num_pairs
    return sum(hits) / num_pairs


def test_each_pair_is_asked_for_in_each_role_once() -> None:
    held_out = held_out_of(23, noise=1.6)
    found = measure_rotations(held_out)
    for combination in COMBINATIONS:
        for k in (1, 10):
            expected = slow_mixed(held_out, 21, combination, k)
            assert 0 < expected < 1
            assert found[f"mixed/{combination}/success@{k}"] == pytest.approx(expected)
    assert {"local/t>i/ndcg@10", "mixed/mean/success@50", "gap/i-t", "confusion/t>i", "covariance/i-t"} <= found.keys()


def test_the_gains_of_pairs_are_what_the_means_are_of() -> None:
    held_out = held_out_of(23, noise=1.6)
    gains, numbers = gains_of_pairs(held_out), measure_rotations(held_out)
    for pool in ("local", "mixed"):
        assert len(gains[pool]) == 21
        assert mean(gains[pool]) == pytest.approx(numbers[f"{pool}/mean/success@10"])
    row = 4  # a pair by hand: its text finds its image among all images, and so on
    ranks = [held_out.queries[q][row] @ held_out.keys[k][:21].T for q, k in (c.split(">") for c in COMBINATIONS)]
    assert gains["local"][row] == pytest.approx(mean(float((score > score[row]).sum() < 10) for score in ranks))


def results_of(gains: dict[str, list[list[float]]]) -> Results:
    """Rows with these gains, by variant and seed, in both pools."""
    raw = Fusion.RAW
    return Results(
        Row(name, seed, raw, "plain", {}, {"local": by_pair, "mixed": by_pair})
        for name, by_seed in gains.items()
        for seed, by_pair in enumerate(by_seed)
    )


def test_a_lead_is_of_pairs_with_the_interval_of_a_paired_bootstrap() -> None:
    """scipy's, of the mean over the seeds; the two variants alone vary far more than their difference."""
    generator = np.random.default_rng(0)
    base_P, ahead_P = generator.random(300), generator.choice([0.0, 0.1, 0.2], 300)
    own = [list(base_P + ahead_P), list(base_P + 0.5 * ahead_P)]
    lead = results_of({"own": own, "other": [list(base_P)] * 2}).lead("own", "other", Fusion.RAW, "mixed")
    assert lead is not None
    expected = stats.bootstrap((0.75 * ahead_P,), np.mean, method="percentile", rng=1).confidence_interval
    assert lead.mean == pytest.approx(0.75 * ahead_P.mean())
    assert (lead.low, lead.high) == pytest.approx(tuple(expected), abs=5e-4)
    assert lead.low > 0.05
    assert results_of({"own": own}).lead("own", "other", Fusion.RAW, "mixed") is None


def test_fewer_pairs_than_kinds_of_keys_are_refused() -> None:
    with pytest.raises(SourceError, match="at least 3 pairs, found 2"):
        measure_rotations(held_out_of(2))


def test_centring_closes_a_gap_with_means_from_other_pairs() -> None:
    test, validation = held_out_of(60, gap=9.0), held_out_of(60, seed=1, gap=9.0)
    numbers = measure_centrings(test, validation)
    plain, centred, own = (numbers[name] for name in ("plain", "gr-clip", "own-means"))
    assert plain["gap/i-t"] > 1.0
    assert max(centred["gap/i-t"], own["gap/i-t"]) < 0.5 * plain["gap/i-t"]
    assert min(centred["mixed/t>i/success@10"], own["mixed/t>i/success@10"]) > plain["mixed/t>i/success@10"]
    assert centred["gap/i-t"] == own["gap/i-t"]
    assert centred["local/t>it/success@10"] != own["local/t>it/success@10"]
    assert numbers == measure_centrings(test, validation)
    flattered = measure_centrings(test, test)
    assert flattered["gr-clip"]["gap/i-t"] < centred["gap/i-t"]


def test_a_spread_is_paired_by_seed_and_says_no_deviation_of_one_seed() -> None:
    ours, theirs = Spread({0: 0.5, 1: 0.7}), Spread({1: 0.6, 0: 0.1, 2: 0.9})
    assert ours.text() == "0.600 (0.141)"
    assert ours.minus(theirs).text("+.2f") == "+0.25 (0.21)"
    assert Spread({4: 0.25}).text() == "0.250"


@pytest.mark.parametrize(
    ("values", "is_noise"),
    # Student's t of three seeds is 4.3: a mean of .02 counts below a deviation of .02 * sqrt(3) / 4.303 = .00805
    [
        ((0.012, 0.02, 0.028), False),
        ((0.011, 0.02, 0.029), True),
        ((0.02, 0.02), False),
        ((0.01, 0.03), True),
        ((0.01,), False),
    ],
)
def test_a_difference_that_the_seeds_alone_may_have_made_is_noise(values: tuple[float, ...], is_noise: bool) -> None:
    assert Spread(dict(enumerate(values))).is_noise == is_noise
