"""Recent keys: each moment stays as it was while later ones grow out of it.

Shape legend: R = recent keys, D = width.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.filtering.conditions import Equals
from anykey.index.hits import Payload, StoredKey
from anykey.index.key_index import EVERYTHING, Scope
from anykey.index.search.recent import Recent
from anykey.index.store.store_reader import Changes
from tests.live_index import WIDTH, unit_vectors

NO_SEQS = np.empty(0, np.int64)
VECTORS_ND = unit_vectors(500)


def stored(seq: int) -> StoredKey:
    modality = list(Modality)[seq % 3]
    return StoredKey(f"k{seq}", modality, Payload("text", {"number": seq}), (f"p{seq % 2}",))


def changes(seqs: list[int], removed: list[int], seq: int = 0) -> Changes:
    seqs_R = np.array(seqs, np.int64)
    return Changes(seq, seqs_R, VECTORS_ND[seqs_R], [stored(number) for number in seqs], np.array(removed, np.int64))


def found(
    recent: Recent, scope: Scope = EVERYTHING, within: Any = None, exclude: NDArray[np.int64] = NO_SEQS
) -> list[int]:
    """Change numbers of the keys of a scope."""
    positions = recent.positions(scope, within, exclude)
    seqs: list[int] = recent.seqs[positions].tolist()
    return seqs


steps = st.lists(st.tuples(st.integers(0, 90), st.lists(st.integers(0, 400), max_size=60)), max_size=6)


@settings(deadline=None)
@given(steps)
def test_every_moment_stays_as_it_was(steps: list[tuple[int, list[int]]]) -> None:
    recent, alive, next_seq = Recent(WIDTH), set[int](), 0
    moments = []
    for num_new, removed in steps:
        seqs = list(range(next_seq, min(next_seq + num_new, len(VECTORS_ND))))
        next_seq += num_new
        recent = recent.after(changes(seqs, removed))
        alive = (alive | set(seqs)) - set(removed)
        moments.append((recent, sorted(alive)))
    for moment, expected in moments:
        assert found(moment) == expected
        assert moment.num_alive == len(expected)
        assert moment.num_records <= max(2 * len(expected) + 1, 1)
        if expected:
            scores, hits = moment.search(VECTORS_ND[:1], 5, moment.positions(EVERYTHING, None, NO_SEQS))
            ranked = sorted(expected, key=lambda seq: -float(VECTORS_ND[0] @ VECTORS_ND[seq]))[:5]
            assert hits[0].tolist() == ranked
            assert scores[0].tolist() == pytest.approx(
                [float(VECTORS_ND[0] @ VECTORS_ND[seq]) for seq in ranked], abs=1e-6
            )


def test_scope_narrows_by_all_its_parts() -> None:
    recent = Recent(WIDTH).after(changes(list(range(12)), [4]))

    assert found(recent, Scope(modalities=[Modality.TEXT])) == [
        seq for seq in range(12) if list(Modality)[seq % 3] is Modality.TEXT and seq != 4
    ]
    assert found(recent, Scope(modalities=[])) == []
    assert found(recent, Scope(pool="p1")) == [1, 3, 5, 7, 9, 11]
    assert found(recent, Scope(condition=Equals(("number",), 7), pool="p1")) == [7]
    assert found(recent, within=np.array([3, 4, 5, 99]), exclude=np.array([5])) == [3]


def test_pools_are_those_of_the_keys_that_came() -> None:
    recent = Recent(WIDTH).after(changes([0, 1], []))

    assert recent.pools == {"p0", "p1"}
    assert Recent(WIDTH).pools == frozenset()
