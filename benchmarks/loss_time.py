"""How long the two trainers' losses take, forward and backward, for features of a batch."""

from collections.abc import Callable
from statistics import median
from time import monotonic

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional

from anykey.encoder.fusion import Fusion, fuse
from anykey.training.losses import Terms, contrastive_loss, triples

REPEATS = 20


def anykey_loss_seconds(batch_size: int, width: int, device: str, threads: int) -> float:
    """Ours: normalisation, fusion and GCL over image, text and fused vectors."""

    def loss(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
        number_N1 = torch.arange(batch_size, device=device)[:, None]
        fused_ND = fuse(image_ND, text_ND, Fusion.RAW)
        unit_image_ND, unit_text_ND = functional.normalize(image_ND, dim=-1), functional.normalize(text_ND, dim=-1)
        rows = triples(unit_image_ND, unit_text_ND, fused_ND, number_N1)
        return contrastive_loss(rows, scale, Terms())

    return _seconds(loss, batch_size, width, device, threads)


def open_clip_loss_seconds(batch_size: int, width: int, device: str, threads: int) -> float:
    """Theirs: normalisation and CLIP's loss over image and text vectors."""
    clip_loss = ClipLoss()

    def loss(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
        value: Tensor = clip_loss(functional.normalize(image_ND, dim=-1), functional.normalize(text_ND, dim=-1), scale)
        return value

    return _seconds(loss, batch_size, width, device, threads)


def _seconds(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], batch_size: int, width: int, device: str, threads: int
) -> float:
    """The median over some repeats, after as many to warm up."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(batch_size, width, generator=generator).to(device).requires_grad_() for _ in range(2)]
    scale = torch.tensor(14.3, device=device, requires_grad=True)
    times = []
    for _ in range(2 * REPEATS):
        began = monotonic()
        torch.autograd.backward(loss(*features, scale))
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(monotonic() - began)
    return median(times[REPEATS:])
