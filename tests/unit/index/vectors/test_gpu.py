"""Search on GPUs, as far as it goes without one: devices, joining of parts, filters; nothing breaks without a GPU.

The parts are structures for CPUs here; `tests/gpu` has the real ones.
"""

import itertools
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.index.errors import InvalidStructureError
from anykey.index.vectors import gpu
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.gpu import GpuIndex, Part, gpus_of, num_gpus
from anykey.index.vectors.structure_facts import GpuStructure, SearchParameters
from tests.unit.index.drawn_vectors import clustered, overlap, written

VECTORS = clustered(600)
QUERIES = clustered(10, seed=1)
without_gpu = pytest.mark.skipif(num_gpus() > 0, reason="says what happens without a GPU")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExactVectors:
    return written(tmp_path_factory.mktemp("exact") / "v.faiss", VECTORS)


@pytest.fixture(autouse=True)
def filters_are_searched_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "EXACT_ALLOWED", 0)


def in_parts(exact: ExactVectors, bounds: list[int]) -> GpuIndex:
    parts = []
    for first, end in itertools.pairwise(bounds):
        structure = faiss.IndexFlatIP(exact.width)
        structure.add(VECTORS[first:end])
        parts.append(Part(first, structure))
    return GpuIndex(parts, exact, is_exact=True)


@without_gpu
def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert gpus_of("auto") == gpus_of("cpu") == []


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1,3"])
def test_gpu_that_is_not_there_is_said(device: str) -> None:
    with pytest.raises(InvalidStructureError, match=f"device '{device}': FAISS finds no GPU"):
        gpus_of(device)


@pytest.mark.parametrize(
    ("device", "gpus"), [("auto", [0, 1]), ("cuda", [0, 1]), ("cuda:1", [1]), ("cuda:1,0", [0, 1])]
)
def test_devices_mean_gpus(monkeypatch: pytest.MonkeyPatch, device: str, gpus: list[int]) -> None:
    monkeypatch.setattr(gpu, "num_gpus", lambda: 2)
    assert gpus_of(device) == gpus
    with pytest.raises(InvalidStructureError, match="device 'cuda:2': FAISS finds 2 GPUs"):
        gpus_of("cuda:2")


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidStructureError, match="expected a device such as auto, cpu"):
        gpus_of(device)


@without_gpu
@pytest.mark.parametrize("kind", GpuStructure)
def test_opening_without_a_gpu_is_refused(exact: ExactVectors, kind: GpuStructure) -> None:
    for gpus in ([], [0]):
        with pytest.raises(InvalidStructureError, match="FAISS finds 0"):
            GpuIndex.open(kind, exact, gpus)


def test_gpus_beyond_the_number_of_vectors_stay_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(
        StandardGpuResources=lambda: SimpleNamespace(setTempMemory=lambda num_bytes: None),
        GpuClonerOptions=SimpleNamespace,
        index_cpu_to_gpu=lambda resources, gpu, structure, options: faiss.clone_index(structure),
    )
    monkeypatch.setattr(gpu, "_faiss", stand_in)
    monkeypatch.setattr(gpu, "num_gpus", lambda: 8)
    few = written(tmp_path / "v.faiss", VECTORS[:3])

    index = GpuIndex.open(GpuStructure.FLAT, few, list(range(8)))

    np.testing.assert_array_equal(index.search(QUERIES, 10)[1], few.search(QUERIES, 10)[1])
    index.close()


def test_structure_that_faiss_fails_to_build_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "num_gpus", lambda: 1)
    few = written(tmp_path / "v.faiss", VECTORS[:200])
    with pytest.raises(InvalidStructureError, match=r"ivf-pq cannot be built over 200 vectors on GPUs \[0\]: "):
        GpuIndex.open(GpuStructure.IVF_PQ, few, [0])


