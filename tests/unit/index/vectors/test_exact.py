"""Exact vectors: what sorting all scores gives, from a mapped file that FAISS itself would have written.

Shape legend: Q = queries, D = width, N = vectors, P = positions.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.index.errors import IndexCorruptError
from anykey.index.vectors.exact import DECODED_BYTES, ExactVectors, VectorType, write_exact
from tests.unit.index.drawn_vectors import clustered, written

WIDTH = 16
TYPES: list[VectorType] = ["float32", "float16"]


def unit_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    return clustered(count, WIDTH, clusters=3, seed=seed)


def best(
    vectors_ND: NDArray[np.float32], query_D: NDArray[np.float32], k: int, positions_P: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The slow twin: all scores, sorted; equal ones by position."""
    scores_P = vectors_ND[positions_P].astype(np.float64) @ query_D.astype(np.float64)
    return positions_P[np.argsort(-scores_P, kind="stable")[:k]]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [0, 1, 100])
def test_file_is_what_faiss_itself_writes(tmp_path: Path, dtype: VectorType, count: int) -> None:
    vectors_ND = unit_vectors(count).astype(dtype).astype(np.float32)  # FAISS rounds halves another way
    index = faiss.IndexFlatIP(WIDTH)
    if dtype == "float16":
        index = faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors_ND)
    faiss.write_index(index, str(tmp_path / "by_faiss"))

    assert write_exact(tmp_path / "ours", np.array_split(vectors_ND, 3), WIDTH, dtype) == count

    assert (tmp_path / "ours").read_bytes() == (tmp_path / "by_faiss").read_bytes()


def test_file_shows_its_facts(tmp_path: Path) -> None:
    vectors = written(tmp_path / "v.faiss", unit_vectors(10), "float16")

    assert (vectors.num_vectors, vectors.width, vectors.dtype, vectors.num_bytes) == (10, WIDTH, "float16", 320)


def test_batch_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected vectors \[B, 8\], got \[3, 16\]"):
        write_exact(tmp_path / "v.faiss", [unit_vectors(3)], 8, "float32")


@pytest.mark.parametrize("dtype", TYPES)
def test_vectors_come_back_as_they_are_held(tmp_path: Path, dtype: VectorType) -> None:
    vectors_ND = unit_vectors(20)
    vectors = written(tmp_path / "v.faiss", vectors_ND, dtype)

    np.testing.assert_array_equal(vectors.vectors([7, 0, 7]), vectors_ND.astype(dtype).astype("f4")[[7, 0, 7]])
    assert vectors.vectors([]).shape == (0, WIDTH)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_vectors=st.sampled_from([80, 5000]),  # the more are compared with 64 queries in two blocks
    num_queries=st.sampled_from([1, 3, 70]),  # FAISS takes a matrix product from two on, and we at most 64 at once
    k=st.integers(1, 90),
    share=st.sampled_from([None, 0.0, 0.001, 0.05, 0.5, 1.0]),  # few enough to be copied out, or not
    as_mask=st.booleans(),
)
def test_search_gives_what_sorting_all_scores_gives(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: VectorType,
    seed: int,
    num_vectors: int,
    num_queries: int,
    k: int,
    share: float | None,
    as_mask: bool,
) -> None:
    vectors_ND = unit_vectors(num_vectors, seed).astype(dtype).astype(np.float32)
    queries_QD = unit_vectors(num_queries, seed + 1)
    mask_N = np.random.default_rng(seed).random(num_vectors) < (1.0 if share is None else share)
    positions_P = np.flatnonzero(mask_N)
    vectors = written(tmp_path_factory.mktemp("exact") / "v.faiss", vectors_ND, dtype)
    allowed = None if share is None else mask_N if as_mask else positions_P

    scores_QK, found_QK = vectors.search(queries_QD, k, allowed)

    assert found_QK.shape == scores_QK.shape == (num_queries, min(k, len(positions_P)))
    for query_D, scores_K, found_K in zip(queries_QD, scores_QK, found_QK, strict=True):
        np.testing.assert_allclose(scores_K, vectors_ND[found_K] @ query_D, atol=1e-6)
        expected_K = best(vectors_ND, query_D, k, positions_P)
        np.testing.assert_allclose(scores_K, vectors_ND[expected_K] @ query_D, atol=1e-6)
        assert len(set(found_K.tolist())) == len(found_K)


