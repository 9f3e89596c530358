"""The choice of what GPUs search with, as far as it goes without one: structures for CPUs stand in for theirs.

`tests/gpu` has the real ones.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from anykey.index.errors import InvalidStructureError
from anykey.index.publish.tuning.gpu_tuning import choose_gpu_structure
from anykey.index.publish.tuning.held_out import HeldOut, sample_held_out
from anykey.index.publish.tuning.measured import structure_lines
from anykey.index.publish.tuning.tuning import choose_structure
from anykey.index.vectors.exact import ExactVectors
from anykey.index.vectors.gpu import GpuIndex, Part, structure_for
from anykey.index.vectors.structure_facts import GpuFacts, GpuStructure, SearchParameters, StructureFacts, Targets
from anykey.index.vectors.structures import ApproximateIndex, GpuUse
from tests.unit.index.drawn_vectors import clustered, overlap, written

NUM_VECTORS = 3000
VECTORS = clustered(NUM_VECTORS)
GPUS = GpuUse((0, 1), temporary_bytes=12345)
STAND_INS = {GpuStructure.FLAT: "Flat", GpuStructure.IVF_PQ: "IVF64,SQ8"}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ExactVectors:
    return written(tmp_path_factory.mktemp("exact") / "v.faiss", VECTORS)


@pytest.fixture(scope="module")
def held_out(exact: ExactVectors) -> HeldOut:
    return sample_held_out(exact, 200, seed=0)


class Opener:
    """Gives structures for CPUs in two parts, and notes what it was asked for; has no graphs."""

    def __init__(self, kinds: dict[GpuStructure, str] | None = None) -> None:
        self.kinds = STAND_INS if kinds is None else kinds
        self.asked: list[tuple[GpuStructure, list[int], int]] = []
        self.opened: list[GpuIndex] = []

    def __call__(self, kind: GpuStructure, exact: ExactVectors, gpus: list[int], temporary_bytes: int) -> GpuIndex:
        self.asked.append((kind, gpus, temporary_bytes))
        if kind not in self.kinds:
            raise InvalidStructureError("no graphs here")
        parts = []
        for first in (0, NUM_VECTORS // 2):
            structure = faiss.index_factory(exact.width, self.kinds[kind], faiss.METRIC_INNER_PRODUCT)
            structure.train(VECTORS)
            structure.add(VECTORS[first : first + NUM_VECTORS // 2])
            parts.append(Part(first, structure))
        self.opened.append(GpuIndex(parts, exact, kind is GpuStructure.FLAT))
        return self.opened[-1]


def test_what_keeps_to_the_targets_is_chosen_and_measured(exact: ExactVectors, held_out: HeldOut) -> None:
    opener, told = Opener(), list[str]()

    facts = choose_gpu_structure(
        exact, held_out, Targets(recall=0.95), GPUS, lambda step, done, total: told.append(step), opener
    )

    assert facts is not None
    assert facts.kind in STAND_INS
    assert facts.measured.recall_at_10 >= 0.93
    assert (facts.num_gpus, facts.shortfalls) == (2, [])
    assert opener.asked == [(kind, [0, 1], 12345) for kind in GpuStructure]
    skipped = {candidate.factory: candidate.skipped for candidate in facts.candidates}
    assert skipped == {"flat": None, "ivf-pq": None, "cagra": "no graphs here"}
    assert {"building flat on 2 GPUs", "measuring ivf-pq"} <= set(told)
    recalls = [point.recall_at_10 for point in facts.front]
    assert recalls[-1] >= 0.999


def test_search_parameters_are_swept(exact: ExactVectors) -> None:
    # In place of seconds, which differ by chance: vectors that queries have been compared with.
    held_out = sample_held_out(exact, 200, seed=0, clock=lambda: float(faiss.cvar.indexIVF_stats.ndis))
    opener = Opener({GpuStructure.IVF_PQ: "IVF64,SQ8"})

    narrow, wide = (
        choose_gpu_structure(exact, held_out, Targets(recall=recall), GPUS, open_index=opener) for recall in (0.3, 0.99)
    )

    assert narrow is not None
    assert wide is not None
    assert wide.search.probes > narrow.search.probes
    assert wide.measured.recall_at_10 >= 0.97 > narrow.measured.recall_at_10
    with pytest.raises(RuntimeError, match="were closed"):  # its GPUs are free for the next
        opener.opened[0].search(VECTORS[:1], 1)


def test_memory_is_a_target_too(exact: ExactVectors, held_out: HeldOut) -> None:
    flat_bytes = 4 * NUM_VECTORS * exact.width
    targets = Targets(memory_bytes=flat_bytes - 1, recall=0.5)

    facts = choose_gpu_structure(exact, held_out, targets, GPUS, open_index=Opener())

    assert facts is not None
    assert facts.kind == "ivf-pq"


def test_last_structure_is_not_chosen_for_being_the_last(exact: ExactVectors, held_out: HeldOut) -> None:
    class Blind(Opener):
        def __call__(self, kind: GpuStructure, *arguments: Any) -> GpuIndex:
            index = super().__call__(kind, *arguments)
            if kind is GpuStructure.IVF_PQ:
                index.search = self.search  # type: ignore[method-assign]
            return index

        def search(self, queries_QD: Any, k: int, **settings: Any) -> Any:
            return np.full((len(queries_QD), k), -1.0), np.full((len(queries_QD), k), -1)

    facts = choose_gpu_structure(exact, held_out, Targets(), GPUS, open_index=Blind())

    assert facts is not None
    assert (facts.kind, facts.measured.recall_at_10) == (GpuStructure.FLAT, 1.0)


def test_nothing_is_chosen_where_nothing_can_be_built(
    exact: ExactVectors, held_out: HeldOut, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_gpu_structure(exact, held_out, Targets(), GPUS, open_index=Opener({})) is None
    assert "nothing can be searched on GPUs: no graphs here" in caplog.text


def test_structure_that_a_gpu_has_no_room_to_search_is_passed_over(exact: ExactVectors, held_out: HeldOut) -> None:
    class WithoutRoom(Opener):
        def __call__(self, kind: GpuStructure, *arguments: Any) -> GpuIndex:
            index = super().__call__(kind, *arguments)
            if kind is GpuStructure.FLAT:
                index.search = self.search  # type: ignore[method-assign]
            return index

        def search(self, *arguments: Any, **settings: Any) -> Any:
            raise RuntimeError("out of memory")

    opener = WithoutRoom()
    facts = choose_gpu_structure(exact, held_out, Targets(), GPUS, open_index=opener)

    assert facts is not None
    assert facts.kind == "ivf-pq"
    assert {candidate.factory: candidate.skipped for candidate in facts.candidates} == {
        "flat": "out of memory",
        "ivf-pq": None,
        "cagra": "no graphs here",
    }
    assert {point.factory for point in facts.front} == {"ivf-pq"}


def test_version_is_made_also_where_the_gpus_fail(exact: ExactVectors, tmp_path: Path) -> None:
    facts = choose_structure(exact, tmp_path / "s.faiss", Targets(), gpu=GpuUse((99,)))
    assert facts.gpu is None
    assert facts.measured.recall_at_10 == 1


@pytest.fixture
def facts_with(exact: ExactVectors, held_out: HeldOut, tmp_path: Path) -> Callable[[Any], StructureFacts]:
    facts = choose_structure(exact, tmp_path / "s.faiss", Targets())
    return lambda gpu: facts.model_copy(update={"gpu": gpu})


def test_index_is_opened_on_gpus_as_it_was_measured(
    exact: ExactVectors, held_out: HeldOut, facts_with: Callable[[Any], StructureFacts]
) -> None:
    gpu = choose_gpu_structure(exact, held_out, Targets(), GPUS, open_index=Opener())
    assert gpu is not None
    again = GpuFacts.model_validate_json(gpu.model_dump_json())

    assert structure_for(facts_with(again), NUM_VECTORS) == (GpuStructure(gpu.kind), gpu.search)
    assert structure_for(facts_with(None), NUM_VECTORS)[0] is GpuStructure.FLAT
    other = facts_with(None).model_copy(update={"factory": "IVF64,PQ8x4fs"})
    assert structure_for(other, NUM_VECTORS)[0] is GpuStructure.IVF_PQ
    assert structure_for(other, 255)[0] is GpuStructure.FLAT  # codes cannot be trained on fewer than there are
    shown = "\n".join(structure_lines(facts_with(again)))
    assert f"on GPUs     {gpu.kind}" in shown
    assert "exact search on the CPU" in shown


@pytest.mark.skipif(hasattr(faiss, "GpuIndexCagra"), reason="says what happens without cuVS")
def test_graph_that_this_faiss_cannot_make_is_replaced(facts_with: Callable[[Any], StructureFacts]) -> None:
    gpu = GpuFacts(
        kind=GpuStructure.CAGRA,
        search=SearchParameters(probes=64),
        num_gpus=1,
        build_seconds=1,
        measured=facts_with(None).measured,
        shortfalls=[],
        candidates=[],
        front=[],
    )
    assert structure_for(facts_with(gpu), NUM_VECTORS)[0] is GpuStructure.FLAT


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "PCA8,IVF16,SQ8"])
def test_lists_are_trained_with_another_index_for_comparing(exact: ExactVectors, tmp_path: Path, factory: str) -> None:
    made: list[Any] = []

    def comparing(width: int) -> Any:
        made.append(faiss.IndexFlatIP(width))
        return made[0]

    index = ApproximateIndex.build(factory, exact, tmp_path / "s.faiss", clustering=comparing)

    assert (len(made), made[0].ntotal) == (1, 16)  # it was used
    assert made[0].thisown  # and is freed, with the GPU memory it holds, when Python lets go of it
    found_QK = index.search(VECTORS[:50], 10, parameters=SearchParameters(probes=16, rerank=200))[1]
    assert overlap(found_QK, exact.search(VECTORS[:50], 10)[1]) > 0.99