def test_codes_are_not_trained_for_what_gpus_cannot_do(exact: ExactVectors) -> None:
    template = gpu._template(GpuStructure.IVF_PQ, exact)
    assert (template.is_trained, template.ntotal, template.by_residual) == (True, 0, True)
    assert not template.do_polysemous_training


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bounds=st.sampled_from([[0, 600], [0, 300, 600], [0, 7, 9, 600]]),
    k=st.integers(1, 620),
    share=st.sampled_from([None, 0.0, 0.01, 0.3, 1.0]),
    as_mask=st.booleans(),
)
def test_parts_together_give_what_exact_search_gives(
    exact: ExactVectors, bounds: list[int], k: int, share: float | None, as_mask: bool
) -> None:
    mask_N = np.random.default_rng(0).random(600) < (share or 0)
    allowed = None if share is None else mask_N if as_mask else np.flatnonzero(mask_N)
    index = in_parts(exact, bounds)

    scores_QK, found_QK = index.search(QUERIES, k, allowed)

    expected = exact.search(QUERIES, k, allowed)
    np.testing.assert_allclose(scores_QK, expected[0], atol=1e-6)
    np.testing.assert_array_equal(found_QK, expected[1])
    index.close()


def test_more_than_a_gpu_can_give_comes_from_the_cpu(exact: ExactVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MOST_RESULTS", 10)
    index = in_parts(exact, [0, 600])
    np.testing.assert_array_equal(index.search(QUERIES, 30)[1], exact.search(QUERIES, 30)[1])
    index.close()


def test_unsure_structures_are_ranked_by_exact_scores(exact: ExactVectors, tmp_path: Path) -> None:
    structure = faiss.index_factory(16, "SQ4", faiss.METRIC_INNER_PRODUCT)
    structure.train(VECTORS)
    structure.add(VECTORS)
    index = GpuIndex([Part(0, structure)], exact, is_exact=False)

    scores_QK, found_QK = index.search(QUERIES, 10, parameters=SearchParameters(rerank=100))

    assert overlap(found_QK, exact.search(QUERIES, 10)[1]) >= 0.98
    np.testing.assert_allclose(scores_QK, exact.scores_of(QUERIES, found_QK), atol=1e-6)
    index.close()


def test_few_allowed_vectors_are_compared_one_by_one(exact: ExactVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "EXACT_ALLOWED", 60)
    coarse = faiss.index_factory(16, "PQ1x4np", faiss.METRIC_INNER_PRODUCT)
    coarse.train(VECTORS)
    coarse.add(VECTORS)
    index = GpuIndex([Part(0, coarse)], exact, is_exact=False)
    every_tenth = np.arange(0, 600, 10)

    np.testing.assert_array_equal(index.search(QUERIES, 5, every_tenth)[1], exact.search(QUERIES, 5, every_tenth)[1])
    assert overlap(index.search(QUERIES, 5)[1], exact.search(QUERIES, 5)[1]) < 0.9
    index.close()


def test_lists_are_trained_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spread(resources: list[object], structure: object, gpus: list[int]) -> tuple[int, list[int]]:
        return len(resources), gpus

    stand_in = SimpleNamespace(
        StandardGpuResources=lambda: SimpleNamespace(setTempMemory=asked.append), index_cpu_to_gpu_multiple_py=spread
    )
    monkeypatch.setattr(gpu, "_faiss", stand_in)
    monkeypatch.setattr(gpu, "num_gpus", lambda: 4)

    clustering = gpu.clustering_on(gpu.GpuUse((1, 3), temporary_bytes=7))

    assert clustering is not None
    assert clustering(16) == (2, [1, 3])
    assert asked == [7, 7]


@pytest.mark.parametrize(("factory", "is_graph"), [("HNSW8", True), ("IVF16,SQ8", False), ("Flat", False)])
def test_queue_of_a_graph_holds_all_candidates(exact: ExactVectors, factory: str, is_graph: bool) -> None:
    structure = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    structure.train(VECTORS)
    structure.add(VECTORS)
    index = GpuIndex([Part(0, structure)], exact, is_exact=factory == "Flat")

    found = [
        index.as_searched(SearchParameters(probes=probes, rerank=rerank), 10).probes
        for probes, rerank in ((1, 0), (43, 0), (1, 100), (200, 100))
    ]

    assert found == ([40, 43, 100, 200] if is_graph else [1, 43, 1, 200])
    index.close()
