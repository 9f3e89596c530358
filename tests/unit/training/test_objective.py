"""Rows are the vectors the service would compute, and the settings choose the loss they say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from anykey.encoder.fusion import Fusion, fuse
from anykey.training.batches import Batch, DrawnPairs, EpochDraws, Sampling
from anykey.training.distributed import Processes
from anykey.training.losses import (
    CLIP_WEIGHTS,
    CROSS_MODALITY,
    FUSED,
    IMAGE,
    TEXT,
    Reading,
    Rows,
    Terms,
    caption_semantics,
    contrastive_loss,
    covariance_loss,
    separation_loss,
    sigmoid_loss,
)
from anykey.training.objective import Objective, make_rows
from tests.distributed_step import pairs
from tests.networks import small_architecture
from tests.training_runs import ARCHITECTURE, make_settings, make_table, make_towers, towers_of


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Captioned images, one repeated, a text alone, and a query with a negative."""
    table = make_table(pairs())
    drawn = DrawnPairs(table)
    (draws,) = EpochDraws(table, Sampling(len(table), 0))
    return drawn.collate([drawn[draw] for draw in draws])


@pytest.fixture(scope="module")
def features(batch: Batch) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(batch.images_I), 16, generator=generator), torch.randn(
        len(batch.tokens_ST), 16, generator=generator
    )


def loss_of(
    batch: Batch,
    features: tuple[Tensor, Tensor],
    has_queries: bool = True,
    fusion: str = Fusion.RAW,
    **changes: Any,
) -> Tensor:
    """The loss of a batch; GCL alone where no other term is asked for."""
    towers = make_towers()
    settings = make_settings(Path("-"), Path("-"), **{"clip_weight": 0.0, **changes})
    objective = Objective(settings, towers.log_scale, towers.bias, has_queries, fusion=fusion)
    counted = objective.counted(batch)
    loss: Tensor = objective(towers.rows(features, counted), counted, Processes())
    return loss


def rows_of(batch: Batch, features: tuple[Tensor, Tensor], with_fused: bool = True) -> Rows:
    counted = batch if with_fused else batch.without_fused()
    return make_rows(make_towers().rows(features, counted), counted)


@pytest.mark.parametrize("fusion", Fusion)
def test_rows_are_unit_vectors_of_images_texts_and_both(
    batch: Batch, features: tuple[Tensor, Tensor], fusion: Fusion
) -> None:
    rows = make_rows(towers_of(ARCHITECTURE, fusion=fusion).rows(features, batch), batch)
    image_ID, text_SD = features
    expected = {}
    for place, (image, text) in enumerate(zip(batch.row_image_R.tolist(), batch.row_text_R.tolist(), strict=True)):
        if image >= 0 and text >= 0:
            vector, modality = fuse(image_ID[image][None], text_SD[text][None], fusion)[0], FUSED
        elif image >= 0:
            vector, modality = functional.normalize(image_ID[image], dim=-1), IMAGE
        else:
            vector, modality = functional.normalize(text_SD[text], dim=-1), TEXT
        expected[place] = (modality, int(batch.instance_R[place]), int(batch.owner_R[place]), vector)
    assert len(rows) == len(expected)
    assert rows.modality_R.tolist() == sorted(modality for modality, *_ in expected.values())
    found = sorted(zip(rows.modality_R.tolist(), rows.instance_R.tolist(), rows.owner_R.tolist(), strict=True))
    assert found == sorted((modality, instance, owner) for modality, instance, owner, _ in expected.values())
    for *labels, vector in expected.values():
        matches = (rows.vectors_RD @ vector > 1 - 1e-5).nonzero().flatten().tolist()
        assert labels in [[int(c[m]) for c in (rows.modality_R, rows.instance_R, rows.owner_R)] for m in matches]


def direct(batch: Batch, features: tuple[Tensor, Tensor], terms: Terms, with_fused: bool = True) -> Tensor:
    rows = rows_of(batch, features, with_fused)
    scale = make_towers().model.logit_scale.detach().exp()
    return contrastive_loss(
        Rows(rows.vectors_RD, rows.modality_R, rows.instance_R, rows.alike_RK, rows.owner_R), scale, terms
    )


@pytest.mark.parametrize("reading", [Reading.R1, Reading.R2, Reading.R3, Reading.R5])
def test_pairs_with_queries_count_within_a_modality_too(
    batch: Batch, features: tuple[Tensor, Tensor], reading: Reading
) -> None:
    everything = ((1.0, 1.0, 1.0),) * 3
    assert loss_of(batch, features, reading=reading) == direct(batch, features, Terms(everything, reading))


