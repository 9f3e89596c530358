"""Which structures are proposed: those that FAISS can build, about as large as said, by size and memory."""

from pathlib import Path

import pytest

from anykey.index.publish.tuning.candidates import ALWAYS_EXACT_BELOW, CHEAP_GRAPH_BELOW, EXACT_BELOW, propose
from anykey.index.vectors.structure_facts import Targets
from anykey.index.vectors.structures import ApproximateIndex, make_structure
from tests.unit.index.drawn_vectors import clustered, written


def test_small_corpora_get_costly_structures_and_tiny_ones_none() -> None:
    assert all(proposal.is_costly for proposal in propose(EXACT_BELOW - 1, 512, 10**6, Targets()))
    assert not all(proposal.is_costly for proposal in propose(EXACT_BELOW, 512, 10**6, Targets()))
    assert propose(ALWAYS_EXACT_BELOW - 1, 512, 10**6, Targets()) == []


@pytest.mark.parametrize("width", [1, 7, 16, 100, 384, 512, 768])
@pytest.mark.parametrize("num_vectors", [ALWAYS_EXACT_BELOW, 10**6, 10**8])
def test_faiss_knows_all_proposals(width: int, num_vectors: int) -> None:
    for proposal in propose(num_vectors, width, 10**9, Targets(memory_bytes=10**8)):
        make_structure(proposal.factory, width)


def test_lists_grow_with_the_corpus() -> None:
    first = [propose(count, 512, 10**9, Targets())[0].factory for count in (20_000, 100_000, 10**6, 10**7)]
    assert first == ["IVF512,PQ256x4fs", "IVF1024,PQ256x4fs", "IVF4096,PQ256x4fs", "IVF16384_HNSW32,PQ256x4fs"]


def test_graphs_of_large_corpora_are_costly() -> None:
    small, large = (
        [proposal for proposal in propose(count, 512, 10**9, Targets()) if proposal.factory == "HNSW32"]
        for count in (CHEAP_GRAPH_BELOW - 1, CHEAP_GRAPH_BELOW)
    )
    assert ([p.is_costly for p in small], [p.is_costly for p in large]) == ([False], [True])


def test_a_bound_on_memory_proposes_smaller_codes() -> None:
    plain, bounded = (propose(10**6, 512, 10**9, Targets(memory_bytes=bound)) for bound in (None, 10**8))

    assert plain == bounded[: len(plain)]
    assert [proposal.factory for proposal in bounded[len(plain) :]] == ["IVF4096,PQ128x4fs", "IVF4096,PQ64x4fs"]
    assert min(proposal.memory_bytes for proposal in bounded) < 50 * 10**6


def test_memory_is_about_what_the_files_take(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", clustered(6_000, width=64))
    for proposal in propose(6_000, 64, exact.num_bytes, Targets(memory_bytes=10**9)):
        index = ApproximateIndex.build(proposal.factory, exact, tmp_path / "a.faiss")
        size = (tmp_path / "a.faiss").stat().st_size + (exact.num_bytes if index.walks_exact else 0)
        assert proposal.memory_bytes == pytest.approx(size, rel=0.35), proposal.factory
