"""Keys whose images count differently: each image is embedded by itself, and the key's vector is their weighted sum.

Shape legend: B = keys, F = vectors of which those of the keys are made, D = width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.dataset import Entry
from anykey.benchmark.errors import DatasetError


def embedded_apart(entry: Entry) -> list[Entry]:
    """What is embedded for a key: the key itself, or each of its images where they have weights."""
    if entry.image_weights is None:
        return [entry]
    return [replace(entry, images=(image,), image_weights=None) for image in entry.images]


def pooled(entries: Sequence[Entry], vectors_FD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each key's unit vector.

    Args:
        entries: The keys.
        vectors_FD: Unit vectors of what is embedded for them, in their order.

    Returns:
        The keys' vectors `[B, D]`.

    Raises:
        DatasetError: the images of a key cancel each other out.

    >>> key = Entry("k", images=(b"a", b"b"), image_weights=(0.8, 0.6))
    >>> pooled([key], np.eye(2, dtype=np.float32)).round(3).tolist()
    [[0.800000011920929, 0.6000000238418579]]
    """
    return np.stack(list(_each(entries, vectors_FD)))


def _each(entries: Sequence[Entry], vectors_FD: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    start = 0
    for entry in entries:
        if entry.image_weights is None:
            yield vectors_FD[start]
            start += 1
            continue
        own_FD = vectors_FD[start : start + len(entry.images)].astype(np.float64)
        start += len(entry.images)
        sum_D = np.asarray(entry.image_weights) @ own_FD
        norm = np.linalg.norm(sum_D)
        if norm < 1e-6:
            raise DatasetError(f"{entry.place}: the images of key '{entry.key}' cancel each other out")
        yield (sum_D / norm).astype(np.float32)
