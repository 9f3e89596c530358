"""The learning rate's course on paper and by layer, what decays, and the temperature's bounds."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from anykey.training.families.layers import tower_layers
from anykey.training.optimizer import (
    clamp_log_scale,
    make_optimizer,
    rate_factor,
    set_learning_rate,
)
from tests.networks import VISION, build_seeded, small_architecture
from tests.training_runs import towers_of

DEEP = small_architecture(vision={**VISION, "layers": 3})


def step(model: nn.Module, optimizer: AdamW, seed: int) -> None:
    """One step with random gradients that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_the_rate_rises_evenly_then_falls_along_half_a_cosine() -> None:
    rates = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert rates[10:] == sorted(rates[10:], reverse=True)


@given(st.integers(1, 500), st.floats(0, 0.999), st.integers(0, 600))
def test_the_rate_stays_within_0_and_1(num_steps: int, warmup_share: float, step: int) -> None:
    assert 0.0 <= rate_factor(step, num_steps, warmup_share) <= 1.0
    assert rate_factor(0, num_steps, warmup_share) > 0


def test_matrices_decay_and_vectors_do_not_and_locked_parameters_are_left_out() -> None:
    model = build_seeded(small_architecture())
    model.visual.requires_grad_(False)
    optimizer = make_optimizer(model, tower_layers(model), 0.01, 0.1, 0.98)
    decay, rest = optimizer.param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim >= 2 for parameter in decay["params"])
    assert any(parameter is model.logit_scale for parameter in rest["params"])
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for name, parameter in model.named_parameters() if "visual" not in name}


@pytest.mark.parametrize(("before", "after"), [(-3.0, 0.0), (2.0, 2.0), (50.0, math.log(100))])
def test_the_temperature_stays_between_a_hundredth_and_1(before: float, after: float) -> None:
    model = build_seeded(small_architecture())
    with torch.no_grad():
        model.logit_scale.fill_(before)
    clamp_log_scale(model.logit_scale)
    assert model.logit_scale.item() == pytest.approx(after)


def test_without_layer_decay_a_step_is_that_of_plain_adamw_bit_for_bit() -> None:
    """The plain twin: all matrices, then all vectors, one rate, torch's own scheduler."""
    ours, plain = build_seeded(DEEP), build_seeded(DEEP)
    groups = [
        {"params": [parameter for parameter in plain.parameters() if parameter.ndim >= 2], "weight_decay": 0.1},
        {"params": [parameter for parameter in plain.parameters() if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    twin = AdamW(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-6, fused=True)
    schedule = LambdaLR(twin, lambda at: rate_factor(at, 5, 0.4))
    optimizer = make_optimizer(ours, tower_layers(ours), 0.01, 0.1, 0.98)
    for at in range(5):
        set_learning_rate(optimizer, at, 5, 0.01, 0.4)
        step(ours, optimizer, seed=at)
        step(plain, twin, seed=at)
        schedule.step()
    for name, weight in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    untrained = build_seeded(DEEP).state_dict()
    assert not any(torch.equal(weight, untrained[name]) for name, weight in ours.named_parameters())


def test_a_layer_learns_more_slowly_than_the_one_behind_it() -> None:
    """With zero moments AdamW's first step is the rate itself, whatever the gradient: the rates can be read off."""
    model = build_seeded(DEEP)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = make_optimizer(model, tower_layers(model), 0.01, weight_decay=0.0, beta2=0.98, layer_decay=0.5)
    step(model, optimizer, seed=0)
    moved = {name: (weight - before[name]).abs().median().item() for name, weight in model.named_parameters()}
    groups = tower_layers(model)
    for tower in (groups.image, groups.text):
        for distance, group in enumerate(reversed(tower)):
            assert [moved[name] for name in group] == pytest.approx([0.01 * 0.5**distance] * len(group), rel=1e-2)
    assert moved["logit_scale"] == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_every_parameter_that_trains_is_in_one_group(layer_decay: float) -> None:
    towers = towers_of(DEEP)
    towers.lock("image", unlocked_groups=2)
    model = towers.model
    optimizer = make_optimizer(model, tower_layers(model), 0.01, 0.1, 0.98, layer_decay)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert all(
        (group["weight_decay"] == 0.1) == (parameter.ndim >= 2)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def test_temperatures_beside_the_model_learn_at_the_peak_and_do_not_decay() -> None:
    model = build_seeded(DEEP)
    scales, fixed = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3, 3), requires_grad=False)
    optimizer = make_optimizer(model, tower_layers(model), 0.01, 0.1, 0.98, layer_decay=0.5, scales=[scales, fixed])
    facts: list[dict[str, Any]] = [
        group for group in optimizer.param_groups if any(parameter is scales for parameter in group["params"])
    ]
    assert [(group["weight_decay"], group["rate_share"]) for group in facts] == [(0.0, 1.0)]
    assert not any(parameter is fixed for group in optimizer.param_groups for parameter in group["params"])


def test_the_rate_of_a_step_does_not_depend_on_the_steps_before_it() -> None:
    model = build_seeded(DEEP)
    optimizer = make_optimizer(model, tower_layers(model), 0.01, 0.1, 0.98, layer_decay=0.5)
    for at in range(7):
        set_learning_rate(optimizer, at, 10, 0.01, 0.2)
    resumed = make_optimizer(model, tower_layers(model), 0.01, 0.1, 0.98, layer_decay=0.5)
    set_learning_rate(resumed, 6, 10, 0.01, 0.2)
    assert max(group["lr"] for group in resumed.param_groups) == pytest.approx(0.01 * 0.5)
    assert [group["lr"] for group in resumed.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert min(group["lr"] for group in resumed.param_groups) < 0.01 * 0.5


def test_scales_of_any_shape_are_clamped_each_for_itself() -> None:
    scales = nn.Parameter(torch.tensor([[-1.0, 2.0], [5.0, 4.6]]))
    clamp_log_scale(scales)
    assert scales.tolist() == [pytest.approx([0.0, 2.0]), pytest.approx([math.log(100), 4.6])]
    assert scales.requires_grad
