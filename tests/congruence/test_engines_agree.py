"""Every engine of an index answers as the obvious model does: whatever is asked, and whatever was changed before."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.encoder.item import Modality
from anykey.index import FaissIndex
from anykey.index.changes import Change, Delete, Patch, Put
from anykey.index.errors import InvalidKeyError, InvalidSearchError, KeyNotFoundError, UnknownPoolError
from anykey.index.filtering.conditions import And, Condition, Equals, Exists, In, Not, Or, Range
from anykey.index.hits import StoredImage
from anykey.index.key_index import KeyIndex, NewKey, Scope
from anykey.index.milvus_index import MilvusIndex
from tests.engines import (
    ENCODER,
    EVERY_ENGINE,
    EVERY_STRUCTURE,
    Place,
    StructuredFaissPlace,
    assert_same_hits,
    new_index,
    unit_vectors,
)
from tests.exact_model import ExactModel

NUM_KEYS = 1_100  # enough for Milvus Lite to move them into files, which have a structure
NAMES = [f"key-{number}" for number in range(NUM_KEYS)]
ODD_NAMES = [
    'quo"te', "apos'trophe", "back\\slash", "line\nbreak", "tab\tbed", "carriage\rreturn", "nul\x00", "\u2028x", "%_{}",
    "\U0001f600", "caf\u00e9", "a" * 300, " spaced ", '"]', 'x"] or key != ["', "\uffff", "\ue000",
]  # fmt: skip

VALUES = [
    0, 1, -1, 1.0, 0.5, -2.5, 2, 10, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 1e300, 5e-324, -0.0, 0.1,
    True, False, "", "a", "b", "B", "10", "caf\u00e9", "\U0001f600", "\uffff", 'quo"te', "back\\slash", "x\ny",
    "2024-06-30T22:00:00Z", "2024-07-01T00:00:00+02:00", "2024-07-01T00:30:00.5+02:00", "2024-07-01",
    "2024-06-30T23:00",
]  # fmt: skip
DATES = [*VALUES[-5:], ["2024-07-01T01:00:00+02:00", "2024-06-30"]]
PATHS = [("when",), ("n",), ("s",), ("o",), ("o", "n"), ("o", "o", "s"), ('odd"/~name', "n"), ("0",), ("missing",)]


class Pair(NamedTuple):
    """An engine, and the model with the same keys in it."""

    index: KeyIndex
    model: ExactModel

    def upsert(self, keys: Sequence[NewKey]) -> None:
        self.index.upsert(keys)
        self.model.upsert(keys)

    def delete(self, keys: Sequence[str]) -> None:
        assert self.index.delete(keys) == self.model.delete(keys)

    def assert_same_search(self, seed: int, num_queries: int, k: int, scope: Scope, exact: bool = False) -> None:
        queries_QD = unit_vectors(seed, num_queries)
        everything = self.model.search(queries_QD, max(len(self.model.keys), 1), scope)
        expected = [hits[:k] for hits in everything]
        assert_same_hits(self.index.search(queries_QD, k, scope, exact=exact), expected, everything)
        assert self.index.count(scope) == self.model.count(scope)

    def assert_same_content(self) -> None:
        assert list(self.index.scan()) == list(self.model.scan())
        ours, theirs = self.index.info(), self.model.info()
        assert replace(ours, engine="", details={}) == replace(theirs, engine="", details={})
        for key, new in list(self.model.keys.items())[:40]:
            np.testing.assert_array_equal(self.index.vector(key), new.vector_D)


def make_key(number: int, **changes: Any) -> NewKey:
    """A key whose parts follow from its number."""
    image = StoredImage(f"image {number % 7}".encode(), "image/png")
    parts = {
        "vector_D": unit_vectors(number, 1)[0],
        "text": None if number % 3 == 1 else f"text {number}",
        "images": () if number % 3 == 0 else (image,) * (1 + number % 2),
        "metadata": {
            "n": number % 10,
            "s": "ab"[number % 2],
            "o": {"n": [number % 5, {"x": None}], "o": {"s": "a"}},
            "when": DATES[number % 6],
        },
        "pools": (("even", "odd")[number % 2], *(["tenth"] if number % 10 == 0 else [])),
    }
    return NewKey(f"key-{number}", **{**parts, **changes})


@pytest.fixture(scope="module", params=EVERY_STRUCTURE)
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """An engine that held `NUM_KEYS` keys, was opened again and had some changed since; not to be changed further."""
    place: Place = request.param(tmp_path_factory.mktemp("filled"))
    keys = [make_key(number) for number in range(NUM_KEYS)]
    with closing(place.create()) as index:
        index.upsert(keys)
    model = ExactModel(ENCODER)
    model.upsert(keys)
    with closing(place.open()) as index:
        pair = Pair(index, model)
        pair.upsert([make_key(number, text="changed", metadata={"n": number}) for number in range(500, 515)])
        pair.delete([f"key-{number}" for number in range(1_000, 1_015)])
        yield pair
    place.clear()


@pytest.fixture(params=EVERY_ENGINE)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    made: Place = request.param(tmp_path)
    return made


@pytest.fixture
def empty(place: Place) -> Iterator[Pair]:
    """An engine without keys, to be changed."""
    with new_index(place) as index:
        yield Pair(index, ExactModel(ENCODER))


values = st.sampled_from(VALUES)
paths = st.sampled_from(PATHS)


def ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Range]:
    """Ranges with one bound or two."""
    lower = st.builds(dict, gt=bounds) | st.builds(dict, gte=bounds) | st.just({})
    upper = st.builds(dict, lt=bounds) | st.builds(dict, lte=bounds) | st.just({})
    both = st.tuples(lower, upper).filter(any)
    return st.builds(lambda path, given: Range(path, **given[0], **given[1]), paths, both)


leaves: st.SearchStrategy[Condition] = st.one_of(
    st.builds(Equals, paths, values),
    st.builds(In, paths, st.lists(values, min_size=1, max_size=4).map(tuple)),
    ranges(st.sampled_from([value for value in VALUES if isinstance(value, str)])),
    ranges(st.sampled_from([value for value in VALUES if not isinstance(value, (str, bool))])),
    st.builds(Exists, paths),
)
conditions = st.recursive(
    leaves,
    lambda parts: (
        st.builds(And, st.lists(parts, min_size=1, max_size=3).map(tuple))
        | st.builds(Or, st.lists(parts, min_size=1, max_size=3).map(tuple))
        | st.builds(Not, parts)
    ),
    max_leaves=6,
)
scopes = st.builds(
    Scope,
    modalities=st.none() | st.lists(st.sampled_from(Modality), unique=True),
    pool=st.sampled_from([None, "even", "odd", "tenth"]),
    condition=st.none() | conditions,
    within=st.none() | st.lists(st.sampled_from([*NAMES, "unknown", "half \ud800"])),
    exclude=st.lists(st.sampled_from([*NAMES, "unknown", "half \ud800"])),
)


def test_exact_search_and_count_give_what_the_model_gives(filled: Pair) -> None:
    # Milvus finds the keys of a scope alike in all structures, and fetches all vectors of it where one is not exact.
    is_alike = isinstance(filled.index, MilvusIndex) and filled.index.structure.kind != "FLAT"

    @settings(max_examples=5 if is_alike else 20, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), num_queries=st.sampled_from([1, 2, 25]), k=st.integers(1, 160), scope=scopes)
    def assert_same(seed: int, num_queries: int, k: int, scope: Scope) -> None:
        filled.assert_same_search(seed, num_queries, k, scope, exact=True)

    assert_same()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 160), scope=scopes)
def test_approximate_search_gives_k_keys_of_the_scope_with_their_true_scores(
    filled: Pair, seed: int, k: int, scope: Scope
) -> None:
    queries_QD = unit_vectors(seed, 3)
    for hits, wanted in zip(
        filled.index.search(queries_QD, k, scope), filled.model.search(queries_QD, NUM_KEYS, scope), strict=True
    ):
        true_scores = {hit.key: hit.score for hit in wanted}
        assert len(hits) == len({hit.key for hit in hits}) == min(k, len(wanted))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert [hit.score for hit in hits] == pytest.approx([true_scores[hit.key] for hit in hits], abs=1e-5)


def test_structure_of_faiss_is_searched(tmp_path: Path) -> None:
    with new_index(StructuredFaissPlace(tmp_path)) as index:
        assert isinstance(index, FaissIndex)
        index.upsert([make_key(number) for number in range(NUM_KEYS)])
        structure = index.compact().structure
        assert structure is not None
        assert structure.factory == "IVF8,Flat"
        faiss.cvar.indexIVF_stats.reset()
        index.search(unit_vectors(1, 3), 5)
        counted = faiss.cvar.indexIVF_stats
        assert counted.nq == 3
        assert counted.ndis < 3 * NUM_KEYS


def test_keys_pools_images_and_counts_are_those_of_the_model(filled: Pair) -> None:
    filled.assert_same_content()
    for key, new in list(filled.model.keys.items())[:40]:
        assert filled.index.get(key) == filled.model.get(key)
        assert [filled.index.image(key, place) for place in range(len(new.images))] == list(new.images)


@pytest.mark.parametrize("after", ["", "key-1", "key-10", "key-10\x00", "key-99", "zzz"])
def test_scan_begins_behind_the_name_given(filled: Pair, after: str) -> None:
    assert list(filled.index.scan(after)) == list(filled.model.scan(after))


@settings(max_examples=15, deadline=None)
@given(
    after=st.none() | st.sampled_from([*NAMES, "key-1\x00", "zzz"]), limit=st.sampled_from([1, 7, 600]), scope=scopes
)
def test_pages_of_a_scope_are_those_of_the_model(filled: Pair, after: str | None, limit: int, scope: Scope) -> None:
    assert filled.index.page(after, limit, scope) == filled.model.page(after, limit, scope)


@pytest.mark.parametrize("key", ["unknown", "", "half \ud800", "key-1\x00"])
def test_unknown_keys_are_not_found(filled: Pair, key: str) -> None:
    for look_up in (filled.index.get, filled.index.vector, filled.index.image):
        with pytest.raises(KeyNotFoundError):
            look_up(key)


@pytest.mark.parametrize(("key", "position"), [("key-0", 0), ("key-2", 1), ("key-2", -1)])
def test_a_key_without_such_an_image_is_told_from_one_that_has_it(filled: Pair, key: str, position: int) -> None:
    with pytest.raises(KeyNotFoundError):
        filled.index.image(key, position)


@pytest.mark.parametrize("k", [0, -1, True, 1.5])
def test_k_below_one_or_broken_is_refused(filled: Pair, k: Any) -> None:
    with pytest.raises(InvalidSearchError):
        filled.index.search(unit_vectors(0, 1), k)


@pytest.mark.parametrize(
    "queries_QD", [np.ones((1, 8)), np.eye(7)[:1], np.eye(8)[0], np.full((1, 8), np.nan), np.zeros((1, 8))]
)
def test_queries_of_another_shape_or_length_are_refused(filled: Pair, queries_QD: Any) -> None:
    with pytest.raises(InvalidSearchError):
        filled.index.search(queries_QD.astype(np.float32), 1)


@pytest.mark.parametrize("scope", [Scope(pool="unknown"), Scope(pool='x"'), Scope(modalities=["video"])])  # type: ignore[list-item]
def test_unknown_pools_and_modalities_are_refused(filled: Pair, scope: Scope) -> None:
    with pytest.raises(InvalidSearchError):
        filled.index.search(unit_vectors(0, 1), 1, scope)
    with pytest.raises(InvalidSearchError):
        filled.index.count(scope)


def test_unknown_pool_is_refused_with_those_there_are(filled: Pair) -> None:
    with pytest.raises(UnknownPoolError, match=r"^unknown pool 'x\\u2603'; known: even, odd, tenth$"):
        filled.index.count(Scope(pool="x\u2603"))


def test_of_many_pools_a_refusal_names_twenty(empty: Pair) -> None:
    pools = [f"pool {number:02}" for number in range(30)]
    empty.upsert([make_key(number, pools=(pools[number],)) for number in range(30)])

    with pytest.raises(UnknownPoolError) as caught:
        empty.index.search(unit_vectors(0, 1), 1, Scope(pool="unknown"))

    _, _, known = str(caught.value).partition("; known: ")
    names = known.removesuffix(" and more").split(", ")
    assert len(names) == 20
    assert set(names) < set(pools)
    assert known.endswith(" and more")


def test_index_that_can_answer_says_so_and_what_it_is(filled: Pair) -> None:
    filled.index.check()

    assert filled.index.encoder == ENCODER
    assert filled.index.version == filled.index.info().details.get("version")


@pytest.mark.parametrize("exact", [True, False])
def test_what_queries_are_changes_nothing_without_calibration(filled: Pair, exact: bool) -> None:
    queries_QD = unit_vectors(3, 3)
    expected = filled.index.search(queries_QD, 9, exact=exact)

    assert filled.index.search(queries_QD, 9, exact=exact, query_modalities=list(Modality)) == expected


@pytest.mark.parametrize("exact", [True, False])
def test_hits_come_with_the_vectors_that_are_stored(filled: Pair, exact: bool) -> None:
    queries_QD = unit_vectors(3, 2)
    plain = filled.index.search(queries_QD, 30, exact=exact)
    with_vectors = filled.index.search(queries_QD, 30, exact=exact, with_vectors=True)
    assert with_vectors == plain
    for hits in with_vectors:
        for hit in hits:
            assert hit.vector_D is not None
            np.testing.assert_array_equal(hit.vector_D, filled.model.vector(hit.key))
    assert all(hit.vector_D is None for hits in plain for hit in hits)
    stored = filled.index.get("key-501", with_vector=True)
    assert stored == filled.index.get("key-501")
    assert stored.vector_D is not None
    np.testing.assert_array_equal(stored.vector_D, filled.model.vector("key-501"))
    with filled.index.moment() as moment:
        assert moment.get("key-501") == stored
        np.testing.assert_array_equal(moment.centred(queries_QD, [None, None]), queries_QD)


def test_no_query_has_no_answer(filled: Pair) -> None:
    assert filled.index.search(np.zeros((0, 8), dtype=np.float32), 3) == []


documents = st.recursive(
    values | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["n", "s", "o", 'odd"/~name', "0"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module", params=EVERY_ENGINE)
def documented(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """An engine to be filled with metadata of every form."""
    with new_index(request.param(tmp_path_factory.mktemp("documented"))) as index:
        yield Pair(index, ExactModel(ENCODER))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["n", "s", "o", 'odd"/~name', "0"]), documents, max_size=3),
        min_size=10,
        max_size=10,
    ),
    st.lists(conditions, min_size=6, max_size=6),
)
def test_conditions_hold_of_exactly_the_same_metadata(
    documented: Pair, metadata: list[dict[str, Any]], asked: list[Condition]
) -> None:
    documented.upsert([make_key(number, metadata=document) for number, document in enumerate(metadata)])

    for condition in asked:
        (hits,) = documented.index.search(unit_vectors(0, 1), 10, Scope(condition=condition))
        (wanted,) = documented.model.search(unit_vectors(0, 1), 10, Scope(condition=condition))
        assert {hit.key for hit in hits} == {hit.key for hit in wanted}, condition


def make_change(kind: str, number: int, version: int) -> Change:
    """A change of one key, which follows from two numbers."""
    key = f"key-{number}"
    if kind == "put":
        pools = (" ",) if version == 9 else ("even",)  # the one of them is refused
        return Put(make_key(number, text=f"{version}", pools=pools))
    if kind == "patch":
        metadata = [None, {"n": version}, {"n": None, "o": {"n": version}}, {"n": float("nan")}][version % 4]
        return Patch(key, metadata, pools=("odd", "new") if version % 4 == 0 else None, overwrites=version > 5)
    return Delete(key)


kinds = st.sampled_from(["put", "put", "patch", "delete"])
changes = st.lists(
    st.one_of(
        st.tuples(
            st.just("apply"), st.lists(st.tuples(kinds, st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=8)
        ),
        st.tuples(st.just("delete_scope"), st.integers(0, 10)),
        st.tuples(
            st.just("upsert"), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=8)
        ),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 35), max_size=6)),
        st.tuples(st.just("search"), st.integers(1, 40)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    min_size=4,
    max_size=14,
)


@pytest.mark.parametrize("kind", EVERY_ENGINE)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=changes)
def test_any_sequence_of_changes_leaves_what_the_model_has(kind: Any, tmp_path: Path, steps: list[Any]) -> None:
    place: Place = kind(tmp_path)
    model = ExactModel(ENCODER)
    index = place.create()
    try:
        for step, given_ in steps:
            pair = Pair(index, model)
            if step == "upsert":
                pair.upsert([make_key(n, metadata={"n": n * version}, text=f"{version}") for n, version in given_])
            elif step == "delete":
                pair.delete([f"key-{number}" for number in given_])
            elif step == "apply":
                made = [make_change(*numbers) for numbers in given_]
                outcomes = index.apply(made).outcomes
                assert [(each.key, each.status) for each in outcomes] == list(
                    zip([change.key for change in made], model.apply(made), strict=True)
                )
            elif step == "delete_scope":
                scope = Scope(condition=Range(("n",), lte=given_), exclude=["key-3"])
                assert index.delete_scope(scope, dry_run=True).num_deleted == model.count(scope)
                assert index.delete_scope(scope).num_deleted == model.delete_scope(scope)
            elif step == "search":
                pair.assert_same_search(given_, 2, given_, Scope(condition=Range(("n",), gte=given_)))
            else:
                index.close()
                index = place.open()
        Pair(index, model).assert_same_content()
        Pair(index, model).assert_same_search(0, 2, 40, Scope())
    finally:
        index.close()
        place.clear()


def test_index_without_keys_finds_none(empty: Pair) -> None:
    empty.assert_same_search(0, 2, 5, Scope())
    empty.assert_same_content()


def test_names_with_any_characters_are_kept_apart(empty: Pair) -> None:
    empty.upsert([replace(make_key(number, pools=(name,)), key=name) for number, name in enumerate(ODD_NAMES)])

    empty.assert_same_content()
    for name in ODD_NAMES:
        assert empty.index.get(name).pools == (name,)
        assert list(empty.index.scan(name)) == list(empty.model.scan(name))
        empty.assert_same_search(0, 1, 30, Scope(pool=name))
        empty.assert_same_search(0, 1, 30, Scope(within=[name, "unknown"]))
        empty.assert_same_search(0, 1, 30, Scope(exclude=[name]))
    empty.delete(ODD_NAMES[::2])
    empty.assert_same_content()


def test_of_two_keys_of_one_name_the_later_is_stored(empty: Pair) -> None:
    empty.upsert([make_key(1, text="first"), make_key(2), make_key(1, text="second")])

    assert empty.index.get("key-1").payload.text == "second"
    empty.assert_same_content()


def test_new_key_replaces_every_part_of_the_old_one(empty: Pair) -> None:
    empty.upsert([make_key(20)])
    empty.upsert([NewKey("key-20", unit_vectors(7, 1)[0], text="only this")])

    empty.assert_same_content()
    with pytest.raises(InvalidSearchError):
        empty.index.count(Scope(pool="tenth"))


@pytest.mark.parametrize(
    "broken",
    [
        replace(make_key(1), key=" "),
        replace(make_key(1), key="half \ud800"),
        make_key(1, text=None, images=()),
        make_key(1, vector_D=np.eye(7, dtype=np.float32)[0]),
        make_key(1, vector_D=np.full(8, 1, dtype=np.float32)),
        make_key(1, vector_D=np.full(8, np.nan, dtype=np.float32)),
        make_key(1, metadata={"n": float("nan")}),
        make_key(1, metadata={"n": object()}),
        make_key(1, metadata=["n"]),
        make_key(1, pools=("",)),
    ],
)
def test_one_key_that_cannot_be_stored_keeps_all_out(empty: Pair, broken: NewKey) -> None:
    empty.upsert([make_key(0)])

    with pytest.raises(InvalidKeyError, match="cannot be stored"):
        empty.index.upsert([make_key(0, text="changed"), make_key(2), broken])

    empty.assert_same_content()


@pytest.mark.slow
def test_searches_within_and_without_ten_thousand_keys(empty: Pair) -> None:
    empty.upsert([make_key(number) for number in range(2_500)])
    many = [f"key-{number}" for number in range(1, 10_001)]
    condition = Range(("n",), gt=3)

    for scope in (
        Scope(within=many),
        Scope(exclude=many),
        Scope(within=many, exclude=many[:2_000]),
        Scope(within=many, pool="odd", condition=condition),
        Scope(exclude=many[:2_000], pool="odd", condition=condition),
    ):
        empty.assert_same_search(1, 2, 20, scope)
    assert [key.key for key in empty.index.scan()] == sorted(empty.model.keys)
    empty.delete(many)
    empty.assert_same_content()


def test_acknowledged_changes_are_seen_while_others_change_and_search(empty: Pair) -> None:
    def change_and_look(thread: int) -> None:
        for turn in range(12):
            keys = [make_key(1_000 * thread + number, text=f"turn {turn}") for number in range(3)]
            empty.index.upsert(keys)
            assert [empty.index.get(new.key).payload.text for new in keys] == [f"turn {turn}"] * 3
            names = [new.key for new in keys]
            (hits,) = empty.index.search(unit_vectors(turn, 1), 5, Scope(within=names))
            assert sorted(hit.key for hit in hits) == sorted(names)
            assert empty.index.delete([names[0]]) == 1
            assert empty.index.count(Scope(within=names)) == 2

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(change_and_look, range(4)))
    assert empty.index.count() == 8


def test_comparison_can_fail(filled: Pair) -> None:
    queries_QD = unit_vectors(0, 1)
    (hits,) = filled.model.search(queries_QD, 5)

    assert_same_hits([hits], [hits], [hits])
    for wrong in (
        hits[:4],
        [hits[0]] * 5,
        [replace(hits[0], score=0.0), *hits[1:]],
        [replace(hits[0], rank=2), *hits[1:]],
    ):
        with pytest.raises(AssertionError):
            assert_same_hits([wrong], [hits], [hits])


def test_one_name_is_not_taken_for_several(empty: Pair) -> None:
    empty.upsert([replace(make_key(number), key=name) for number, name in enumerate("abc")])

    with pytest.raises(TypeError, match="expected the keys to delete to be a collection of names, got 'abc'"):
        empty.index.delete("abc")
    for what in ("within", "exclude", "modalities"):
        with pytest.raises(InvalidSearchError, match=f"expected {what} to be a collection of names, got 'abc'"):
            Scope(**{what: "abc"})  # type: ignore[arg-type]
    with pytest.raises(InvalidKeyError, match="key 'key-1' cannot be stored: expected its pools to be a collection"):
        make_key(1, pools="abc")
    empty.assert_same_content()


@pytest.mark.parametrize("images", [("x",), "x", (b"x",), (StoredImage("x", "image/png"),)])  # type: ignore[arg-type]
def test_images_of_a_key_are_stored_images(images: Any) -> None:
    with pytest.raises(InvalidKeyError, match=r"cannot be stored: expected .* images to be"):
        make_key(1, images=images)


def test_what_is_of_another_type_than_it_should_be_is_told_so(empty: Pair) -> None:
    empty.upsert([make_key(1)])
    index: Any = empty.index

    with pytest.raises(InvalidKeyError, match="expected a NewKey, got dict"):
        index.upsert([{"key": "a"}])
    with pytest.raises(InvalidSearchError, match=r"expected a condition, such as .* makes of JSON, got dict"):
        Scope(condition={"path": "n", "eq": 1})  # type: ignore[arg-type]
    for vectors in (["x"], [[1.0], [1.0, 2.0]], None):
        with pytest.raises(InvalidSearchError, match="expected query vectors"):
            index.search(vectors, 1)
    for name in (None, 5, b"key-1", "\ud800"):
        assert index.delete([name]) == index.count(Scope(within=[name])) == 0  # type: ignore[list-item]
        for look_up in (index.get, index.vector, index.image):
            with pytest.raises(KeyNotFoundError, match="no key"):
                look_up(name)
    for after in (5, "\ud800"):
        with pytest.raises(InvalidSearchError, match="expected the name of a key to go on after"):
            list(index.scan(after))
    empty.assert_same_content()
