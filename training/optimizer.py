"""AdamW, its learning rate over the run, and the temperature's bounds."""

import math

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's bound: a temperature of 0.01


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, beta2: float) -> AdamW:
    """AdamW over the parameters that train; vectors and scalars (gains, biases, temperature) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=learning_rate, betas=(0.9, beta2), eps=1e-6, fused=True)


def make_schedule(optimizer: AdamW, num_steps: int, warmup_share: float) -> LambdaLR:
    """A linear rise over the first share of the steps, then half a cosine down to 0."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, num_steps, warmup_share))


def rate_factor(step: int, num_steps: int, warmup_share: float) -> float:
    """The learning rate at `step` (from 0) as a share of its peak.

    >>> [round(rate_factor(step, 10, 0.2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    num_warmup = round(num_steps * warmup_share)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def clamp_temperature(model: nn.Module) -> None:
    """Keeps the inverse temperature within [1, 100], as CLIP does."""
    with torch.no_grad():
        model.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)  # type: ignore[operator]
