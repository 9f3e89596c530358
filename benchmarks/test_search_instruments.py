"""The instruments of the measurement of search: what is drawn, and what is counted.

Shape legend: N = vectors, D = width.
"""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_speed import ClusteredVectors, measure, overlap


def test_vectors_are_of_unit_norm_and_come_in_batches() -> None:
    batches = list(ClusteredVectors(1000, 32).batches(1000, batch_size=300))

    assert [len(vectors_BD) for vectors_BD in batches] == [300, 300, 300, 100]
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(batches), axis=1), 1, atol=1e-5)


def test_vectors_lie_in_clusters() -> None:
    vectors_ND = ClusteredVectors(1000, 64).draw(1000)
    scores_NN = vectors_ND @ vectors_ND.T
    np.fill_diagonal(scores_NN, -1)
    falling_NN = -np.sort(-scores_NN, axis=1)
    # Four clusters: a vector is near a quarter of the others and far from the rest.
    assert falling_NN[:, 100].mean() > 0.5
    assert falling_NN[:, 500].mean() < 0.4


def test_overlap_is_the_share_that_was_found() -> None:
    assert overlap(np.asarray([[1, 2], [3, 4]]), np.asarray([[2, 1], [3, 5]])) == 0.75


@pytest.mark.parametrize(("num_vectors", "factory"), [(2000, None), (2000, "IVF32,PQ16x4fs")])
def test_the_whole_measurement_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_vectors: int, factory: str | None
) -> None:
    arguments = argparse.Namespace(
        num_vectors=num_vectors, width=32, dtype="float16", memory=None, recall="0.9", latency=None, factory=factory
    )
    measure(arguments, tmp_path)
    out = capsys.readouterr().out
    assert "recall@10, @100" in out
    assert ("throughput over exact search" in out) == (factory is not None)
