"""What may be asked for as a search structure: FAISS ends the whole process over some names, so they never reach it."""

import pytest

from anykey.index.errors import InvalidStructureError
from anykey.index.publish.tuning.candidates import propose
from anykey.index.settings import CompactSettings
from anykey.index.vectors.structure_facts import Targets
from anykey.index.vectors.structure_kinds import require_possible
from anykey.program.settings import UsageError, load_settings

WIDTH = 16
# FAISS ends the process over these, writes beyond the end, or takes all memory.
DEADLY = ["PCA0,IVF4,Flat", "IVF4,PQ8x0", "IVF4_HNSW0,Flat", "Pad2000000000,IVF4,Flat"]
UNKNOWN = ["bogus", "IVF4", "IVF4,PQ", "IVF4,PQ8x12", "OPQ8,IVF4,PQ8", "HNSW32,SQ8", "IVF04,Flat", "IVF4,Flat ", "Flat"]


@pytest.mark.parametrize("name", [*DEADLY, *UNKNOWN, "IVF0,Flat"])
def test_structure_of_another_kind_is_refused_with_the_command(name: str) -> None:
    said = "setting 'structure': expected a search structure such as exact, SQ8, HNSWm, IVFn,CODES or .*PQmx4fs; got "
    with pytest.raises(UsageError, match=f"^{said}'{name}'$"):
        load_settings(CompactSettings, "anykey-index compact", ["--index", "i", "--structure", name])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("HNSW1", "'HNSW1': expected from 2 to 256 links, got 1"),
        ("HNSW20000000", "'HNSW20000000': expected from 2 to 256 links, got 20000000"),
        ("IVF4_HNSW1,Flat", "'IVF4_HNSW1,Flat': expected from 2 to 256 links, got 1"),
        ("IVF9999999,SQ8", "'IVF9999999,SQ8': expected from 1 to 1,048,576 lists, got 9999999"),
    ],
)
def test_number_that_faiss_cannot_build_is_refused_with_the_command(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"setting 'structure': structure {reason}$"):
        load_settings(CompactSettings, "anykey-index compact", ["--index", "i", "--structure", name])


@pytest.mark.parametrize("codes", ["PQ5", "PQ5x4fs", "PQ32"])
def test_codes_that_do_not_divide_the_width_are_refused(codes: str) -> None:
    with pytest.raises(InvalidStructureError, match=f"'IVF4,{codes}' cannot be built over vectors of width 16: "):
        require_possible(f"IVF4,{codes}", WIDTH)


@pytest.mark.parametrize("num_vectors", [5_000, 50_000, 5_000_000, 2**30])
@pytest.mark.parametrize("width", [1, 7, 512, 768])
def test_all_that_is_proposed_can_be_asked_for(num_vectors: int, width: int) -> None:
    for proposal in propose(num_vectors, width, 4 * width * num_vectors, Targets(memory_bytes=1)):
        require_possible(proposal.factory, width)


@pytest.mark.parametrize(("given", "meant"), [("AUTO", "auto"), ("Exact", "exact"), ("IVF1_HNSW2,PQ8x4fs",) * 2])
def test_name_of_a_kind_is_taken(given: str, meant: str) -> None:
    settings = load_settings(CompactSettings, "anykey-index compact", ["--index", "i", "--structure", given])
    assert settings.structure == meant
