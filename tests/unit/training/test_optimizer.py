"""The learning rate's course on paper, what decays, and the temperature's bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import build_seeded, small_architecture
from training.optimizer import clamp_temperature, make_optimizer, make_schedule, rate_factor


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


def test_the_schedule_moves_the_optimizers_rate() -> None:
    model = build_seeded(small_architecture())
    optimizer = make_optimizer(model, 0.01, 0.1, 0.98)
    schedule = make_schedule(optimizer, 10, 0.2)
    seen = []
    for _ in range(3):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.005, 0.01, 0.01])


def test_matrices_decay_and_vectors_do_not_and_locked_parameters_are_left_out() -> None:
    model = build_seeded(small_architecture())
    model.visual.requires_grad_(False)
    optimizer = make_optimizer(model, 0.01, 0.1, 0.98)
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
    clamp_temperature(model)
    assert model.logit_scale.item() == pytest.approx(after)
