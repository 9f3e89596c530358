"""Choosing a structure: the best of what was measured, and said plainly where it is not good enough."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykey.index.errors import InvalidStructureError
from anykey.index.publish.tuning.candidates import propose
from anykey.index.publish.tuning.sweep import pareto_front
from anykey.index.publish.tuning.tuning import choose_structure
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_facts import EXACT, Point, SearchParameters, StructureFacts, Targets, Untrained
from anykey.index.vectors.structures import ApproximateIndex
from tests.unit.index.drawn_vectors import clustered, written

NUM_VECTORS = 3000
points = st.lists(
    st.builds(
        Point,
        factory=st.sampled_from([EXACT, "IVF64,SQ8", "HNSW32"]),
        search=st.just(SearchParameters()),
        memory_bytes=st.integers(1, 5),
        recall_at_10=st.sampled_from([0.5, 0.9, 0.97, 0.98, 0.99, 1.0]),
        latency_p50_ms=st.sampled_from([0.1, 0.2, 0.5, 1.0, 5.0]),
    ),
    min_size=1,
    max_size=12,
)


def beats(one: Point, other: Point) -> bool:
    """No worse in anything, better in something."""
    ours, theirs = ((-p.recall_at_10, p.latency_p50_ms, p.memory_bytes) for p in (one, other))
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


@given(points)
def test_front_is_all_that_nothing_beats(tried: list[Point]) -> None:
    values = {(p.recall_at_10, p.latency_p50_ms, p.memory_bytes) for p in tried if not any(beats(q, p) for q in tried)}
    front = pareto_front(tried)
    assert {(p.recall_at_10, p.latency_p50_ms, p.memory_bytes) for p in front} == values
    assert len(front) == len(values)
    assert [p.latency_p50_ms for p in front] == sorted(p.latency_p50_ms for p in front)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExactVectors:
    return written(tmp_path_factory.mktemp("exact") / "v.faiss", clustered(NUM_VECTORS, width=32))


@pytest.fixture
def choose(exact: ExactVectors, tmp_path: Path) -> Callable[..., StructureFacts]:
    """Chooses for a corpus that counts as large, unless it is told otherwise."""

    def chosen(
        factory: str | None = None, exact_below: int = 1000, num_queries: int = 200, **targets: object
    ) -> StructureFacts:
        path, wanted = tmp_path / "a.faiss", Targets.model_validate(targets)
        options = {"num_queries": num_queries, "exact_below": exact_below, "exact_allowed": 100}
        return choose_structure(exact, path, wanted, factory=factory, **options)

    return chosen


def recall(exact: ExactVectors, facts: StructureFacts, path: Path, k: int) -> float:
    """Recall of the written structure over every key, counted by hand."""
    index = ApproximateIndex.open(path, exact, facts.search, exact_allowed=100)
    every = np.arange(exact.num_vectors)
    queries_QD = exact.vectors(every)
    found_QK, best_QK = index.search(queries_QD, k + 1)[1], exact.search(queries_QD, k + 1)[1]
    shares = []
    for own, found_K, best_K in zip(every, found_QK, best_QK, strict=True):
        found, best = ([p for p in positions.tolist() if p != own][:k] for positions in (found_K, best_K))
        shares.append(len(set(found) & set(best)) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize("factory", ["IVF32,PQ16x4fs", "HNSW8"])
def test_stored_recall_is_that_of_the_stored_structure(
    choose: Callable[..., StructureFacts], exact: ExactVectors, tmp_path: Path, factory: str
) -> None:
    facts = choose(factory, num_queries=1000, recall=0.9)

    assert facts.factory == factory
    assert facts.shortfalls == []
    assert facts.measured.recall_at_10 >= 0.9
    assert facts.measured.recall_at_10 == pytest.approx(recall(exact, facts, tmp_path / "a.faiss", 10), abs=0.03)
    assert facts.measured.recall_at_100 == pytest.approx(recall(exact, facts, tmp_path / "a.faiss", 100), abs=0.03)


def test_what_was_tried_is_told(choose: Callable[..., StructureFacts], tmp_path: Path) -> None:
    facts = choose()

    assert [candidate.factory for candidate in facts.candidates][:3] == [EXACT, "IVF256,PQ16x4fs", "IVF256,RaBitQfs"]
    assert all((candidate.build_seconds is None) == bool(candidate.skipped) for candidate in facts.candidates)
    assert facts.front == pareto_front(facts.front)
    assert (facts.num_queries, facts.query_source) == (100, "sampled keys")
    assert 0 < facts.measured.latency_p50_ms <= facts.measured.latency_p99_ms
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if facts.is_exact else ["a.faiss"])
    assert StructureFacts.model_validate_json(facts.model_dump_json()) == facts


def test_memory_is_that_of_the_file(choose: Callable[..., StructureFacts], tmp_path: Path) -> None:
    facts = choose("IVF32,PQ16x4fs")
    assert facts.memory_bytes == (tmp_path / "a.faiss").stat().st_size


def test_a_bound_on_memory_is_kept(choose: Callable[..., StructureFacts], exact: ExactVectors) -> None:
    facts = choose(memory_bytes=exact.num_bytes // 4)

    assert facts.memory_bytes <= exact.num_bytes // 4
    assert not facts.is_exact
    assert {c.skipped for c in facts.candidates if c.factory == "HNSW32"} == {"does not fit into the memory"}


def test_targets_that_cannot_be_met_are_said_and_the_nearest_is_taken(choose: Callable[..., StructureFacts]) -> None:
    facts = choose("SQ8", memory_bytes=10, latency_ms=1e-6, recall=1.0)

    assert facts.shortfalls[0] == f"memory is {facts.memory_bytes:,} bytes, asked for at most 10"
    assert "ms, asked for at most 1e-06 ms" in facts.shortfalls[-1]


def test_exact_search_can_be_asked_for(choose: Callable[..., StructureFacts], tmp_path: Path) -> None:
    facts = choose(EXACT, latency_ms=1000)

    assert (facts.is_exact, facts.measured.recall_at_10, facts.measured.recall_at_100) == (True, 1.0, 1.0)
    assert facts.measured.speedup == pytest.approx(1.0)
    assert facts.shortfalls == []
    assert not (tmp_path / "a.faiss").exists()


def test_small_corpora_get_a_structure_only_where_exact_search_does_not_do(
    exact: ExactVectors, choose: Callable[..., StructureFacts]
) -> None:
    small = NUM_VECTORS + 1
    enough, too_large = choose(exact_below=small), choose(exact_below=small, memory_bytes=exact.num_bytes // 2)

    assert enough.is_exact
    assert all(candidate.skipped for candidate in enough.candidates[1:])
    assert not too_large.is_exact
    assert too_large.shortfalls == []


@pytest.mark.parametrize("count", [1, 2, 30, 999])
def test_tiny_corpora_are_exact(tmp_path: Path, count: int) -> None:
    facts = choose_structure(written(tmp_path / "v.faiss", clustered(count)), tmp_path / "a.faiss", Targets())

    assert (facts.is_exact, facts.measured.recall_at_10, facts.num_queries) == (
        True,
        1.0,
        max(1, min(count, 1000) // 2),
    )


def test_identical_vectors_are_chosen_for(tmp_path: Path) -> None:
    exact = written(tmp_path / "v.faiss", np.repeat(clustered(1), 1500, axis=0))
    assert choose_structure(exact, tmp_path / "a.faiss", Targets()).measured.recall_at_10 == 1.0


def test_given_queries_are_measured_with(exact: ExactVectors, tmp_path: Path) -> None:
    queries_QD = clustered(41, width=32, seed=5)
    facts = choose_structure(exact, tmp_path / "a.faiss", Targets(), factory="IVF32,PQ16x4fs", queries_QD=queries_QD)
    assert (facts.num_queries, facts.query_source) == (20, "query vectors")


def test_unusable_structure_is_refused_before_anything_is_measured(choose: Callable[..., StructureFacts]) -> None:
    with pytest.raises(InvalidStructureError, match="got 'bogus'"):
        choose("bogus")


@pytest.mark.parametrize("factory", ["IVF4096,SQ8", "IVF4096_HNSW8,PQ4"])
def test_exact_search_stands_in_for_a_structure_that_lacks_vectors(
    choose: Callable[..., StructureFacts], tmp_path: Path, factory: str
) -> None:
    facts = choose(factory)

    assert facts.is_exact
    assert facts.instead_of == Untrained(
        factory=factory,
        reason="Number of training points (3000) should be at least as large as number of clusters (4096)",
    )
    assert list(tmp_path.iterdir()) == []
    assert StructureFacts.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_memory_that_nothing_keeps_to_gets_the_smallest_structure(
    choose: Callable[..., StructureFacts], exact: ExactVectors, share: float
) -> None:
    budget_bytes = int(share * exact.num_bytes)
    smallest = min(propose(NUM_VECTORS, 32, exact.num_bytes, Targets(memory_bytes=1)), key=lambda p: p.memory_bytes)

    facts = choose(exact_below=NUM_VECTORS + 1, memory_bytes=budget_bytes)

    assert facts.factory == smallest.factory
    assert facts.shortfalls[0] == f"memory is {facts.memory_bytes:,} bytes, asked for at most {budget_bytes:,}"
    assert facts.memory_bytes == min(c.memory_bytes for c in facts.candidates if c.skipped is None)


def test_no_vectors_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidStructureError, match="there are no vectors"):
        choose_structure(written(tmp_path / "v.faiss", clustered(0)), tmp_path / "a.faiss", Targets())


def test_progress_is_reported(exact: ExactVectors, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    choose_structure(
        exact,
        tmp_path / "a.faiss",
        Targets(),
        factory="IVF32,SQ8",
        report=lambda step, done, total: told.append((step, done, total)),
    )
    steps = list(dict.fromkeys(step for step, _, _ in told))
    assert steps == ["searching exactly", "building IVF32,SQ8", "measuring IVF32,SQ8"]
    assert all(0 <= done <= total for _, done, total in told)
