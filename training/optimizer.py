"""AdamW, its learning rate by layer and over the run, and the temperature's bounds."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from anykey.training.errors import InvalidRecipeError
from anykey.training.family import Layers

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's bound: a temperature of 0.01


def make_optimizer(
    model: nn.Module,
    layers: Layers,
    learning_rate: float,
    weight_decay: float,
    beta2: float,
    layer_decay: float = 1.0,
    scales: Sequence[nn.Parameter] = (),
) -> AdamW:
    """AdamW over the parameters that train; vectors, scalars (gains, biases) and temperatures do not decay.

    With `layer_decay` below 1 a layer learns by that factor more slowly than the one behind it, counted from each
    side's output (BEiT, arXiv 2106.08254): what lies near the pixels is the most general and changes the least.

    Args:
        model: Whose parameters learn.
        layers: In which groups they lie.
        learning_rate: The peak, at which the output groups and the temperatures learn.
        weight_decay: AdamW's, of matrices.
        beta2: AdamW's.
        layer_decay: Rate of a layer group as a share of the next one's.
        scales: Temperatures outside the model, of any shape.

    Returns:
        The optimizer; each of its groups has a `rate_share`, its rate as a share of `learning_rate`.

    Raises:
        InvalidRecipeError: nothing is left to train.
    """
    shares = _rate_shares(layers, layer_decay)
    named = [(shares.get(name, 1.0), parameter.ndim >= 2, parameter) for name, parameter in model.named_parameters()]
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for share, decays, parameter in [*named, *((1.0, False, scale) for scale in scales)]:
        if parameter.requires_grad:
            is_plain = type(parameter.data) is Tensor  # the fused step takes no list that mixes them with sharded ones
            groups.setdefault((share, decays, is_plain), []).append(parameter)
    if not groups:
        raise InvalidRecipeError("both towers are locked, with no projection or temperature to train: nothing learns")
    options: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr": learning_rate * share,
            "rate_share": share,
        }
        for (share, decays, _), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    return AdamW(options, lr=learning_rate, betas=(0.9, beta2), eps=1e-6, fused=True)


def set_learning_rate(optimizer: AdamW, step: int, num_steps: int, peak: float, warmup_share: float) -> None:
    """Sets every group's rate for `step` (from 0), a function of the step alone."""
    rate = peak * rate_factor(step, num_steps, warmup_share)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_share"]


def rate_factor(step: int, num_steps: int, warmup_share: float) -> float:
    """The learning rate at `step` (from 0) as a share of its peak: a linear rise, then half a cosine down to 0.

    >>> [round(rate_factor(step, 10, 0.2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    num_warmup = round(num_steps * warmup_share)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def clamp_log_scale(log_scale: Tensor, highest: float = MAX_LOGIT_SCALE) -> None:
    """Keeps logarithms of inverse temperatures, of any shape, between 0 and the highest, in place."""
    with torch.no_grad():
        log_scale.clamp_(0.0, highest)


def _rate_shares(layers: Layers, layer_decay: float) -> dict[str, float]:
    """Rate of each parameter that lies in a layer, as a share of the peak."""
    return {
        name: layer_decay**distance
        for groups in (layers.image, layers.text)
        for distance, group in enumerate(reversed(groups))
        for name in group
    }