@pytest.mark.parametrize("reading", Reading)
def test_without_queries_only_pairs_of_modalities_count(
    batch: Batch, features: tuple[Tensor, Tensor], reading: Reading
) -> None:
    found = loss_of(batch, features, has_queries=False, reading=reading)
    assert found == direct(batch, features, Terms(CROSS_MODALITY, reading))


def test_pairwise_is_reading_r5_and_clip_has_no_fused_rows(batch: Batch, features: tuple[Tensor, Tensor]) -> None:
    r5 = Terms(CROSS_MODALITY, Reading.R5)
    assert loss_of(batch, features, has_queries=False, loss="pairwise") == direct(batch, features, r5)
    clip = direct(batch, features, Terms(CLIP_WEIGHTS, Reading.R5), with_fused=False)
    assert loss_of(batch, features, loss="clip") == clip


def test_weights_of_pairs_are_taken_by_name(batch: Batch, features: tuple[Tensor, Tensor]) -> None:
    weights = ((0.0, 1.0, 1.0), (3.0, 0.0, 1.0), (1.0, 0.0, 0.0))
    found = loss_of(batch, features, has_queries=False, pair_weights=["t>i=3", "it>t=0"])
    assert found == direct(batch, features, Terms(weights, Reading.R2))


@pytest.mark.parametrize("entry", ["t>x=1", "t=1", "t>i", "t>i=-1", "t>i=nan", "t>i=inf", ""])
def test_a_malformed_weight_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match="pair weight"):
        make_settings(Path("-"), Path("-"), pair_weights=[entry])


def test_one_temperature_a_pair_starts_as_the_models_and_learns_apart(
    batch: Batch, features: tuple[Tensor, Tensor]
) -> None:
    towers = make_towers()
    settings = make_settings(Path("-"), Path("-"), temperature_per_pair=True)
    objective = Objective(settings, towers.log_scale, towers.bias, True)
    loss = objective(towers.rows(features, batch), batch, Processes())
    torch.testing.assert_close(loss, loss_of(batch, features, clip_weight=None))
    loss.backward()
    assert objective.log_scales is not None
    assert objective.log_scales.grad is not None
    assert len(objective.log_scales.grad.unique()) > 5
    with torch.no_grad():
        objective.log_scales += torch.arange(9.0).view(3, 3)
    objective.bound_temperatures()
    bounded = objective.log_scales.detach()
    assert float(bounded.max()) == pytest.approx(math.log(100))
    assert towers.log_scale.item() == pytest.approx(float(bounded.mean()))


def test_a_start_colder_than_a_hundredth_is_not_warmed(batch: Batch, features: tuple[Tensor, Tensor]) -> None:
    model = make_towers().model
    model.logit_scale.data.fill_(math.log(117.0))
    objective = Objective(make_settings(Path("-"), Path("-")), model.logit_scale, None, True)
    objective.bound_temperatures()
    assert model.logit_scale.item() == pytest.approx(math.log(117.0))
    model.logit_scale.data.fill_(math.log(120.0))
    objective.bound_temperatures()
    assert model.logit_scale.item() == pytest.approx(math.log(117.0))


def test_the_sigmoid_loss_goes_on_with_the_bias_of_the_start(batch: Batch, features: tuple[Tensor, Tensor]) -> None:
    towers = towers_of(small_architecture(init_logit_bias=-7.0))
    model = towers.model
    for loss in ("gcl", "sigmoid"):
        objective = Objective(make_settings(Path("-"), Path("-"), loss=loss), towers.log_scale, towers.bias, False)
        objective.choose_what_learns()
        assert model.logit_bias.requires_grad == (loss == "sigmoid")
    rows = rows_of(batch, features)
    found = objective(towers.rows(features, batch), batch, Processes())
    torch.testing.assert_close(found, sigmoid_loss(rows, model.logit_scale.exp(), torch.tensor(-7.0)))
    found.backward()
    assert model.logit_bias.grad.abs() > 0
    assert objective.own_bias is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "clip", "pair_weights": ["i>t=2"]}, "loss clip has two terms of equal weight"),
        ({"loss": "alignclip", "reading": "R1"}, "loss alignclip has denominators of its own"),
        ({"loss": "pairwise", "reading": "R4"}, "loss pairwise has denominators of its own"),
        ({"loss": "normalized", "reading": "R3"}, "loss normalized has readings R2 and R5"),
        ({"reading": "R4", "pair_weights": ["i>i=1"]}, "no --pair-weights within a modality"),
        ({"pair_weights": ["i>t=1", " i>t=5"]}, "i>t has a weight already"),
        ({"loss": "sigmoid", "reading": "R3"}, "loss sigmoid has no denominators"),
        ({"separation_encoder": "minilm"}, "nothing is separated"),
        ({"loss": "sigmoid", "hardness": 1.0}, "loss sigmoid weighs its negatives otherwise"),
        ({"temperature_per_modality": True, "temperature_per_pair": True}, "and not one for each pair"),
        ({"temperature_per_modality": True, "learn_temperature": False}, "needs a learned temperature"),
        ({"loss": "sigmoid", "temperature_per_pair": True}, "needs a learned temperature and loss gcl or pairwise"),
        ({"start": "x", "lock_image": True, "min_crop": 0.5}, "--min-crop.* need --unlocked-image-groups"),
    ],
)
def test_settings_that_the_loss_cannot_honour_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_settings(Path("-"), Path("-"), **changes)


