"""The gradient of a batch larger than memory: GradCache (Gao et al. 2021, arXiv 2101.06983).

The model embeds the batch in parts without a graph; the loss of all features gives each feature's
gradient; then each part is embedded again, with its graph, and takes its features' gradients. The
result is the gradient of the whole batch; memory is a part's. Everything random in a part is seeded by
the part, so that both passes see the same dropout.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from anykey.training.family import Family, Features, Items
from anykey.training.seeds import derive_seed

LossOf = Callable[[Features], Tensor]


def backward(family: Family, items: Items, num_parts: int, seed: int, loss_of: LossOf, scale: float = 1.0) -> Tensor:
    """Adds the gradient of all items to the parameters'.

    Args:
        family: The model.
        items: What it embeds.
        num_parts: In how many parts they go through the network; 1: all at once, embedded once.
        seed: Seed of everything random in the forward pass.
        loss_of: Loss of the features of all items.
        scale: What the gradient is multiplied with, for float16.

    Returns:
        The loss, detached.
    """
    if num_parts == 1:
        family.synchronize(True)
        loss = loss_of(_embed(family, items, derive_seed(seed, 0)))
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    parts = family.split(items, num_parts)
    with torch.no_grad():
        embedded = [_embed(family, part, derive_seed(seed, number)) for number, part in enumerate(parts)]
    features = tuple(torch.cat(pieces).requires_grad_() for pieces in zip(*embedded, strict=True))
    loss = loss_of(features)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    gradients = [
        torch.split(_gradient(whole), [len(piece) for piece in pieces])
        for whole, *pieces in zip(features, *embedded, strict=True)
    ]
    for number, (part, *wanted) in enumerate(zip(parts, *gradients, strict=True)):
        family.synchronize(number == num_parts - 1)
        again = _embed(family, part, derive_seed(seed, number))
        products = [(piece * gradient).sum() for piece, gradient in zip(again, wanted, strict=True)]
        surrogate = torch.stack(products).sum()
        if surrogate.requires_grad:  # else the part is empty: there are fewer items than parts
            surrogate.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _embed(family: Family, part: Items, seed: int) -> Features:
    torch.manual_seed(seed)
    return family.features(part)


def _gradient(features: Tensor) -> Tensor:
    return torch.zeros_like(features) if features.grad is None else features.grad
