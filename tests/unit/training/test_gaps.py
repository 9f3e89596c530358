"""Measures of the modality gap against loops over single vectors, and mean-centring."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anykey.encoder.item import Modality
from anykey.index.vectors.calibration import Calibration, codes_of
from anykey.training.gaps import centre, measure_calibrated, measure_gaps, uniformity
from anykey.training.validation import ALL_COMBINATIONS, COMBINATIONS, HeldOut, measure

ORDER = ("i", "t", "it")
NUM_PAIRS = 36


def gapped(num_pairs: int = NUM_PAIRS, gap: float = 2.0, seed: int = 3, noise: float = 0.7) -> HeldOut:
    """Pairs whose modalities lie `gap` apart, along one direction each."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(num_pairs, 16, generator=generator)
    offsets = {"i": gap * torch.eye(16)[0], "t": gap * torch.eye(16)[1]}

    def side() -> dict[str, Tensor]:
        half = {
            name: functional.normalize(base + noise * torch.randn(num_pairs, 16, generator=generator) + offset, dim=-1)
            for name, offset in offsets.items()
        }
        return {**half, "it": functional.normalize(half["i"] + half["t"], dim=-1)}

    return HeldOut(side(), side(), torch.ones(num_pairs, dtype=torch.bool))


def slow_pool(held_out: HeldOut) -> list[Tensor]:
    return [held_out.keys[ORDER[row % 3]][row] for row in range(len(held_out.keys["i"]))]


def slow_first(query_D: Tensor, pool: list[Tensor], k: int) -> list[str]:
    order = sorted(range(len(pool)), key=lambda row: -float(query_D @ pool[row]))
    return [ORDER[row % 3] for row in order[:k]]


def test_the_cosine_and_the_alignment_are_those_of_the_true_pairs() -> None:
    held_out = gapped()
    found = measure_gaps(held_out)
    for name in ALL_COMBINATIONS:
        query, key = name.split(">")
        pairs = list(zip(held_out.queries[query], held_out.keys[key], strict=True))
        cosine = sum(float(a @ b) for a, b in pairs) / NUM_PAIRS
        distance = sum(float((a - b).square().sum()) for a, b in pairs) / NUM_PAIRS
        assert found[f"cosine/{name}"] == pytest.approx(cosine, abs=1e-5)
        assert found[f"alignment/{name}"] == pytest.approx(distance, abs=1e-5)


def test_the_covariance_distance_follows_its_definition() -> None:
    held_out = gapped()
    covariances = []
    for name in ("i", "it"):
        centred = held_out.keys[name].double() - held_out.keys[name].double().mean(0)
        covariances.append(torch.stack([torch.outer(row, row) for row in centred]).sum(0) / (NUM_PAIRS - 1))
    expected = float((covariances[0] - covariances[1]).norm() ** 2) / (4 * 16**2)
    assert measure_gaps(held_out)["covariance/i-it"] == pytest.approx(expected, rel=1e-5)


def test_uniformity_equals_a_loop_over_all_pairs_of_rows() -> None:
    rows = gapped().keys["t"]
    pairs = list(itertools.combinations(rows, 2))
    expected = math.log(sum(math.exp(-2 * float((a - b).square().sum())) for a, b in pairs) / len(pairs))
    assert uniformity(rows, rows_at_once=5) == pytest.approx(expected, abs=1e-5)
    assert uniformity(torch.ones(4, 1)) == pytest.approx(0.0)


def test_confusion_is_the_share_of_other_modalities_among_the_first_ten() -> None:
    held_out = gapped(gap=1.0)
    pool, found = slow_pool(held_out), measure_gaps(held_out)
    for name in ALL_COMBINATIONS:
        query, key = name.split(">")
        rows = [row for row in range(NUM_PAIRS) if ORDER[row % 3] == key]
        first = [modality for row in rows for modality in slow_first(held_out.queries[query][row], pool, 10)]
        assert found[f"confusion/{name}"] == pytest.approx(sum(modality != key for modality in first) / len(first))
    assert 0.1 < found["confusion/t>i"] < 1.0


