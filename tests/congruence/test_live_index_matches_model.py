"""Whatever is done to an index, in whatever order, it answers as a dictionary searched by brute force does.

Shape legend: Q = queries, D = width.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import FaissIndex, StoredImage
from anykey.index.changes import ABSENT, PRESENT, Applied, Change, Delete, Patch, Put, RequestKey, Status
from anykey.index.errors import IndexLockedError, KeyNotFoundError, ReadOnlyError, RequestMismatchError
from anykey.index.filtering.conditions import And, Equals, Exists, In, Not, Or, Range
from anykey.index.key_index import EVERYTHING, NewKey, Scope
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import FoldOptions
from tests.factories import build_with, write_jsonl
from tests.live_model import FAKE, FAKE_FACTS, Model

NAMES = ["a", "b", "c", "d", "B", "aa", "a b", "a/b", "'", '"', "%", "\u00e4", "\u9375", "\U0001f511", "\0", "a\0b"]
POOLS = ["p", "q", "\u00e4"]
TEXTS = ["one", "two three", "three two", "four five six", "a bb ccc dddd"]

names = st.sampled_from(NAMES)
name_lists = st.lists(names, max_size=6)
ks = st.integers(1, 5) | st.integers(1, 40)
numbers = st.integers(-2, 2) | st.sampled_from([0.5, 2**60, 1e300])


@st.composite
def unit_vectors(draw: st.DrawFn) -> NDArray[np.float32]:
    """Few directions, so that many scores are equal or nearly so."""
    vector_D = np.array(draw(st.lists(st.integers(-1, 1), min_size=8, max_size=8)), np.float32)
    vector_D[draw(st.integers(0, 7))] += 3
    return np.asarray(vector_D / np.linalg.norm(vector_D), np.float32)


images = st.builds(StoredImage, st.binary(max_size=20), st.sampled_from(["image/png", "image/x \u00e4"]))
metadata = st.dictionaries(
    st.sampled_from(["n", "s", "\u00e4"]),
    numbers | st.sampled_from(TEXTS) | st.booleans() | st.none() | st.lists(numbers, max_size=2),
    max_size=3,
)
new_keys = st.builds(
    NewKey,
    names,
    unit_vectors(),
    text=st.none() | st.sampled_from(TEXTS),
    images=st.lists(images, max_size=2).map(tuple),
    metadata=metadata,
    pools=st.lists(st.sampled_from(POOLS), max_size=2).map(tuple),
).filter(lambda new: new.text is not None or new.images)
paths = st.sampled_from([("n",), ("s",), ("\u00e4",), ("n", "s")])
comparisons = (
    st.builds(Equals, paths, numbers | st.sampled_from(TEXTS) | st.booleans())
    | st.builds(In, paths, st.lists(numbers, min_size=1, max_size=3).map(tuple))
    | st.builds(Range, paths, gte=numbers)
    | st.builds(Exists, paths)
)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=1, max_size=2).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=1, max_size=2).map(tuple))
    ),
    max_leaves=3,
)
scopes = st.just(EVERYTHING) | st.builds(
    Scope,
    modalities=st.none() | st.lists(st.sampled_from(Modality), max_size=2),
    pool=st.none() | st.sampled_from(POOLS),
    condition=st.none() | conditions,
    within=st.none() | st.lists(names, max_size=12),
    exclude=name_lists,
)
conditions_on_seq = st.sampled_from(["none", "none", "right", "wrong", "absent", "present"])
patches = st.builds(
    Patch,
    names,
    metadata=st.dictionaries(
        st.sampled_from(["n", "s", "\u00e4"]),
        numbers
        | st.none()
        | st.sampled_from([float("nan")])
        | st.dictionaries(st.just("s"), numbers | st.none(), max_size=1),
        max_size=3,
    ),
    pools=st.none() | st.lists(st.sampled_from([*POOLS, " "]), max_size=2).map(tuple),
    overwrites=st.booleans(),
)
change_lists = st.lists(
    st.tuples(st.builds(Put, new_keys) | patches | st.builds(Delete, names), conditions_on_seq), max_size=6
)
queries = st.lists(unit_vectors(), min_size=1, max_size=3).map(np.stack)


def _if_seq(found: int, kind: str) -> int | None:
    """What a change asks of the key that is stored, given by which change that was."""
    wrong = found + 1 if found else 7
    return {"none": None, "right": found, "wrong": wrong, "absent": ABSENT, "present": PRESENT}[kind]


class LiveIndex(RuleBasedStateMachine):
    """One writer, and one reader that never closes unless it is told to, over one directory."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="live-"))
        self.path = self.directory / "i"
        self.corpus: dict[str, str] = {}
        self.answers: dict[str, tuple[RequestKey, Applied]] = {}

    @initialize(
        vector_type=st.sampled_from(["float32", "float16"]),
        compact_after=st.sampled_from([0, 1, 4]),
        structure=st.sampled_from(["auto", "IVF1,Flat"]),
    )
    def create(self, vector_type: str, compact_after: int, structure: str) -> None:
        """Makes an index; its structure, asked for however few keys, looks at all lists, so its hits can be told."""
        options = FoldOptions(structure=structure)
        create_index(self.path, FAKE_FACTS, "float16" if vector_type == "float16" else "float32", options)
        self.model = Model(vector_type)
        self.reader = FaissIndex.open(self.path, exact_allowed=0)
        self.writer: FaissIndex | None = FaissIndex.open(
            self.path, writable=True, compact_after=compact_after, exact_allowed=0
        )

    def who(self, is_writer: bool) -> FaissIndex:
        """The writer, if it is asked for and open, or the reader."""
        return self.writer if is_writer and self.writer is not None else self.reader

    @precondition(lambda self: self.writer is not None)
    @rule(keys=st.lists(new_keys, max_size=5))
    def upsert(self, keys: list[NewKey]) -> None:
        assert self.writer is not None
        self.writer.upsert(keys)
        self.model.upsert(keys)

    @precondition(lambda self: self.writer is not None)
    @rule(keys=name_lists)
    def delete(self, keys: list[str]) -> None:
        assert self.writer is not None
        assert self.writer.delete(keys) == self.model.delete(keys)

    @precondition(lambda self: self.writer is not None)
    @rule(drawn=change_lists, atomic=st.booleans(), name=st.none() | st.sampled_from(["r", "\u00e4"]))
    def apply(self, drawn: list[tuple[Change, str]], atomic: bool, name: str | None) -> None:
        assert self.writer is not None
        seqs = {stored.key: stored.seq or 0 for stored in self.writer.scan()}
        changes = [replace(change, if_seq=_if_seq(seqs.get(change.key, ABSENT), kind)) for change, kind in drawn]
        request = None if name is None else RequestKey(name, repr((changes, atomic)).encode())
        last_seq = self.writer.info().details["seq"]
        if request is not None and name in self.answers:
            self._repeat(changes, atomic, request)
            return
        before = set(self.model.entries)
        applied = self.writer.apply(changes, atomic=atomic, request=request)
        after = self.model.apply(changes, seqs, last_seq, atomic=atomic)
        if request is not None:
            self.answers[request.name] = (request, applied)
        assert [outcome.key for outcome in applied.outcomes] == [change.key for change in changes]
        assert [outcome.status for outcome in applied.outcomes] == after.statuses
        assert (applied.seq, applied.is_repeat) == (after.last_seq, False)
        assert applied.num_deleted == after.statuses.count(Status.DELETED)
        assert {stored.key: stored.seq for stored in self.reader.scan()} == after.seqs
        for outcome in applied.outcomes:
            is_made = outcome.status in (Status.STORED, Status.DELETED)
            assert is_made == (outcome.reason is None)
            assert not is_made or (outcome.seq or 0) > last_seq
        first = applied.outcomes[:1]
        assert all(outcome.is_new == (outcome.key not in before) for outcome in first if outcome.status == "stored")

    def _repeat(self, changes: list[Change], atomic: bool, request: RequestKey) -> None:
        """What was asked before is answered again; another request under its name is refused."""
        assert self.writer is not None
        earlier, answer = self.answers[request.name]
        with pytest.raises(RequestMismatchError):
            self.writer.apply(changes, atomic=atomic, request=RequestKey(request.name, b"another"))
        assert self.writer.apply(changes, atomic=atomic, request=earlier) == replace(answer, is_repeat=True)
        assert self.writer.remembered(earlier) == replace(answer, is_repeat=True)

    @precondition(lambda self: self.writer is not None)
    @rule(scope=scopes)
    def delete_scope(self, scope: Scope) -> None:
        assert self.writer is not None
        if scope.pool is not None and not any(scope.pool in entry.new.pools for entry in self.model.entries.values()):
            return
        found = self.model.in_scope(scope)
        last_seq = self.writer.info().details["seq"]
        assert self.writer.delete_scope(scope, dry_run=True) == Applied(num_deleted=len(found), seq=last_seq)
        assert self.writer.delete_scope(scope) == Applied(num_deleted=len(found), seq=last_seq + len(found))
        assert self.model.delete(found) == len(found)

    @rule(is_writer=st.booleans(), after=st.none() | names, limit=st.integers(1, 5), scope=scopes)
    def page(self, is_writer: bool, after: str | None, limit: int, scope: Scope) -> None:
        index = self.who(is_writer)
        if scope.pool is not None and not any(scope.pool in entry.new.pools for entry in self.model.entries.values()):
            return
        expected = [key for key in self.model.in_scope(scope) if after is None or key > after]
        found = index.page(after, limit, scope)
        assert found == [self.model.entries[key].stored for key in expected[:limit]]
        walked: list[str] = []
        while found:
            walked.extend(stored.key for stored in found)
            found = index.page(found[-1].key, limit, scope)
        assert walked == expected

    @precondition(lambda self: self.writer is not None)
    @rule()
    def compact(self) -> None:
        assert self.writer is not None
        manifest = self.writer.compact()
        assert (manifest.num_keys, self.reader.count()) == (len(self.model.entries), len(self.model.entries))
        assert self.writer.compact() == manifest  # nothing is left to fold
        assert self.reader.info().details["num_unfolded"] == 0

    @rule(is_writer=st.booleans(), queries_QD=queries, k=ks, scope=scopes, exact=st.booleans())
    def search(self, is_writer: bool, queries_QD: NDArray[np.float32], k: int, scope: Scope, exact: bool) -> None:
        self.model.check_search(self.who(is_writer), queries_QD, k, scope, exact)

    @rule(is_writer=st.booleans(), key=names)
    def look_up(self, is_writer: bool, key: str) -> None:
        index, entry = self.who(is_writer), self.model.entries.get(key)
        if entry is None:
            with pytest.raises(KeyNotFoundError):
                index.get(key)
            with pytest.raises(KeyNotFoundError):
                index.vector(key)
        else:
            assert index.get(key) == entry.stored
            assert index.vector(key).tolist() == self.model.vector(key).tolist()
        with pytest.raises(KeyNotFoundError):
            index.image(key, len(entry.new.images) if entry else 0)

    @rule(is_writer=st.booleans(), after=st.none() | names)
    def scan(self, is_writer: bool, after: str | None) -> None:
        expected = sorted(key for key in self.model.entries if after is None or key > after)
        assert [stored.key for stored in self.who(is_writer).scan(after)] == expected

    @rule(is_writer=st.booleans())
    def look_at_all(self, is_writer: bool) -> None:
        self.model.check_all(self.who(is_writer))

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = FaissIndex.open(self.path, exact_allowed=0)
        with pytest.raises(ReadOnlyError):
            self.reader.delete([])

    @rule(compact_after=st.sampled_from([0, 1, 4]))
    def reopen_writer(self, compact_after: int) -> None:
        if self.writer is not None:
            with pytest.raises(IndexLockedError):
                FaissIndex.open(self.path, writable=True)
            self.writer.close()
        self.writer = FaissIndex.open(self.path, writable=True, compact_after=compact_after, exact_allowed=0)

    @rule()
    def close_writer(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    @rule(changed=st.dictionaries(names, st.sampled_from(TEXTS), min_size=1, max_size=6), gone=name_lists)
    def build(self, changed: dict[str, str], gone: list[str]) -> None:
        self.close_writer()
        self.corpus = {key: text for key, text in self.corpus.items() if key not in gone} | changed
        rows = ({"key": key, "text": text} for key, text in self.corpus.items())
        report = build_with(write_jsonl(self.directory / "c.jsonl", rows), self.path, FAKE)
        self.model.build(self.corpus)
        assert report.manifest.num_keys == len(self.model.entries)
        assert not build_with(self.directory / "c.jsonl", self.path, FAKE).is_new

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.close_writer()
            self.model.check_all(self.reader)
            self.reader.close()
            with FaissIndex.open(self.path, exact_allowed=0) as fresh:
                self.model.check_all(fresh)
            assert set(path.name for path in self.path.iterdir()) == {".lock", "CURRENT", "stores", "versions"}
        shutil.rmtree(self.directory)


def run(max_examples: int, num_steps: int) -> None:
    run_state_machine_as_test(
        LiveIndex,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=num_steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_live_index_matches_model() -> None:
    run(max_examples=12, num_steps=30)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_live_index_matches_model_for_long() -> None:
    run(max_examples=600, num_steps=60)
