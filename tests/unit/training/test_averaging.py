"""The moving average by hand, swapping that leaves no trace, exact resume, and the line between two models."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from anykey.training.averaging import Average, interpolate
from anykey.training.errors import InvalidRecipeError
from anykey.training.families.layers import tower_layers
from anykey.training.optimizer import make_optimizer
from tests.networks import TIMM_VISION, build_seeded, small_architecture
from tests.training_runs import weights_of


def one_weight(value: float = 0.0) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def move(model: nn.Module, seed: int) -> None:
    """Random weights and statistics, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))


def test_the_average_follows_its_formula() -> None:
    layer = one_weight(1.0)
    average = Average(layer.named_parameters(), decay=0.2)
    expected = 1.0
    for kept, value in [(1 / 10, 3.0), (2 / 11, 5.0), (0.2, 7.0), (0.2, -1.0)]:
        nn.init.constant_(layer.weight, value)
        average.update()
        expected = kept * expected + (1 - kept) * value
    with average.swapped():
        assert layer.weight.item() == pytest.approx(expected, rel=1e-6)
    assert layer.weight.item() == -1.0


def test_it_starts_at_the_present_weights() -> None:
    layer = one_weight(4.0)
    average = Average(layer.named_parameters(), decay=0.999)
    nn.init.constant_(layer.weight, 9.0)
    with average.swapped():
        assert layer.weight.item() == 4.0


def test_swapping_back_restores_every_bit_also_after_an_error() -> None:
    model = build_seeded(small_architecture(vision=TIMM_VISION))
    average = Average(model.named_parameters(), decay=0.9)
    for seed in range(3):
        move(model, seed)
        average.update()
    own = weights_of(model)
    averaged = {name: weight.clone() for name, weight in average.state_dict()["weights"].items()}
    with average.swapped():
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, averaged[name]), name
    with pytest.raises(ZeroDivisionError), average.swapped():
        raise ZeroDivisionError
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name]), name
    for name, weight in average.state_dict()["weights"].items():
        assert torch.equal(weight, averaged[name]), name
    assert not torch.equal(averaged["text_projection"], own["text_projection"])


def test_parameters_stay_the_objects_that_the_optimizer_knows() -> None:
    layer = one_weight()
    before, address = layer.weight, layer.weight.data_ptr()
    average = Average(layer.named_parameters(), decay=0.9)
    with average.swapped():
        assert layer.weight is before
        assert layer.weight.data_ptr() == address


def test_locked_weights_and_buffers_are_left_alone() -> None:
    model: Any = build_seeded(small_architecture(vision=TIMM_VISION))
    model.visual.requires_grad_(False)
    average = Average(model.named_parameters(), decay=0.9)
    move(model, seed=1)
    own = weights_of(model)
    assert set(average.state_dict()["weights"]) == {n for n, _ in model.named_parameters() if "visual" not in n}
    with average.swapped():
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, own[name])}
    assert changed == set(average.state_dict()["weights"])


def test_a_resumed_average_is_the_same_to_the_last_bit() -> None:
    model = build_seeded(small_architecture())
    whole = Average(model.named_parameters(), decay=0.5)
    for seed in range(4):
        move(model, seed)
        whole.update()
    saved = {
        "num_updates": whole.num_updates,
        "weights": {n: w.clone() for n, w in whole.state_dict()["weights"].items()},
    }
    again = build_seeded(small_architecture(), seed=9)
    resumed = Average(again.named_parameters(), decay=0.5)
    resumed.load_state_dict(saved)
    for seed in range(4, 20):
        for each, average in ((model, whole), (again, resumed)):
            move(each, seed)
            average.update()
    assert resumed.num_updates == 20
    for name, weight in whole.state_dict()["weights"].items():
        assert torch.equal(resumed.state_dict()["weights"][name], weight), name


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_sharded_weights_learn_and_are_averaged_beside_plain_ones() -> None:
    plain, sharded = build_seeded(small_architecture()), build_seeded(small_architecture())
    for block in sharded.transformer.resblocks:
        fully_shard(block, mesh=init_device_mesh("cpu", (1,)))
    found = []
    for model in (plain, sharded):
        optimizer = make_optimizer(model, tower_layers(model), 1e-2, 0.1, 0.98)
        average = Average(model.named_parameters(), decay=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            model.encode_text(torch.arange(1, 78)[None]).square().sum().backward()
            optimizer.step()
            average.update()
        found.append(average.state_dict()["weights"])
    kinds = {type(weight) for weight in found[1].values()}
    assert kinds == {torch.Tensor, DTensor}
    for name, weight in found[1].items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        torch.testing.assert_close(whole, found[0][name], msg=name)


def test_an_average_of_other_weights_is_refused() -> None:
    average = Average(one_weight().named_parameters(), decay=0.9)
    state = {"num_updates": 1, "weights": {"bias": torch.zeros(1)}}
    with pytest.raises(InvalidRecipeError, match=r"only this model has weight; only the saved average has bias"):
        average.load_state_dict(state)


@given(st.floats(0, 1), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_interpolation_is_the_weighted_mean(share: float, before: float, after: float) -> None:
    start, tuned = ({"weight": torch.tensor([value], dtype=torch.float64)} for value in (before, after))
    expected = (1 - share) * before + share * after
    assert interpolate(start, tuned, share)["weight"].item() == pytest.approx(expected, abs=1e-9)


def test_interpolation_ends_at_the_start_and_at_the_tuned_weights() -> None:
    architecture = small_architecture(vision=TIMM_VISION)
    start, tuned = build_seeded(architecture, seed=1), build_seeded(architecture, seed=2)
    tuned.get_buffer("visual.trunk.bn1.num_batches_tracked").fill_(7)
    before, after = start.state_dict(), tuned.state_dict()
    at_start, at_end = interpolate(before, after, 0.0), interpolate(before, after, 1.0)
    for name, tensor in after.items():
        assert torch.equal(at_end[name], tensor), name
        assert torch.equal(at_start[name], before[name] if tensor.is_floating_point() else tensor), name
    tuned.load_state_dict(interpolate(before, after, 0.5))


def test_interpolation_does_not_change_what_it_is_given() -> None:
    start, tuned = {"count": torch.tensor(1), "w": torch.zeros(2)}, {"count": torch.tensor(5), "w": torch.ones(2)}
    middle = interpolate(start, tuned, 0.25)
    middle["count"] += 1
    middle["w"] += 1
    assert (start["w"].tolist(), tuned["w"].tolist(), tuned["count"].item()) == ([0, 0], [1, 1], 5)


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ({"w": torch.zeros(2), "v": torch.zeros(1)}, "only the fine-tuned model has v"),
        ({}, "only the start has w"),
        ({"w": torch.zeros(3)}, r"shape of w: \(2,\) and \(3,\)"),
    ],
)
def test_weights_of_another_network_are_refused(tuned: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InvalidRecipeError, match=message):
        interpolate({"w": torch.zeros(2)}, tuned, 0.5)