def test_rank_1_shares_count_the_modality_of_the_first_hit() -> None:
    held_out = gapped(gap=0.5)
    pool, found = slow_pool(held_out), measure_gaps(held_out)
    for query in ORDER:
        rows = [row for row in range(NUM_PAIRS) if f"{query}>{ORDER[row % 3]}" in COMBINATIONS]
        first = [slow_first(held_out.queries[query][row], pool, 1)[0] for row in rows]
        for name in ORDER:
            assert found[f"rank1/{query}/{name}"] == pytest.approx(first.count(name) / len(first))


def test_equal_scores_share_the_first_places() -> None:
    """In a collapsed space no modality is first: the mean over all orders is the pool's own mixture."""
    side = {name: torch.ones(6, 4) / 2 for name in ORDER}
    found = measure_gaps(HeldOut(side, side, torch.ones(6, dtype=torch.bool)))
    for query in ORDER:
        for name in ORDER:
            assert found[f"rank1/{query}/{name}"] == pytest.approx(1 / 3)
            assert found[f"confusion/{query}>{name}"] == pytest.approx(2 / 3)


def test_modalities_far_apart_are_confused_and_centred_ones_less() -> None:
    held_out = gapped(gap=6.0)
    before, after = measure_gaps(held_out), measure_gaps(centre(held_out))
    assert before["gap/i-t"] > 1.0 > 0.1 > after["gap/i-t"]
    assert before["confusion/t>i"] > 0.9 > 0.8 > after["confusion/t>i"]
    assert measure(centre(held_out))["mixed/t>i/success@10"] > measure(held_out)["mixed/t>i/success@10"]


def test_centring_takes_the_means_from_the_reference() -> None:
    held_out, reference = gapped(), gapped(seed=8)
    centred = centre(held_out, reference)
    means = {name: reference.queries[name].mean(0) for name in ("i", "t")}
    text = functional.normalize(held_out.queries["t"][5] - means["t"], dim=-1)
    both = held_out.queries["i"][5] + held_out.queries["t"][5] - means["i"] - means["t"]
    torch.testing.assert_close(centred.queries["t"][5], text)
    torch.testing.assert_close(centred.queries["it"][5], functional.normalize(both, dim=-1))
    assert not torch.allclose(centred.queries["t"], centre(held_out).queries["t"])


def test_centring_may_keep_the_checkpoints_fusion() -> None:
    held_out = gapped()
    centred = centre(held_out, fuse_halves=False)
    expected = held_out.keys["it"][5] - held_out.keys["it"].mean(0)
    torch.testing.assert_close(centred.keys["it"][5], functional.normalize(expected, dim=-1))


def test_calibrated_is_as_an_index_calibrates_by_modality() -> None:
    held_out = gapped()
    kinds = dict(zip(ORDER, (Modality.IMAGE, Modality.TEXT, Modality.FUSED), strict=True))
    codes = {name: codes_of([kind] * NUM_PAIRS) for name, kind in kinds.items()}
    of_index = Calibration.of([(held_out.keys[name].numpy(), codes[name]) for name in ORDER], 16)
    queries, keys = (
        {name: torch.from_numpy(of_index.apply(side[name].numpy(), codes[name])) for name in ORDER}
        for side in (held_out.queries, held_out.keys)
    )
    expected = measure(HeldOut(queries, keys, held_out.has_second_P), cutoffs=(10,))
    found = measure_calibrated(held_out)
    assert set(found) == {f"calibrated/{pool}/mean/success@10" for pool in ("local", "mixed")}
    for name, value in found.items():
        assert value == pytest.approx(expected[name.removeprefix("calibrated/")])


@pytest.mark.parametrize("num_pairs", [1, 2, 4])
def test_few_pairs_leave_out_what_is_undefined(num_pairs: int) -> None:
    found = measure_gaps(gapped(num_pairs))
    assert all(math.isfinite(value) for value in found.values())
    assert ("uniformity/t" in found) == ("covariance/i-t" in found) == (num_pairs > 1)
    assert found["cosine/i>i"] <= 1.00001