def test_a_sum_is_the_sum_of_its_terms(batch: Batch, features: tuple[Tensor, Tensor]) -> None:
    parts = {loss: loss_of(batch, features, loss=loss) for loss in ("clip", "pairwise", "alignclip")}
    separation = 2 * (parts["alignclip"] - parts["clip"])  # which it adds at a half
    covariance = covariance_loss(rows_of(batch, features))
    weights = {"clip_weight": 3.0, "pairwise_weight": 0.5, "separation_weight": 0.25, "covariance_weight": 100.0}
    for loss in ("gcl", "sigmoid", "normalized"):
        alone = loss_of(batch, features, loss=loss)
        expected = alone + 3 * parts["clip"] + 0.5 * parts["pairwise"] + 0.25 * separation + 100 * covariance
        torch.testing.assert_close(loss_of(batch, features, loss=loss, **weights), expected)
        default = loss_of(batch, features, loss=loss, clip_weight=None)
        torch.testing.assert_close(default, alone + 3 * parts["clip"] if loss == "gcl" else alone)
        torch.testing.assert_close(loss_of(batch, features, fusion="native", loss=loss, clip_weight=None), alone)
    assert all(part > 0.01 for part in (*parts.values(), separation, 100 * covariance))


def test_one_temperature_a_modality_is_the_mean_of_two(batch: Batch, features: tuple[Tensor, Tensor]) -> None:
    """A fused vector's is the mean of its image's and its text's, a pair's of those of both its vectors."""
    towers = make_towers()
    settings = make_settings(Path("-"), Path("-"), temperature_per_modality=True)
    objective = Objective(settings, towers.log_scale, towers.bias, True)
    loss = objective(towers.rows(features, batch), batch, Processes())
    torch.testing.assert_close(loss, loss_of(batch, features, clip_weight=None))
    loss.backward()
    assert objective.log_scales is not None
    assert objective.log_scales.grad is not None
    assert objective.log_scales.grad.abs().min() > 0
    with torch.no_grad():
        objective.log_scales.copy_(-torch.tensor([0.02, 0.04]).log())
    expected = torch.tensor([[0.02, 0.03, 0.025], [0.03, 0.04, 0.035], [0.025, 0.035, 0.03]])
    torch.testing.assert_close(1 / objective.scale(), expected)
    objective.bound_temperatures()
    assert 1 / towers.log_scale.exp().item() == pytest.approx(math.sqrt(0.02 * 0.04))


@pytest.mark.parametrize("by_encoder", [False, True])
def test_alignclip_adds_the_separation_of_images_and_of_texts(
    batch: Batch, features: tuple[Tensor, Tensor], by_encoder: bool
) -> None:
    """Semantics by hand: the captions in the order of the instances' numbers."""
    table = make_table(pairs())
    meanings = functional.normalize(torch.rand(len(table.tokens_ST), 5), dim=1) if by_encoder else None
    of_batch = batch.tokens_ST if meanings is None else meanings[batch.text_S]
    assert torch.equal(table.tokens_ST[batch.text_S], batch.tokens_ST)
    rows = rows_of(batch, features, with_fused=False)
    numbers = sorted(set(rows.instance_R.tolist()))
    is_own_text = (batch.row_text_R >= 0) & (batch.row_image_R < 0) & (batch.owner_R < 0)
    own = is_own_text.nonzero().flatten().tolist()
    texts = {int(batch.instance_R[row]): int(batch.row_text_R[row]) for row in own}
    captions = torch.stack([of_batch[texts[n]] if n in texts else of_batch[0] * 0 for n in numbers])
    numbered = replace(rows, instance_R=torch.tensor([numbers.index(n) for n in rows.instance_R.tolist()]))
    scale = make_towers().model.logit_scale.detach().exp()
    separation = separation_loss(numbered, scale, captions if by_encoder else caption_semantics(captions))
    settings = make_settings(Path("-"), Path("-"), loss="alignclip", separation_weight=0.25)
    towers = make_towers()
    objective = Objective(settings, towers.log_scale, towers.bias, True, meanings)
    counted = objective.counted(batch)
    found = objective(towers.rows(features, counted), counted, Processes())
    torch.testing.assert_close(found, loss_of(batch, features, loss="clip") + 0.25 * separation)
    assert separation > 0.1
