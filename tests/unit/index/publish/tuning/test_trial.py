"""Structures that FAISS cannot build are found out in a process of their own, which may end as it likes."""

import pytest

from anykey.index.errors import InvalidStructureError
from anykey.index.publish.tuning import trial
from anykey.index.publish.tuning.trial import require_possible, try_structure
from anykey.index.vectors.structure_facts import EXACT

WIDTH = 16


@pytest.mark.parametrize("factory", ["PCA0,IVF4,Flat", "IVF4,PQ8x0", "IVF4_HNSW0,Flat", "HNSW1"])
def test_structure_over_which_faiss_ends_the_process_is_an_error(factory: str) -> None:
    with pytest.raises(InvalidStructureError, match=rf"'{factory}' .* width 16: FAISS ends the process \(SIG[A-Z]+\)"):
        require_possible(factory, WIDTH)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("bogus", "FAISS has no structure 'bogus' for inner products of width 16"),
        (
            "PCA99,IVF4,Flat",
            "'PCA99,IVF4,Flat' cannot be built .* width 16: PCA matrix cannot output 99 dimensions",
        ),
        ("HNSW2000000000", "'HNSW2000000000' cannot be built over vectors of width 16"),
        ("Pad2000000000,IVF4,Flat", "it takes too much memory"),
    ],
)
def test_structure_that_cannot_be_is_said(factory: str, reason: str) -> None:
    with pytest.raises(InvalidStructureError, match=reason):
        require_possible(factory, WIDTH)


def test_lists_that_no_search_can_look_at_are_found_out() -> None:
    with pytest.raises(RuntimeError, match="nprobe"):
        try_structure("IVF0,Flat", WIDTH)


@pytest.mark.parametrize(
    "factory", ["IVF65536,Flat", "IVF1048576_HNSW32,PQ8x4fs", "OPQ8,IVF64,PQ8", "PCA12,IVF4,PQ4x16", "HNSW32"]
)
def test_structure_that_needs_many_vectors_is_taken(factory: str) -> None:
    try_structure(factory, WIDTH)


def test_what_was_found_out_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    require_possible("IVF65536,SQ8", WIDTH)
    monkeypatch.setattr("sys.executable", "/nowhere")
    require_possible("IVF65536,SQ8", WIDTH)
    require_possible(EXACT, WIDTH)
    with pytest.raises(FileNotFoundError):
        require_possible("IVF65537,SQ8", WIDTH)


def test_trial_that_takes_too_long_is_ended_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TIMEOUT_S", 0.01)
    require_possible("IVF4,NoSuch", WIDTH)
