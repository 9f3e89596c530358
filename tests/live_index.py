"""Indexes with keys stored live, made the same way in each test.

Shape legend: N = keys, D = width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.index import FaissIndex, StoredImage
from anykey.index.key_index import NewKey
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts, FoldOptions
from tests.factories import image_bytes

WIDTH = 8
ENCODER = EncoderFacts(name="drawn", fingerprint="sha256:drawn", width=WIDTH, fusion="raw")


def unit_vectors(num_vectors: int, seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    """Random directions, `[N, D]`."""
    vectors_ND = np.random.default_rng(seed).standard_normal((num_vectors, width)).astype(np.float32)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def new_keys(num_keys: int, seed: int = 0) -> list[NewKey]:
    """Keys `k0`, `k1`, ... that take turns between text, image and fused, each with its number in its metadata."""
    vectors_ND = unit_vectors(num_keys, seed)
    return [_new_key(number, vector_D) for number, vector_D in enumerate(vectors_ND)]


def make_index(
    index_dir: Path, keys: Sequence[NewKey], vector_type: str = "float32", options: FoldOptions | None = None
) -> Path:
    """An index that holds keys, folded into its version."""
    create_index(index_dir, ENCODER, "float16" if vector_type == "float16" else "float32", options)
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert(keys)
        index.compact()
    return index_dir


def everything(index_dir: Path) -> dict[str, Any]:
    """What an index shows of each key: the key as it is stored, its vector's bytes, its images."""
    with FaissIndex.open(index_dir) as index:
        return {
            stored.key: (
                stored,
                index.vector(stored.key).tobytes(),
                [index.image(stored.key, position) for position in range(stored.payload.num_images)],
            )
            for stored in index.scan()
        }


def _new_key(number: int, vector_D: NDArray[np.float32]) -> NewKey:
    image = StoredImage(image_bytes((number % 256, 0, 0)), "image/png")
    return NewKey(
        key=f"k{number}",
        vector_D=vector_D,
        text=None if number % 3 == 1 else f"text {number}",
        images=() if number % 3 == 0 else (image,),
        metadata={"number": number},
        pools=("even",) if number % 2 == 0 else ("odd",),
    )
