"""Unit vectors for tests of search, with the clusters that real ones have.

Shape legend: N = vectors, D = width, C = clusters.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anykey.index.vectors.exact import ExactVectors, VectorType, write_exact


def clustered(count: int, width: int = 16, clusters: int = 20, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around a few centres, the same ones for the same number of clusters and width."""
    centres_CD = np.random.default_rng(clusters).standard_normal((clusters, width))
    rng = np.random.default_rng([seed, 1])
    vectors_ND = centres_CD[rng.integers(0, clusters, count)] + 0.6 * rng.standard_normal((count, width))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND.astype(np.float32)


def written(path: Path, vectors_ND: NDArray[np.float32], dtype: VectorType = "float32") -> ExactVectors:
    """The vectors in a file, open; written in several batches."""
    write_exact(path, np.array_split(vectors_ND, 3), vectors_ND.shape[1], dtype)
    return ExactVectors.open(path)


def overlap(found_QK: NDArray[np.int64], expected_QK: NDArray[np.int64]) -> float:
    """Mean share of the expected positions that were found."""
    shares = [
        len(set(found_K.tolist()) & set(expected_K.tolist())) / len(expected_K)
        for found_K, expected_K in zip(found_QK, expected_QK, strict=True)
    ]
    return float(np.mean(shares))
