"""The gradient of a batch larger than memory: GradCache (Gao et al. 2021, arXiv 2101.06983).

The towers embed the batch in chunks without a graph; the loss of all features gives each feature's
gradient; then each chunk is embedded again, with its graph, and takes its features' gradients. The
result is the gradient of the whole batch; memory is a chunk's. Everything random in a chunk is seeded by
the chunk, so that both passes see the same dropout.

Shape legend: I = images, S = texts, D = width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from anykey.training.batches import Batch
from anykey.training.families.towers import Towers
from anykey.training.seeds import derive_seed

LossOf = Callable[[Tensor, Tensor], Tensor]


def backward(towers: Towers, batch: Batch, num_chunks: int, seed: int, loss_of: LossOf, scale: float = 1.0) -> Tensor:
    """Adds the batch's gradient to the parameters'.

    Args:
        towers: The towers.
        batch: The batch.
        num_chunks: In how many parts it goes through the towers; 1: all at once, embedded once.
        seed: Seed of everything random in the forward pass.
        loss_of: Loss of all image features `[I, D]` and text features `[S, D]`.
        scale: What the gradient is multiplied with, for float16.

    Returns:
        The loss, detached.
    """
    if num_chunks == 1:
        towers.synchronize(True)
        torch.manual_seed(derive_seed(seed, 0))
        loss = loss_of(*towers.features(batch.images_I, batch.tokens_ST))
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    chunks = list(zip(batch.images_I.tensor_split(num_chunks), batch.tokens_ST.tensor_split(num_chunks), strict=True))
    with torch.no_grad():
        parts = [_embed(towers, chunk, derive_seed(seed, number)) for number, chunk in enumerate(chunks)]
    image_ID = torch.cat([image for image, _ in parts]).requires_grad_()
    text_SD = torch.cat([text for _, text in parts]).requires_grad_()
    loss = loss_of(image_ID, text_SD)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    image_grads = torch.split(_gradient(image_ID), [len(image) for image, _ in parts])
    text_grads = torch.split(_gradient(text_SD), [len(text) for _, text in parts])
    for number, (chunk, image_grad, text_grad) in enumerate(zip(chunks, image_grads, text_grads, strict=True)):
        towers.synchronize(number == num_chunks - 1)
        image_cD, text_cD = _embed(towers, chunk, derive_seed(seed, number))
        surrogate = (image_cD * image_grad).sum() + (text_cD * text_grad).sum()
        if surrogate.requires_grad:  # else the chunk is empty: there are fewer images and texts than chunks
            surrogate.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _embed(towers: Towers, chunk: tuple[Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return towers.features(*chunk)


def _gradient(features: Tensor) -> Tensor:
    return torch.zeros_like(features) if features.grad is None else features.grad
