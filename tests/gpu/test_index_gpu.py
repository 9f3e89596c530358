"""On NVIDIA GPUs: search through faiss-gpu gives the CPU's answers; what is measured is chosen, kept and opened.

Skipped where FAISS finds no GPU.
"""

from pathlib import Path

import numpy as np
import pytest

from anykey.index import FaissIndex
from anykey.index.errors import InvalidStructureError
from anykey.index.key_index import NewKey
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts
from anykey.index.vectors.exact import ExactVectors, VectorType, write_exact
from anykey.index.vectors.gpu import GpuIndex, clustering_on
from anykey.index.vectors.structure_facts import GpuStructure, SearchParameters
from anykey.index.vectors.structures import ApproximateIndex, GpuUse, num_gpus
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
        scores_QK, found_QK = index.search(QUERIES, 10, allowed, parameters=SearchParameters(probes=64, rerank=100))
        expected_scores_QK, expected_QK = exact.search(QUERIES, 10, allowed)
        assert overlap(found_QK, expected_QK) >= LEAST_RECALL[kind]
        if kind is GpuStructure.FLAT:
            np.testing.assert_allclose(scores_QK, expected_scores_QK, atol=1e-6)
    index.close()


@pytest.mark.parametrize("kind", GpuStructure)
def test_gpu_gives_each_query_of_a_batch_its_own_answer(tmp_path: Path, kind: GpuStructure) -> None:
    """Filters that few, many and all vectors pass; 20 queries share one, so that its vectors are copied to the GPUs."""
    write_exact(tmp_path / "v.faiss", [clustered(20_000, width=64)], 64, "float32")
    exact = ExactVectors.open(tmp_path / "v.faiss")
    index = GpuIndex.open(kind, exact, list(range(num_gpus())), temporary_bytes=2**20, exact_allowed=5000)
    rng = np.random.default_rng(0)
    shared = np.sort(rng.choice(20_000, 4000, replace=False))
    allowed_Q = [shared if n < 20 else rng.random(20_000) < rng.choice([0.01, 0.5, 0.9]) for n in range(49)] + [None]

    scores_QK, found_QK = index.search_each(QUERIES, 10, allowed_Q, SearchParameters(probes=64, rerank=100))

    for query, allowed in enumerate(allowed_Q):
        expected_scores_1K, expected_1K = exact.search(QUERIES[query : query + 1], 10, allowed)
        assert overlap(found_QK[query : query + 1], expected_1K) >= LEAST_RECALL[kind] - 0.2
        if kind is GpuStructure.FLAT or query < 20:
            np.testing.assert_allclose(scores_QK[query], expected_scores_1K[0], atol=1e-6)
    index.close()


def test_gpus_beyond_the_number_of_vectors_stay_idle(tmp_path: Path) -> None:
    write_exact(tmp_path / "v.faiss", [clustered(1, width=64)], 64, "float32")
    index = GpuIndex.open(GpuStructure.FLAT, ExactVectors.open(tmp_path / "v.faiss"), list(range(num_gpus())))
    assert index.search(QUERIES, 10)[1].tolist() == [[0]] * len(QUERIES)
    index.close()


def test_structure_that_faiss_fails_to_build_is_named(tmp_path: Path) -> None:
    write_exact(tmp_path / "v.faiss", [clustered(200, width=64)], 64, "float32")
    with pytest.raises(InvalidStructureError, match=r"ivf-pq cannot be built over 200 vectors on GPUs \[0\]: "):
        GpuIndex.open(GpuStructure.IVF_PQ, ExactVectors.open(tmp_path / "v.faiss"), [0])


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    """20,000 keys, folded on a machine with GPUs as `auto` does it."""
    encoder = EncoderFacts(name="drawn", fingerprint="sha256:drawn", width=64, fusion="raw")
    create_index(tmp_path / "i", encoder)
    with FaissIndex.open(tmp_path / "i", writable=True, compact_after=0, fold_device="auto") as index:
        index.upsert([NewKey(f"k{n}", vector_D, "text") for n, vector_D in enumerate(clustered(20_000, width=64))])
        index.compact()
    return tmp_path / "i"


def keys(index: FaissIndex, exact: bool = False) -> list[list[str]]:
    return [[hit.key for hit in hits] for hits in index.search(QUERIES, 10, exact=exact)]


def test_what_gpus_search_with_is_chosen_measured_and_opened(index_dir: Path) -> None:
    with FaissIndex.open(index_dir) as on_cpu:
        facts, expected = on_cpu.manifest.structure, keys(on_cpu, exact=True)
    assert facts is not None
    assert facts.gpu is not None
    assert facts.gpu.num_gpus == num_gpus()
    assert {candidate.factory for candidate in facts.gpu.candidates} == set(GpuStructure)
    assert [candidate.skipped for candidate in facts.gpu.candidates] == [None] * 3
    with FaissIndex.open(index_dir, device="auto", gpu_memory_bytes=64 * 2**20) as on_gpu:
        found = keys(on_gpu)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)])
    assert recall >= facts.gpu.measured.recall_at_10 - 0.05


def test_encoder_and_index_share_a_gpu(index_dir: Path) -> None:
    torch = pytest.importorskip("torch")
    with FaissIndex.open(index_dir, device="cuda:0", gpu_memory_bytes=64 * 2**20) as index:
        expected = keys(index)
        for _ in range(20):  # in turns, as the service does
            weights = torch.randn(2048, 2048, device="cuda:0")
            assert torch.isfinite(weights @ weights).all()
            assert keys(index) == expected


def test_lists_trained_on_gpus_are_searched_on_the_cpu(tmp_path: Path) -> None:
    write_exact(tmp_path / "v.faiss", [clustered(20_000, width=64)], 64, "float32")
    exact = ExactVectors.open(tmp_path / "v.faiss")
    clustering = clustering_on(GpuUse((0,)))
    assert clustering is not None
    index = ApproximateIndex.build("IVF128,PQ16x4fs", exact, tmp_path / "s.faiss", clustering=clustering)
    found_QK = index.search(QUERIES, 10, parameters=SearchParameters(probes=64, rerank=200))[1]
    assert overlap(found_QK, exact.search(QUERIES, 10)[1]) >= 0.95
