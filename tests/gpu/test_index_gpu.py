"""On NVIDIA GPUs: search through faiss-gpu gives the CPU's answers. Skipped where FAISS finds no GPU."""

from pathlib import Path

import numpy as np
import pytest

from index.vectors.exact import ExactVectors, VectorType, write_exact
from index.vectors.gpu import GpuIndex, GpuStructure, num_gpus
from tests.unit.index.drawn_vectors import clustered, overlap

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(num_gpus() == 0, reason="needs faiss-gpu and an NVIDIA GPU; FAISS finds none"),
]
QUERIES = clustered(50, width=64, seed=1)
LEAST_RECALL = {GpuStructure.FLAT: 1.0, GpuStructure.IVF_PQ: 0.9, GpuStructure.CAGRA: 0.95}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", GpuStructure)
def test_gpu_gives_the_cpus_answers(tmp_path: Path, kind: GpuStructure, dtype: VectorType) -> None:
    write_exact(tmp_path / "v.faiss", [clustered(20_000, width=64)], 64, dtype)
    exact = ExactVectors.open(tmp_path / "v.faiss")
    index = GpuIndex.open(kind, exact, list(range(num_gpus())), temporary_bytes=64 * 2**20)
    allowed_N = np.random.default_rng(0).random(20_000) < 0.1

    for allowed in (None, allowed_N):
        scores_QK, found_QK = index.search(QUERIES, 10, allowed, rerank=100)
        expected_scores_QK, expected_QK = exact.search(QUERIES, 10, allowed)
        assert overlap(found_QK, expected_QK) >= LEAST_RECALL[kind]
        if kind is GpuStructure.FLAT:
            np.testing.assert_allclose(scores_QK, expected_scores_QK, atol=1e-6)
    index.close()
