"""What an index counts of its fields is what going through a dictionary of its keys counts: before and after changes.

Some of the keys are in a version, some came later, and some of the version's have changed or gone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.encoder.item import Modality
from anykey.index import FaissIndex
from anykey.index.deadline import Deadline
from anykey.index.errors import DeadlineExceededError, FacetsUnavailableError, UnknownPoolError
from anykey.index.filtering.conditions import Equals, Exists, Not, Range, matches
from anykey.index.filtering.facets import Facet, RangeFacet, ValueFacet
from anykey.index.key_index import NewKey, Scope
from anykey.index.publish.creation import create_index
from tests.counted_values import counts_of, fields_of
from tests.engines import flat_milvus, needs_milvus
from tests.live_index import ENCODER, unit_vectors

NAMES = [f"k{number}" for number in range(12)]
VECTORS = unit_vectors(len(NAMES))
VALUES = [1, 1.0, True, "1", 2.5, 10, "ad", "adam", "2024-07-01", "2024-07-01T02:00:00+02:00", "2023-01-01", None]
fields = st.sampled_from(["brand", "price", "tags"])
metadata_objects = st.dictionaries(
    fields, st.sampled_from(VALUES) | st.lists(st.sampled_from(VALUES), max_size=3), max_size=3
) | st.fixed_dictionaries({"size": st.fixed_dictionaries({"width": st.integers(0, 3)})})
changes = st.lists(
    st.tuples(st.just("put"), st.sampled_from(NAMES), metadata_objects)
    | st.tuples(st.just("delete"), st.sampled_from(NAMES), st.none())
    | st.tuples(st.just("fold"), st.none(), st.none()),
    max_size=25,
)
FACETS: list[Facet] = [
    ValueFacet(("brand",), 3),
    ValueFacet(("tags",), prefix="ad"),
    ValueFacet(("tags",), prefix="2024"),
    ValueFacet(("size", "width")),
    ValueFacet(("size",)),
    RangeFacet(("price",), (Range(("price",), lt=2), Range(("price",), gte=1, lte=10))),
    RangeFacet(("tags",), (Range(("tags",), gte="2024-01-01", lt="2025-01-01"),)),
]


def in_scope(scope: Scope, key: NewKey) -> bool:
    return (
        (scope.modalities is None or key.modality in scope.modalities)
        and (scope.pool is None or scope.pool in key.pools)
        and (scope.condition is None or matches(scope.condition, key.metadata))
        and (scope.within is None or key.key in scope.within)
        and key.key not in scope.exclude
    )


SCOPES = [
    Scope(),
    Scope(condition=Not(Exists(("brand",)))),
    Scope(condition=Equals(("tags",), 1), exclude={"k1"}),
    Scope(within={"k0", "k3", "k7", "none"}),
    Scope(modalities=[Modality.IMAGE]),
    Scope(pool="even", exclude={"k2", "k4"}),
]


def new_key(name: str, metadata: dict[str, Any]) -> NewKey:
    number = NAMES.index(name)
    pools = ("even",) if number % 2 == 0 else ()
    return NewKey(name, VECTORS[number], bare=list(Modality)[number % 3], metadata=metadata, pools=pools)


def told(found: Any) -> str:
    """What tells counts from others, also 1 from true; but for `is_known`, which is about keys that went, too."""
    return repr(found).replace("is_known=True", "").replace("is_known=False", "")


def check(index: FaissIndex, keys: Sequence[NewKey]) -> None:
    for scope in SCOPES:
        rows = [key.metadata for key in keys if in_scope(scope, key)]
        with index.moment() as moment:
            try:
                found = moment.facets(FACETS, scope)
                again = moment.facets(FACETS, scope)
                page = moment.fields(scope=scope)
            except UnknownPoolError:
                assert not rows
                continue
        assert told(found) == told(again) == told([counts_of(facet, rows) for facet in FACETS])
        expected = fields_of(rows)
        assert {facts.path: told(facts) for facts in page.fields} == {path: told(expected[path]) for path in expected}
        assert page.last is None
        assert page.num_keys == len(rows)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes)
def test_counts_are_those_of_a_dictionary_after_every_change(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("facets") / "index"
    create_index(folder, ENCODER)
    keys: dict[str, NewKey] = {}
    with FaissIndex.open(folder, writable=True, compact_after=0) as index, FaissIndex.open(folder) as reader:
        for number, (what, name, metadata) in enumerate(made):
            if what == "put":
                keys[name] = new_key(name, metadata)
                index.upsert([keys[name]])
            elif what == "delete":
                index.delete([name])
                keys.pop(name, None)
            else:
                index.compact()
            if number % 5 == 4:
                check(index, list(keys.values()))
        check(reader, list(keys.values()))


def test_a_changed_key_is_counted_at_once_and_an_earlier_moment_as_before(tmp_path: Path) -> None:
    create_index(tmp_path / "index", ENCODER)
    facet = ValueFacet(("brand",))
    with FaissIndex.open(tmp_path / "index", writable=True, compact_after=0) as index:
        index.upsert([new_key("k0", {"brand": "a"}), new_key("k1", {"brand": "b"})])
        index.compact()
        with index.moment() as moment:
            moment.keep(is_asked_for=True)
            snapshot = moment.snapshot
            assert moment.facets([facet])[0].values == (("a", 1), ("b", 1))
        index.upsert([new_key("k0", {"brand": "b"})])
        with index.moment() as moment:
            assert moment.facets([facet])[0].values == (("b", 2),)
        with index.moment(snapshot) as moment:
            assert moment.facets([facet])[0].values == (("a", 1), ("b", 1))


def test_counting_stops_when_nobody_waits(tmp_path: Path) -> None:
    create_index(tmp_path / "index", ENCODER)
    with FaissIndex.open(tmp_path / "index", writable=True) as index:
        index.upsert([new_key("k0", {"brand": "a"})])
        deadline = Deadline(60)
        with index.moment(deadline=deadline) as moment:
            deadline.cancel()
            with pytest.raises(DeadlineExceededError):
                moment.facets([ValueFacet(("brand",))])
            with pytest.raises(DeadlineExceededError):
                moment.fields()


@needs_milvus
def test_milvus_refuses_and_says_what_does_not(tmp_path: Path) -> None:
    index = flat_milvus(tmp_path).create()
    with index.moment() as moment:
        for ask in (lambda: moment.facets([ValueFacet(("brand",))]), moment.fields):
            with pytest.raises(FacetsUnavailableError, match="an index in Milvus does not count"):
                ask()
    index.close()
