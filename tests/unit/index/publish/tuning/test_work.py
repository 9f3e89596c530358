"""The work of a search: more of it for who looks further, and what decides between structures, whatever times say."""

import random
from pathlib import Path

import pytest

from anykey.index.publish.tuning.held_out import Clock
from anykey.index.publish.tuning.sweep import rank
from anykey.index.publish.tuning.tuning import choose_structure
from anykey.index.publish.tuning.work import work_of, work_of_all
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.structure_facts import EXACT, Point, SearchParameters, StructureFacts, Targets
from anykey.index.vectors.structures import ApproximateIndex
from tests.unit.index.drawn_vectors import clustered, written

NUM_VECTORS = 3000
FACTORIES = ["IVF32,PQ16x4fs", "IVF32,SQ8", "IVF32,RaBitQfs", "HNSW8", "RR16,IVF32,SQ8", "SQ8"]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExactVectors:
    return written(tmp_path_factory.mktemp("exact") / "v.faiss", clustered(NUM_VECTORS, width=32))


def busy_clock(seed: int) -> Clock:
    """Of a machine on which anything takes from nothing to a second, as others would have it."""
    draw, now_s = random.Random(seed), [0.0]

    def seconds() -> float:
        now_s[0] += draw.random() ** 8
        return now_s[0]

    return seconds


@pytest.mark.parametrize("factory", FACTORIES)
def test_who_looks_further_works_more(exact: ExactVectors, tmp_path: Path, factory: str) -> None:
    work = work_of(ApproximateIndex.build(factory, exact, tmp_path / "s.faiss"))
    narrow, wide, deep = (
        work(SearchParameters(probes=probes, rerank=rerank)) for probes, rerank in ((2, 50), (8, 50), (2, 400))
    )
    assert 0 < narrow < deep
    assert narrow < wide or factory == "SQ8"  # which looks at all codes


def test_exact_search_is_the_work_of_all_bytes_in_order(exact: ExactVectors, tmp_path: Path) -> None:
    work = work_of(ApproximateIndex.build("IVF32,PQ16x4fs", exact, tmp_path / "s.faiss"))
    assert work(SearchParameters(probes=32, rerank=50)) > work_of_all(exact), "of so few vectors"
    assert work_of_all(exact) < 32 * 4 * NUM_VECTORS


def test_less_work_goes_before_a_shorter_time() -> None:
    slow, fast = (
        Point(
            factory=EXACT,
            search=SearchParameters(),
            memory_bytes=1,
            recall_at_10=1.0,
            latency_p50_ms=latency_ms,
            work=work,
        )
        for latency_ms, work in ((2.0, 10.0), (1.0, 20.0))
    )
    assert rank([fast, slow], Targets()) == [slow, fast]
    assert rank([fast, slow], Targets(latency_ms=1.5)) == [fast, slow]  # where a time is asked for


def test_busy_machine_chooses_as_a_quiet_one_does(exact: ExactVectors, tmp_path: Path) -> None:
    targets = Targets(recall=0.9, memory_bytes=exact.num_bytes // 2)

    def chosen(seed: int) -> StructureFacts:
        path = tmp_path / f"{seed}.faiss"
        return choose_structure(exact, path, targets, exact_below=1000, clock=busy_clock(seed))

    first, *others = (chosen(seed) for seed in range(2))

    assert not first.is_exact
    assert len({each.measured.latency_p50_ms for each in (first, *others)}) > 1
    for each in others:
        assert (each.factory, each.search) == (first.factory, first.search)
