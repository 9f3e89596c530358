"""The instrument of the measurement of imbalance: what becomes of rows, what is drawn, and how corpora are dealt."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from anykey.sources.pairs import Pair
from anykey.training.batches import EpochDraws, Sampling
from anykey.training.validation import HeldOut
from benchmarks import linear_maps
from benchmarks.imbalance import Mix, Variant, corpora, corpora_table, mixes_table, plan, rotations
from tests.drawn_pairs import drawn_pairs
from tests.training_runs import make_table

ROWS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(21)]
MIX = Mix(pairs=3, images=8, texts=10)


def test_every_mix_has_the_same_images_in_the_same_order() -> None:
    for mix in (Mix(21), MIX, Mix(1, texts=20), Mix(1, images=20)):
        sources = mix.sources(ROWS)
        images = [row.image for rows in sources.values() for row in rows if row.image is not None]
        assert images == [row.image for row in ROWS]
        assert [len(rows) for rows in sources.values()] == [mix.pairs, mix.images, mix.texts, mix.texts]
        assert all(row.image is None for row in sources["texts"])
        assert all(not row.captions for row in sources["images"])


@pytest.mark.parametrize(("drawn", "pairs", "others"), [("as they are", 3, 18), ("halves", 18, 18), ("pairs", 3, 0)])
def test_a_pass_draws_what_the_variant_says(drawn: str, pairs: int, others: int) -> None:
    variant = Variant(MIX, drawn)
    sources = MIX.sources(ROWS)
    table = make_table([row for rows in sources.values() for row in rows], entry_lengths=[*map(len, sources.values())])
    weights = tuple(variant.weights()[name] for name in sources)
    draws = EpochDraws(table, Sampling(batch_size=pairs + others, seed=0, weights=weights))
    (batch,) = list(draws)
    entries = [int(table.entry_P[draw.pair]) for draw in batch]
    assert entries.count(0) == pairs
    assert entries.count(1) + entries.count(2) == others == len(batch) - pairs
    assert variant.num_drawn() == len(batch)


def test_the_plan_has_every_run_once_and_all_pairs_first() -> None:
    variants = plan(2000)
    assert len({variant.name for variant in variants}) == len(variants)
    assert variants[0].mix == Mix(2000)


def features(num_pairs: int, gap: float) -> linear_maps.Features:
    """Two captions a pair; images lie `gap` from texts."""
    generator = torch.Generator().manual_seed(1)
    image_PD = torch.randn(num_pairs, 16, generator=generator)
    text_SD = (image_PD + 0.3 * torch.randn(num_pairs, 16, generator=generator)).repeat_interleave(2, 0)
    first_P = 2 * torch.arange(num_pairs)
    return linear_maps.Features(image_PD + gap * torch.eye(16)[0], text_SD, first_P, first_P + 2)


def test_linear_maps_learn_from_pairs_and_not_from_halves_alone() -> None:
    data, kind_P = features(60, gap=4.0), torch.tensor([0, 1, 2]).repeat_interleave(20)
    before = rotations(linear_maps.Maps.unchanged(16).held_out(data))["gap/i-t"]
    for loss in ("gcl", "clip"):
        maps, again = (linear_maps.tune(data, kind_P, dict.fromkeys(range(3), 1.0), loss, 20, seed=0) for _ in range(2))
        assert torch.equal(maps.image_DD, again.image_DD)
        assert rotations(maps.held_out(data))["gap/i-t"] < before
    nothing = linear_maps.tune(data, kind_P, {0: 1e-9, 1: 1.0, 2: 1.0}, "gcl", steps=5, seed=0)
    assert torch.equal(nothing.text_DD, torch.eye(16))


def vectors(gap: float) -> HeldOut:
    generator = torch.Generator().manual_seed(0)
    base, offset = torch.randn(66, 16, generator=generator), gap * torch.eye(16)[0]
    sides = [
        {name: functional.normalize(base + sign * offset, dim=-1) for name, sign in (("i", 1), ("t", -1), ("it", 0))}
        for _ in range(2)
    ]
    return HeldOut(sides[0], sides[1], torch.ones(66, dtype=torch.bool))


def test_a_rare_kind_of_key_is_not_found_across_a_gap_and_is_among_its_own() -> None:
    wide, none = corpora(vectors(20.0)), corpora(vectors(0.0))
    rare = wide["1 : 20 : 1"]
    assert rare["t>i"] == 0
    assert rare["own/t>i"] == 1  # three images
    assert rare["t>t"] > 0.9
    assert none["1 : 20 : 1"]["t>i"] == 1
    assert rotations(vectors(0.0))["mixed/mean/success@10"] == 1


def test_the_tables_have_a_row_for_each_run_and_corpus() -> None:
    numbers = {"local/mean/success@10": 0.5, "mixed/mean/success@10": 0.25, "mixed/t>i/success@10": 0, "gap/i-t": 1}
    rows: list[dict[str, Any]] = [
        {"variant": "all", "seed": seed, "as trained": {**numbers, "gap/i-t": seed}, "centred": numbers}
        for seed in (0, 2)
    ]
    rows[0]["corpora"] = {"as trained": corpora(vectors(0.0))}
    assert list(mixes_table(rows))[2:] == [
        "| all | 2 | 0.500 (0.000) | 0.250 (0.000) | 0.000 (0.000) | 0.250 (0.000) | 1.000 (1.414) |"
    ]
    assert list(corpora_table(rows))[3] == "| all, as trained | 20 : 1 : 1 | 1.00 (1.00) | 1.00 (1.00) | 1.00 (1.00) |"
