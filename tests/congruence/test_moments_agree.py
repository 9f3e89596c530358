"""Every engine ranks, groups and pages alike: what a moment gives in steps is what a search gives at once.

Shape legend: N = keys, D = width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anykey.index.errors import SnapshotRefusedError
from anykey.index.key_index import KeyIndex, NewKey, Scope
from anykey.service.queries.wanted import Duplicates, Grouping, Wanted
from anykey.service.searching.ranking import RankedKeys, select
from tests.engines import EVERY_STRUCTURE, Place, new_index, unit_vectors

NUM_KEYS = 60
SCOPE = Scope(exclude={"k07"})


@pytest.fixture(params=EVERY_STRUCTURE)
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyIndex]:
    place: Place = request.param(tmp_path)
    with new_index(place) as index:
        vectors_ND = unit_vectors(0, NUM_KEYS)
        vectors_ND[10:15] = vectors_ND[10]
        index.upsert(
            [
                NewKey(f"k{number:02}", vector_D, text=f"text {number}", metadata={"brand": number % 7})
                for number, vector_D in enumerate(vectors_ND)
            ]
        )
        yield index


def test_a_ranking_is_a_search_in_steps(filled: KeyIndex) -> None:
    query_1D = unit_vectors(5, 1)
    with filled.moment() as moment:
        [ranking] = moment.rank(query_1D, NUM_KEYS, SCOPE, exact=True)
        [hits] = moment.search(query_1D, NUM_KEYS, SCOPE, exact=True, with_vectors=True)
        part = moment.hits(ranking.chosen([4, 2]), with_vectors=True)
        assert moment.hits(ranking) == hits
        assert [hit.key for hit in part] == [hits[4].key, hits[2].key]
        assert [hit.rank for hit in part] == [1, 2]
        vectors_KD = moment.vectors(ranking)
        for hit, vector_D in zip(hits, vectors_KD, strict=True):
            assert hit.vector_D is not None
            assert vector_D == pytest.approx(hit.vector_D, abs=1e-6)
        assert vectors_KD @ query_1D[0] == pytest.approx(ranking.scores_K, abs=1e-5)
        assert moment.is_exact(exact=True)
        assert moment.count(SCOPE) == len(hits) == NUM_KEYS - 1
        background_1B = moment.background(query_1D, 30, SCOPE)
        assert background_1B.shape == (1, 30)
        scores = np.array([hit.score for hit in hits])
        assert all(np.abs(scores - score).min() < 1e-5 for score in background_1B[0])
        assert moment.background(query_1D, 30, Scope(within=[])).shape == (1, 0)


@pytest.mark.parametrize("by", [("brand",), Duplicates(0.99)])
def test_groups_and_pages_are_those_of_an_exact_search_of_everything(
    filled: KeyIndex, by: tuple[str, ...] | Duplicates
) -> None:
    query_D = unit_vectors(6, 1)[0]
    with filled.moment() as moment:

        def found(k: int, offset: int | None) -> list[str]:
            ranked = RankedKeys(moment, query_D, SCOPE, exact=True, pages=offset is not None)
            return [hit.key for hit in select(moment, ranked, Wanted(k, offset, grouping=Grouping(by))).hits]

        at_once = found(NUM_KEYS, None)
        assert len(at_once) == (7 if isinstance(by, tuple) else NUM_KEYS - 5)
        assert [key for offset in range(0, NUM_KEYS, 4) for key in found(4, offset)] == at_once


def test_pages_of_an_approximate_search_neither_overlap_nor_leave_gaps(filled: KeyIndex) -> None:
    query_D = unit_vectors(7, 1)[0]
    with filled.moment() as moment:
        pages = [
            select(moment, RankedKeys(moment, query_D, SCOPE, exact=False, pages=True), Wanted(7, offset)).hits
            for offset in range(0, NUM_KEYS, 7)
        ]
    keys = [hit.key for page in pages for hit in page]
    assert len(set(keys)) == len(keys) == NUM_KEYS - 1


def test_an_engine_without_snapshots_says_so(filled: KeyIndex) -> None:
    with filled.moment() as moment:
        moment.keep(is_asked_for=True)
        if moment.snapshot is not None:
            with filled.moment(moment.snapshot) as again:
                assert again.seq == moment.seq
            return
    with pytest.raises(SnapshotRefusedError, match="no snapshots"), filled.moment("0"):
        pass
