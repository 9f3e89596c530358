"""Search on GPUs, as far as it goes without one: devices, joining of parts, filters; nothing breaks without a GPU.

The parts are structures for CPUs here; `tests/gpu` has the real ones.
"""

import itertools
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.index.deadline import Deadline
from anykey.index.errors import DeadlineExceededError, InvalidStructureError
from anykey.index.vectors.exact import Allowed, ExactVectors, Found
from anykey.index.vectors.gpu import MOST_RESULTS, Compare, GpuIndex, Part, _template
from anykey.index.vectors.structure_facts import GpuStructure, SearchParameters
from anykey.index.vectors.structures import MIN_RERANK_PER_RESULT, gpus_of, num_gpus
from tests.unit.index.drawn_vectors import clustered, overlap, written

VECTORS = clustered(600)
QUERIES = clustered(10, seed=1)
without_gpu = pytest.mark.skipif(num_gpus() > 0, reason="says what happens without a GPU")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExactVectors:
    return written(tmp_path_factory.mktemp("exact") / "v.faiss", VECTORS)


def compare_on_cpu(queries_QD: NDArray[np.float32], vectors_PD: NDArray[np.float32], k: int) -> Found:
    """What a GPU does with vectors that are copied to it."""
    scores_QK, places_QK = faiss.knn(queries_QD, vectors_PD, k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores_QK, places_QK


def in_parts(exact: ExactVectors, bounds: list[int], **options: Any) -> GpuIndex:
    """Structures for CPUs, which are asked also where few vectors are allowed."""
    parts, compare = [], options.pop("compare", None)
    for first, end in itertools.pairwise(bounds):
        structure = faiss.IndexFlatIP(exact.width)
        structure.add(exact.vectors(np.arange(first, end)))
        parts.append(Part(first, structure, compare=compare))
    return GpuIndex(parts, exact, is_exact=True, **{"exact_allowed": 0, **options})


def coarse(exact: ExactVectors, **options: Any) -> GpuIndex:
    """A structure that tells so little that what it finds is known from what comparing one by one finds."""
    structure = faiss.index_factory(exact.width, "PQ1x4np", faiss.METRIC_INNER_PRODUCT)
    vectors_ND = exact.vectors(np.arange(exact.num_vectors))
    structure.train(vectors_ND)
    structure.add(vectors_ND)
    return GpuIndex([Part(0, structure)], exact, is_exact=False, **options)


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
def test_devices_mean_gpus(device: str, gpus: list[int]) -> None:
    assert gpus_of(device, available=2) == gpus


def test_gpus_beyond_those_there_are_are_refused() -> None:
    with pytest.raises(InvalidStructureError, match="device 'cuda:2': FAISS finds 2 GPUs"):
        gpus_of("cuda:2", available=2)


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


def test_codes_are_not_trained_for_what_gpus_cannot_do(exact: ExactVectors) -> None:
    template = _template(GpuStructure.IVF_PQ, exact)
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


def test_more_than_a_gpu_can_give_comes_from_the_cpu(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", clustered(3000))
    index = coarse(exact)
    few, many = MOST_RESULTS // MIN_RERANK_PER_RESULT, MOST_RESULTS // MIN_RERANK_PER_RESULT + 1
    assert overlap(index.search(QUERIES, few)[1], exact.search(QUERIES, few)[1]) < 1
    np.testing.assert_array_equal(index.search(QUERIES, many)[1], exact.search(QUERIES, many)[1])
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


def test_few_allowed_vectors_are_compared_one_by_one(exact: ExactVectors) -> None:
    index = coarse(exact, exact_allowed=60)
    every_tenth = np.arange(0, 600, 10)

    np.testing.assert_array_equal(index.search(QUERIES, 5, every_tenth)[1], exact.search(QUERIES, 5, every_tenth)[1])
    assert overlap(index.search(QUERIES, 5)[1], exact.search(QUERIES, 5)[1]) < 0.9
    index.close()


def expected_each(exact: ExactVectors, queries_QD: NDArray[np.float32], k: int, allowed_Q: list[Allowed]) -> Found:
    """The slow twin: each query alone, with its filter."""
    scores_QK = np.full((len(queries_QD), k), -np.inf, np.float32)
    positions_QK = np.full((len(queries_QD), k), -1, np.int64)
    for query, allowed in enumerate(allowed_Q):
        scores_1K, positions_1K = exact.search(queries_QD[query : query + 1], k, allowed)
        scores_QK[query, : scores_1K.shape[1]] = scores_1K[0]
        positions_QK[query, : positions_1K.shape[1]] = positions_1K[0]
    return scores_QK, positions_QK


filters = st.lists(st.tuples(st.sampled_from([None, 0.0, 0.01, 0.1, 0.5, 1.0]), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bounds=st.sampled_from([[0, 600], [0, 300, 600], [0, 7, 9, 600]]),
    k=st.integers(1, 40),
    filters=filters,
    chosen_Q=st.lists(st.integers(0, 3), max_size=60),
    exact_allowed=st.sampled_from([0, 70, 1000]),
    rows_at_once=st.sampled_from([5, 90, 10_000]),
    compare=st.sampled_from([None, compare_on_cpu]),
)
@example([0, 7, 9, 600], 1, [(0.0, False), (0.0, False), (0.1, False)], [2, 0], 0, 5, None)  # a small part's only
def test_each_query_of_a_batch_gets_what_it_gets_alone(
    exact: ExactVectors,
    bounds: list[int],
    k: int,
    filters: list[tuple[float | None, bool]],
    chosen_Q: list[int],
    exact_allowed: int,
    rows_at_once: int,
    compare: Compare | None,
) -> None:
    rng = np.random.default_rng(len(chosen_Q))
    masks = [None if share is None else rng.random(600) < share for share, _ in filters]
    allowed = [
        mask if mask is None or as_mask else np.flatnonzero(mask)
        for mask, (_, as_mask) in zip(masks, filters, strict=True)
    ]
    allowed_Q = [allowed[number % len(allowed)] for number in chosen_Q]
    queries_QD = clustered(len(chosen_Q), seed=k)
    temporary_bytes = rows_at_once * 2 * 4 * exact.width
    index = in_parts(exact, bounds, exact_allowed=exact_allowed, temporary_bytes=temporary_bytes, compare=compare)

    scores_QK, found_QK = index.search_each(queries_QD, k, allowed_Q)

    expected_scores_QK, expected_QK = expected_each(exact, queries_QD, k, allowed_Q)
    np.testing.assert_array_equal(found_QK, expected_QK)
    np.testing.assert_allclose(scores_QK, expected_scores_QK, atol=1e-6)
    index.close()


def test_queries_with_one_filter_share_the_work(exact: ExactVectors) -> None:
    compared: list[tuple[int, int]] = []

    def compare(queries_QD: NDArray[np.float32], vectors_PD: NDArray[np.float32], k: int) -> Found:
        compared.append((len(queries_QD), len(vectors_PD)))
        return compare_on_cpu(queries_QD, vectors_PD, k)

    index = in_parts(exact, [0, 600], exact_allowed=100, temporary_bytes=2 * 4 * exact.width * 40, compare=compare)
    tens, others = np.arange(0, 600, 10), np.arange(5, 600, 10)
    allowed_Q = [(tens, tens.copy(), others)[number % 3] for number in range(30)]

    index.search_each(clustered(30), 5, allowed_Q)
    assert compared == [(20, 40), (20, 20), (10, 40), (10, 20)]  # 40 vectors are copied at once

    compared.clear()
    index.search_each(clustered(30), 5, [None, *[np.arange(number, 600, 10) for number in range(10)], *[None] * 19])
    assert compared == []  # too few queries of each to copy vectors for
    index.close()


def test_queries_ask_structures_together_whatever_their_filters(exact: ExactVectors) -> None:
    structure = faiss.IndexIVFFlat(faiss.IndexFlatIP(exact.width), exact.width, 4, faiss.METRIC_INNER_PRODUCT)
    structure.train(VECTORS)
    structure.add(VECTORS)
    index = GpuIndex([Part(0, structure)], exact, is_exact=False, exact_allowed=0)
    rng = np.random.default_rng(0)
    allowed_Q = [None if number % 4 == 0 else rng.random(600) < 0.5 for number in range(40)]
    faiss.cvar.indexIVF_stats.reset()

    index.search_each(clustered(40), 10, allowed_Q, SearchParameters(probes=4))

    assert faiss.cvar.indexIVF_stats.nq == 40  # each query once
    index.close()


def test_batch_stops_soon_after_its_deadline(exact: ExactVectors) -> None:
    index = in_parts(
        exact, [0, 600], exact_allowed=1000, temporary_bytes=2 * 4 * exact.width * 10, compare=compare_on_cpu
    )
    with pytest.raises(DeadlineExceededError):
        index.search_each(clustered(20), 5, [np.arange(100)] * 20, deadline=Deadline(0))
    index.close()


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
