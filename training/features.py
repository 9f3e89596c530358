"""A locked trunk's features, computed once and kept on disk.

Shape legend: I = images, C, H, W = image, F = the trunk's output (any number of axes).
"""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.table import Advance, PairTable
from training.towers import Towers

_BATCH = 32


def trunk_features(towers: Towers, table: PairTable, mirror: bool, cache_dir: Path, advance: Advance) -> Tensor:
    """Features of every image of a table, from the cache when they are there.

    Args:
        towers: The towers, trunk locked.
        table: The pairs.
        mirror: Whether the mirrored images' features are wanted too.
        cache_dir: Where they are kept, by a digest of the trunk and the images.
        advance: Told how many images are done.

    Returns:
        float32 `[1 or 2, I, F...]` on the CPU: the images as they are and, if wanted, mirrored.
    """
    path = cache_dir / f"{_digest(towers, table, mirror)}.safetensors"
    try:
        features: Tensor = load_file(path)["features"]
        advance(table.num_images * (2 if mirror else 1))
        return features
    except (FileNotFoundError, SafetensorError, KeyError):
        pass  # not there yet, or cut short by a crash: computed again
    towers.eval()
    sides = [_embed(towers, table, mirrored, advance) for mirrored in ((False, True) if mirror else (False,))]
    features = torch.stack(sides)
    cache_dir.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"features": features}, aside)
    aside.replace(path)
    return features


def _embed(towers: Towers, table: PairTable, mirrored: bool, advance: Advance) -> Tensor:
    parts = []
    for start in range(0, table.num_images, _BATCH):
        images = range(start, min(start + _BATCH, table.num_images))
        pixels = torch.stack([table.pixels(image) for image in images])
        parts.append(towers.trunk_features(pixels.flip(-1) if mirrored else pixels).cpu())
        advance(len(images))
    return torch.cat(parts)


def _digest(towers: Towers, table: PairTable, mirror: bool) -> str:
    """Depends on the trunk's weights, modules (padding) and precision, the normalisation, and the decoded pixels."""
    digest = hashlib.sha256(
        f"{mirror} {towers.dtype} {towers.trunk} {towers.normalize(torch.zeros(1, 3, 1, 1).byte())}".encode()
    )
    for name, tensor in sorted(towers.trunk.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for image in range(table.num_images):
        digest.update(table.pixels(image).numpy().data)
    return digest.hexdigest()[:32]