@pytest.mark.parametrize(("dtype", "num_queries"), [("float32", 1), ("float32", 64), ("float16", 1)])
@pytest.mark.parametrize("allowed", [None, np.arange(2, 4990), np.arange(2, 6)])
def test_equal_scores_come_in_the_order_of_positions_where_k_cuts_them(
    tmp_path: Path, dtype: VectorType, num_queries: int, allowed: NDArray[np.int64] | None
) -> None:
    vectors = written(tmp_path / "v.faiss", np.repeat(unit_vectors(1), 5000, axis=0), dtype)

    for k in (1, 3, 4):
        _, found_QK = vectors.search(np.repeat(unit_vectors(1), num_queries, axis=0), k, allowed)
        start = 0 if allowed is None else 2
        assert found_QK.tolist() == [list(range(start, start + k))] * num_queries


def test_nothing_allowed_and_no_query_give_nothing(tmp_path: Path) -> None:
    vectors = written(tmp_path / "v.faiss", unit_vectors(5))

    assert vectors.search(unit_vectors(2), 3, np.zeros(5, dtype=np.bool_))[1].shape == (2, 0)
    assert vectors.search(unit_vectors(0), 3)[1].shape == (0, 3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_positions", [4, DECODED_BYTES // (4 * WIDTH * 2)])  # all queries at once; two at a time
def test_scores_of_positions_are_inner_products(tmp_path: Path, dtype: VectorType, num_positions: int) -> None:
    vectors_ND, queries_QD = unit_vectors(30), unit_vectors(5, seed=1)
    positions_QK = np.random.default_rng(2).integers(0, 30, (5, num_positions))
    positions_QK[2, 1] = -1
    vectors = written(tmp_path / "v.faiss", vectors_ND, dtype)

    scores_QK = vectors.scores_of(queries_QD, positions_QK)

    expected_QK = np.einsum("qd,qkd->qk", queries_QD, vectors_ND.astype(dtype).astype("f4")[positions_QK])
    expected_QK[2, 1] = -np.inf
    np.testing.assert_allclose(scores_QK, expected_QK, atol=1e-6)


def test_threads_get_the_answers_they_get_alone(tmp_path: Path) -> None:
    vectors, queries_QD = written(tmp_path / "v.faiss", unit_vectors(500)), unit_vectors(8, seed=1)
    allowed = [np.flatnonzero(np.random.default_rng(seed).random(500) < 0.2) for seed in range(8)]
    expected = [vectors.search(queries_QD[i : i + 1], 5, allowed[i])[1].tolist() for i in range(8)]
    start = threading.Barrier(8)

    def work(i: int) -> bool:
        start.wait()
        return all(vectors.search(queries_QD[i : i + 1], 5, allowed[i])[1].tolist() == expected[i] for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "cut header", "kind", "count", "length", "metric"])
def test_damaged_file_is_named(tmp_path: Path, dtype: VectorType, damage: str) -> None:
    path = tmp_path / "v.faiss"
    write_exact(path, [unit_vectors(50)], WIDTH, dtype)
    data = path.read_bytes()
    header = len(data) - 50 * WIDTH * np.dtype(dtype).itemsize
    huge = (2**62).to_bytes(8, "little")
    damaged = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "cut header": data[:20],
        "kind": b"XXXX" + data[4:],
        "count": data[:8] + (49).to_bytes(8, "little") + data[16:],
        "length": data[: header - 8] + huge + data[header:],
        "metric": data[:33] + (1).to_bytes(4, "little") + data[37:],
    }
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])

    with pytest.raises(IndexCorruptError, match=r"v\.faiss") as caught:
        ExactVectors.open(path)
    assert caught.value.path == path


def test_file_of_another_structure_is_refused(tmp_path: Path) -> None:
    index = faiss.index_factory(WIDTH, "HNSW8", faiss.METRIC_INNER_PRODUCT)
    faiss.write_index(index, str(tmp_path / "v.faiss"))

    with pytest.raises(IndexCorruptError, match="expected exact vectors under the inner product, got IndexHNSWFlat"):
        ExactVectors.open(tmp_path / "v.faiss")


@pytest.mark.parametrize("num_queries", [1, 70])
def test_scores_are_those_of_faiss_to_the_last_bit(tmp_path: Path, num_queries: int) -> None:
    vectors = written(tmp_path / "v.faiss", unit_vectors(1_000))
    queries_QD = unit_vectors(num_queries, seed=1)
    positions_P = np.arange(3, 1_000, 2)
    parameters = faiss.SearchParameters(sel=faiss.IDSelectorArray(positions_P))  # type: ignore[call-arg]

    expected_QK, _ = vectors.structure.search(queries_QD, 10, params=parameters)

    np.testing.assert_array_equal(vectors.search(queries_QD, 10, positions_P)[0], expected_QK)
