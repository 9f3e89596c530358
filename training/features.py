"""A locked trunk's features, computed once and kept on disk.

Shape legend: I = images, C, H, W = image, F = the trunk's output (any number of axes).
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anykey.program.cache_folder import MAX_FEATURES_BYTES, Lease, keep_below
from anykey.training.family import Family
from anykey.training.table import Advance, PairTable

_FORMAT = 2  # raised when the same images and trunk give other features than before
_BATCH = 32
_THREADS = 4


def trunk_features(
    family: Family,
    table: PairTable,
    mirror: bool,
    cache_dir: Path,
    advance: Advance,
    max_cache_bytes: int = MAX_FEATURES_BYTES,
) -> Tensor:
    """Features of every image of a table, from the cache when they are there; then no image is decoded.

    Args:
        family: The model, whose trunk stays as it is.
        table: The pairs.
        mirror: Whether the mirrored images' features are wanted too.
        cache_dir: Where they are kept, by a digest of the trunk, the preprocessing and the images' bytes.
        advance: Told how many images are done.
        max_cache_bytes: What all files there may take; those used longest ago are removed.

    Returns:
        float32 `[1 or 2, I, F...]` on the CPU: the images as they are and, if wanted, mirrored.
    """
    path = cache_dir / f"{_digest(family, table, mirror)}.safetensors"
    features = _kept(path)
    if features is not None:
        advance(table.num_images * (2 if mirror else 1))
        return features
    features = _embed(family, table, mirror, advance)
    cache_dir.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"features": features}, aside)
    lease = Lease(aside)
    aside.replace(path)
    keep_below(cache_dir, max_cache_bytes)
    del lease  # the features are in memory: nobody reads the file any more
    return features


def _kept(path: Path) -> Tensor | None:
    """The features in a file; `None` where it is not there, or was cut short by a crash."""
    try:
        lease = Lease(path)
        features: Tensor = load_file(path)["features"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None
    del lease
    return features


def _embed(family: Family, table: PairTable, mirror: bool, advance: Advance) -> Tensor:
    family.eval()
    sides: list[list[Tensor]] = [[], []] if mirror else [[]]
    for pixels_ICHW in _decode(table):
        for parts, pixels in zip(sides, (pixels_ICHW, pixels_ICHW.flip(-1)), strict=False):
            parts.append(family.trunk_features(pixels).cpu())
            advance(len(pixels))
    return torch.stack([torch.cat(parts) for parts in sides])


def _decode(table: PairTable) -> Iterator[Tensor]:
    """All images' pixels, in batches; while the trunk works on one, a few threads decode the next."""
    batches = [range(first, min(first + _BATCH, table.num_images)) for first in range(0, table.num_images, _BATCH)]
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        decoding = pool.map(table.pixels, batches[0])
        for following in [*batches[1:], range(0)]:
            pixels_ICHW = torch.stack(list(decoding))
            decoding = pool.map(table.pixels, following)
            yield pixels_ICHW


def _digest(family: Family, table: PairTable, mirror: bool) -> str:
    """Depends on all that features depend on.

    That is the images' bytes, how they become pixels and those the trunk's input, and the trunk's modules (padding),
    weights, precision and kind of device.
    """
    extremes_2CHW = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    inputs = family.normalize(extremes_2CHW).flatten().tolist()
    digest = hashlib.sha256(
        f"{_FORMAT} {mirror} {family.dtype} {family.device.type} {inputs} {family.trunk} "
        f"{table.reader.identity} {table.images_digest}".encode()
    )
    for name, tensor in sorted(family.trunk.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
