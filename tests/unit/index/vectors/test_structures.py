"""Approximate search: near what exact search gives, with exact scores, filters, and as many results as there are.

Shape legend: Q = queries, D = width, N = vectors, K = results per query.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.index.errors import IndexCorruptError, InvalidStructureError, UntrainableError
from anykey.index.vectors.exact import ExactVectors, VectorType
from anykey.index.vectors.structure_facts import SearchParameters
from anykey.index.vectors.structures import ApproximateIndex
from tests.unit.index.drawn_vectors import clustered, overlap, written

WIDTH = 16
NUM_VECTORS = 2000
FACTORIES = [
    "HNSW16",
    "HNSW16,SQ8",
    "IVF32,PQ8x4fs",
    "IVF32_HNSW8,PQ8x4fs",
    "IVF32,RaBitQfs",
    "IVF32,RaBitQ",
    "IVF32,SQ8",
    "IVF32,Flat",
    "PCA12,IVF32,SQ8",
    "SQ8",
    "RaBitQ",
]
WIDE = SearchParameters(probes=32, rerank=400)
EXACT_ALLOWED = 50
VECTORS = clustered(NUM_VECTORS)
QUERIES = clustered(20, seed=1)


def build(factory: str, exact: ExactVectors, path: Path, **options: Any) -> ApproximateIndex:
    """A structure that is asked also where few vectors are allowed."""
    return ApproximateIndex.build(factory, exact, path, exact_allowed=EXACT_ALLOWED, **options)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExactVectors:
    return written(tmp_path_factory.mktemp("exact") / "v.faiss", VECTORS)


@pytest.fixture(scope="module", params=FACTORIES)
def index(request: pytest.FixtureRequest, exact: ExactVectors, tmp_path_factory: pytest.TempPathFactory) -> object:
    path = tmp_path_factory.mktemp("structure") / "a.faiss"
    build(request.param, exact, path)
    return ApproximateIndex.open(path, exact, WIDE, EXACT_ALLOWED)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_nearly_all_that_exact_search_finds_is_found(index: ApproximateIndex, share: float) -> None:
    allowed_N = np.random.default_rng(0).random(NUM_VECTORS) < share

    _, found_QK = index.search(QUERIES, 10, None if share == 1 else allowed_N)

    assert overlap(found_QK, index.exact.search(QUERIES, 10, allowed_N)[1]) >= 0.95
    assert allowed_N[found_QK].all() or share == 1


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(1, NUM_VECTORS + 10),
    share=st.sampled_from([None, 0.0, 0.01, 0.04, 0.3, 1.0]),
    as_mask=st.booleans(),
    probes=st.integers(1, 40),
    effort=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 100),
)
def test_results_are_allowed_distinct_ordered_complete_and_exactly_scored(
    index: ApproximateIndex, k: int, share: float | None, as_mask: bool, probes: int, effort: float, seed: int
) -> None:
    mask_N = np.random.default_rng(seed).random(NUM_VECTORS) < (1.0 if share is None else share)
    allowed = None if share is None else mask_N if as_mask else np.flatnonzero(mask_N)

    scores_QK, found_QK = index.search(QUERIES[:3], k, allowed, effort, SearchParameters(probes=probes, rerank=20))

    assert found_QK.shape == scores_QK.shape == (3, min(k, int(mask_N.sum())))
    for query_D, scores_K, found_K in zip(QUERIES, scores_QK, found_QK, strict=False):
        assert mask_N[found_K].all()
        assert len(set(found_K.tolist())) == len(found_K)
        np.testing.assert_allclose(scores_K, VECTORS[found_K] @ query_D, atol=1e-6)
        assert list(zip(-scores_K, found_K, strict=True)) == sorted(zip(-scores_K, found_K, strict=True))


def test_more_effort_finds_more(exact: ExactVectors, tmp_path: Path) -> None:
    index = build("IVF32,RaBitQfs", exact, tmp_path / "a.faiss")
    expected_QK = exact.search(QUERIES, 10)[1]

    recalls = [overlap(index.search(QUERIES, 10, effort=effort)[1], expected_QK) for effort in (1, 4, 32)]

    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[2]


def test_search_from_several_threads_is_as_from_one(index: ApproximateIndex) -> None:
    efforts = [0.1, 0.2, 0.5, 1.0] * 2
    masks = [None, np.random.default_rng(0).random(NUM_VECTORS) < 0.3] * 4
    expected = [index.search(QUERIES, 5, masks[i], efforts[i])[1].tolist() for i in range(8)]
    start = threading.Barrier(8)

    def work(i: int) -> bool:
        start.wait()
        return all(index.search(QUERIES, 5, masks[i], efforts[i])[1].tolist() == expected[i] for _ in range(5))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_graph_keeps_no_copy_of_the_vectors(tmp_path: Path, dtype: VectorType) -> None:
    exact = written(tmp_path / "v.faiss", clustered(1000, width=128), dtype)
    index = build("HNSW8", exact, tmp_path / "a.faiss")

    assert index.walks_exact
    assert os.path.getsize(tmp_path / "a.faiss") < 1000 * 128
    opened = ApproximateIndex.open(tmp_path / "a.faiss", exact, WIDE, EXACT_ALLOWED)
    queries_QD = clustered(10, width=128, seed=1)
    assert overlap(opened.search(queries_QD, 5)[1], exact.search(queries_QD, 5)[1]) >= 0.9


def test_float16_vectors_rank_the_candidates(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", VECTORS, "float16")
    index = build("IVF32,PQ8x4fs", exact, tmp_path / "a.faiss")

    scores_QK, found_QK = index.search(QUERIES, 10, parameters=WIDE)

    assert overlap(found_QK, exact.search(QUERIES, 10)[1]) >= 0.95
    np.testing.assert_allclose(scores_QK, exact.scores_of(QUERIES, found_QK), atol=1e-6)


@pytest.mark.parametrize("factory", ["HNSW16", "IVF32,PQ8x4fs", "IVF32,RaBitQfs", "SQ8"])
@pytest.mark.parametrize("count", [1, 2, 40, 300])
def test_identical_vectors_are_all_found(tmp_path: Path, factory: str, count: int) -> None:
    exact = written(tmp_path / "v.faiss", np.repeat(QUERIES[:1], 300, axis=0))
    index = build(factory, exact, tmp_path / "a.faiss")

    scores_QK, found_QK = index.search(QUERIES[:1], count)

    assert len(set(found_QK[0].tolist())) == count
    assert found_QK[0].tolist() == sorted(found_QK[0].tolist())
    np.testing.assert_allclose(scores_QK, 1.0, atol=1e-6)


def test_one_vector_is_found(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", QUERIES[:1])
    for factory in ("HNSW16", "IVF1,SQ8", "SQ8"):
        index = build(factory, exact, tmp_path / "a.faiss")
        assert index.search(QUERIES[:2], 3)[1].tolist() == [[0], [0]]


def test_more_lists_than_vectors_is_said(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", QUERIES[:5])
    with pytest.raises(
        UntrainableError, match=r"'IVF32,SQ8' cannot be trained on 5 vectors: Number of training points"
    ):
        build("IVF32,SQ8", exact, tmp_path / "a.faiss")


def test_lists_may_be_as_many_as_vectors_whatever_memory_training_may_take(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", VECTORS[:100])
    build("IVF100,SQ8", exact, tmp_path / "a.faiss", train_bytes=4 * WIDTH * 50)
    with pytest.raises(UntrainableError):
        build("IVF101,SQ8", exact, tmp_path / "a.faiss", train_bytes=4 * WIDTH * 50)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("bogus", "FAISS has no structure 'bogus' for inner products of width 16"),
        ("", "FAISS has no structure '' for inner products"),
        ("IVF32,PQ7", "multiple of the number of subquantizers"),
        ("LSH", "FAISS has no structure 'LSH'"),
        ("HNSW16,PQ4", "does not rank by inner product"),
        ("Flat", "exact search needs no structure, ask for 'exact'"),
        ("IVF32,PQ8x4fs,RFlat", "leave the refinement out"),
        ("NSG16", "cannot filter it"),
        ("PQ8x4fs", "lists .* can be"),
        ("IDMap,SQ8", "cannot filter it"),
    ],
)
def test_structure_that_is_of_no_use_is_refused(exact: ExactVectors, tmp_path: Path, factory: str, reason: str) -> None:
    with pytest.raises(InvalidStructureError, match=reason):
        build(factory, exact, tmp_path / "a.faiss")


def test_lists_are_trained_once_for_several_structures(exact: ExactVectors, tmp_path: Path) -> None:
    first = build("IVF32,SQ8", exact, tmp_path / "a")
    second = build("IVF32,PQ8x4fs", exact, tmp_path / "b", centroids_CD=first.centroids())

    np.testing.assert_array_equal(first.centroids(), second.centroids())
    assert overlap(second.search(QUERIES, 10, parameters=WIDE)[1], exact.search(QUERIES, 10)[1]) >= 0.95


def test_same_seed_builds_the_same_file(exact: ExactVectors, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build("IVF32,PQ8x4fs", exact, tmp_path / name, seed=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_progress_counts_all_vectors(exact: ExactVectors, tmp_path: Path) -> None:
    counts: list[int] = []
    build("IVF32,SQ8", exact, tmp_path / "a.faiss", on_progress=counts.append, add_bytes=4 * WIDTH * 300)
    assert counts == [300] * 6 + [200]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "kind"])
@pytest.mark.parametrize("factory", ["HNSW16", "IVF32,PQ8x4fs"])
def test_damaged_file_is_named(exact: ExactVectors, tmp_path: Path, factory: str, damage: str) -> None:
    path = tmp_path / "a.faiss"
    build(factory, exact, path)
    data = path.read_bytes()
    damaged = {"empty": b"", "cut": data[: len(data) // 2], "kind": b"XXXX" + data[4:]}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])

    with pytest.raises(IndexCorruptError, match=r"a\.faiss") as caught:
        ApproximateIndex.open(path, exact)
    assert caught.value.path == path


def test_file_over_other_vectors_is_refused(exact: ExactVectors, tmp_path: Path) -> None:
    build("IVF32,SQ8", exact, tmp_path / "a.faiss")
    fewer = written(tmp_path / "v.faiss", VECTORS[:-1])

    with pytest.raises(IndexCorruptError, match="it is over 2000 vectors of width 16"):
        ApproximateIndex.open(tmp_path / "a.faiss", fewer)


def test_file_of_whole_vectors_is_refused_as_a_structure(exact: ExactVectors, tmp_path: Path) -> None:
    index = faiss.IndexFlatIP(WIDTH)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "a.faiss"))

    with pytest.raises(IndexCorruptError, match="no structure that searches"):
        ApproximateIndex.open(tmp_path / "a.faiss", exact)


def test_unwritable_place_is_an_os_error(exact: ExactVectors, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write"):
        build("SQ8", exact, tmp_path / "nowhere" / "a.faiss")


def test_a_graph_is_let_go_of_without_its_vectors(exact: ExactVectors, tmp_path: Path) -> None:
    before_PD = exact.vectors([0, 1])
    for _ in range(300):  # FAISS's Python types break down after some wrong changes of ownership
        index = build("HNSW4", small_graph_vectors(tmp_path), tmp_path / "a.faiss")
        index.search(QUERIES, 3)
        del index
    np.testing.assert_array_equal(exact.vectors([0, 1]), before_PD)


def small_graph_vectors(tmp_path: Path) -> ExactVectors:
    return written(tmp_path / "few.faiss", VECTORS[:60])


def test_a_graph_of_centres_finds_the_lists_that_comparing_all_of_them_finds(tmp_path: Path) -> None:
    queries_QD = clustered(200, width=64, seed=1)
    exact = written(tmp_path / "v.faiss", clustered(8_000, width=64))
    best_QK, narrow = exact.search(queries_QD, 10)[1], SearchParameters(probes=24, rerank=200)
    centroids_CD = None
    for codes in ("RaBitQfs", "SQ8"):  # which are told in two ways how to find their lists
        flat = build(f"IVF1024,{codes}", exact, tmp_path / "flat.faiss", centroids_CD=centroids_CD)
        centroids_CD = flat.centroids()
        graph = build(f"IVF1024_HNSW8,{codes}", exact, tmp_path / "g.faiss", centroids_CD=centroids_CD)

        recalls = [overlap(index.search(queries_QD, 10, parameters=narrow)[1], best_QK) for index in (flat, graph)]

        assert recalls[0] - recalls[1] < 0.01, codes


@pytest.mark.parametrize(
    ("factory", "expected"),
    [("HNSW8", [10, 10, 30]), ("HNSW8,SQ8", [40, 100, 40]), ("IVF32,SQ8", [1, 1, 30]), ("PCA8,IVF32,SQ8", [1, 1, 30])],
)
def test_queue_of_a_graph_holds_all_candidates(
    exact: ExactVectors, tmp_path: Path, factory: str, expected: list[int]
) -> None:
    index = build(factory, exact, tmp_path / "a.faiss")
    asked = [SearchParameters(probes=1), SearchParameters(probes=1, rerank=100), SearchParameters(probes=30)]

    searched = [index.as_searched(parameters, 10) for parameters in asked]

    assert [parameters.probes for parameters in searched] == expected
    for before, after in zip(asked, searched, strict=True):
        answers = [index.search(QUERIES, 10, parameters=parameters)[1].tolist() for parameters in (before, after)]
        assert answers[0] == answers[1]
