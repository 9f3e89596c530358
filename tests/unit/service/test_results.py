"""Protects kept answers: served again only while the index is as it was, and never another's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Role
from anykey.index import FaissIndex
from anykey.index.filtering.filters import parse_condition
from anykey.index.key_index import NewKey, Scope
from anykey.service.answers.kept import KeptAnswer, ResultMemory
from anykey.service.answers.schemas import SearchResponse, Timings
from anykey.service.queries.canonical import digest_of
from anykey.service.queries.query import ItemPart, KeyPart, Query, VectorPart
from tests.fakes import FakeEncoder
from tests.integration.test_service_redis import RedisServer, redis  # noqa: F401  (a fixture)
from tests.serving import build_real_index, counters, serving, stored, until

ROOT = Path(__file__).parents[3]
WORDS = ("a", "bb", "ccc", "dddd", "eeeee")
KEYS = [stored(f"k{number}", Item(text=" ".join(WORDS[: number + 1])), number=number) for number in range(4)]


def key(name: str, text: str, **metadata: Any) -> NewKey:
    """A key as a writer stores it."""
    encoder = FakeEncoder()
    (vector_D,) = encoder.encode_prepared([encoder.prepare(Item(text=text), Role.KEY)])
    return NewKey(name, np.asarray(vector_D), text=text, metadata=metadata)


@contextmanager
def served(index_dir: Path, **options: Any) -> Iterator[httpx.Client]:
    """Serves an index directory that others may change."""
    with FaissIndex.open(index_dir) as index, serving(FakeEncoder(), index, **options) as client:
        yield client


def ask(client: httpx.Client, text: str = "a bb", **fields: Any) -> dict[str, Any]:
    answer = client.post("/search", json={"text": text, "k": 9, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from one request to the next."""
    passing = ("timings_ms", "cached", "result_cached", "snapshot")
    return {name: value for name, value in answer.items() if name not in passing}


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return build_real_index(tmp_path, FakeEncoder(), KEYS)


def test_an_equal_request_is_answered_from_what_was_kept_and_another_is_not(index_dir: Path) -> None:
    with served(index_dir) as client:
        first, again = ask(client), ask(client)
        assert (first["result_cached"], again["result_cached"], again["cached"]) == (False, True, True)
        assert lasting(again) == lasting(first)
        assert again["timings_ms"]["encode"] == 0
        others: list[dict[str, Any]] = [
            {"k": 2}, {"text": "a  bb"}, {"exclude": ["k1"]}, {"modalities": ["text"]}, {"min_score": 0.1},
            {"filter": {"field": "number", "gte": 2}}, {"include": ["vector"]}, {"exact": True},
            {"within": ["k1", "k2"]},
        ]  # fmt: skip
        for fields in others:
            assert not ask(client, **fields)["result_cached"], fields
            assert ask(client, **fields)["result_cached"], fields
        assert counters(client, "results")["result_hits"] == 1 + len(others)


def test_the_next_answer_after_a_change_is_fresh(index_dir: Path) -> None:
    with served(index_dir) as client, FaissIndex.open(index_dir, writable=True, compact_after=0) as writer:
        before = [ask(client), ask(client)][1]
        writer.upsert([key("new", "a bb")])
        after = ask(client)
        assert not after["result_cached"]
        assert {hit["key"] for hit in after["hits"]} - {hit["key"] for hit in before["hits"]} == {"new"}
        assert after["index_seq"] > before["index_seq"]
        assert ask(client)["result_cached"]
        writer.delete(["new"])
        assert lasting(ask(client))["hits"] == before["hits"]
        writer.compact()  # nothing changes but the version
        folded = ask(client)
        assert (folded["result_cached"], folded["hits"]) == (False, before["hits"])


def test_the_next_answer_after_a_change_by_another_process_is_fresh(index_dir: Path) -> None:
    change = (
        "import sys\nfrom pathlib import Path\nfrom anykey.index import FaissIndex\n"
        "with FaissIndex.open(Path(sys.argv[1]), writable=True) as index:\n"
        "    sys.stdout.write('open' + chr(10))\n    sys.stdout.flush()\n    sys.stdin.readline()\n"
        "    index.delete(['k0'])\n    sys.stdout.write('done' + chr(10))\n    sys.stdout.flush()\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", change, str(index_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as writer, served(index_dir) as client:  # type: ignore[call-overload]
        assert writer.stdout.readline() == "open\n"
        assert [ask(client), ask(client)][1]["result_cached"]
        writer.stdin.write("go\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "done\n"
        after = ask(client)
        assert not after["result_cached"]
        assert "k0" not in {hit["key"] for hit in after["hits"]}
        writer.communicate("end\n")


def test_the_like_of_a_stored_key_follows_that_key(index_dir: Path) -> None:
    with served(index_dir) as client, FaissIndex.open(index_dir, writable=True, compact_after=0) as writer:
        body = {"key": "k0", "k": 9}
        first, again = (client.post("/search", json=body).json() for _ in range(2))
        assert (first["result_cached"], again["result_cached"]) == (False, True)
        writer.upsert([key("k0", "dddd dddd")])
        after = client.post("/search", json=body).json()
        assert [hit["score"] for hit in after["hits"]] != [hit["score"] for hit in first["hits"]]


def test_pages_of_a_snapshot_are_kept_apart_from_those_of_now(index_dir: Path) -> None:
    with served(index_dir) as client, FaissIndex.open(index_dir, writable=True, compact_after=0) as writer:
        first = ask(client, offset=0)
        writer.upsert([key("new", "a bb")])
        now, then = ask(client, offset=0), ask(client, offset=0, snapshot=first["snapshot"])
        assert lasting(then)["hits"] == lasting(first)["hits"] != now["hits"]
        again = ask(client, offset=0, snapshot=first["snapshot"])
        assert (again["result_cached"], again["snapshot"], again["index_seq"]) == (
            True, first["snapshot"], first["index_seq"],
        )  # fmt: skip
        assert client.post("/search", json={"text": "a bb", "snapshot": "00000000.00000000.1.1"}).status_code == 410


def test_nothing_is_kept_where_that_is_turned_off(index_dir: Path) -> None:
    with served(index_dir, result_cache_bytes=0) as client:
        assert [ask(client)["result_cached"] for _ in range(3)] == [False] * 3


CHANGES = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("xyz"), st.sampled_from(WORDS)),
    st.tuples(st.just("delete"), st.sampled_from(["x", "y", "z", "k0", "k1"]), st.just("")),
    st.tuples(st.just("fold"), st.just(""), st.just("")),
)
QUESTIONS = st.fixed_dictionaries(
    {"text": st.sampled_from(WORDS[:3]), "k": st.sampled_from([1, 9])},
    optional={
        "filter": st.sampled_from([{"field": "number", "lt": 2}, {"not": {"field": "number", "exists": True}}]),
        "exclude": st.lists(st.sampled_from(["k0", "x"]), unique=True),
    },
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(CHANGES, QUESTIONS), min_size=5, max_size=25))
def test_with_and_without_kept_answers_all_answers_are_equal(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    index_dir = build_real_index(tmp_path_factory.mktemp("index"), FakeEncoder(), KEYS)
    with ExitStack() as stack:
        keeping = stack.enter_context(served(index_dir))
        forgetting = stack.enter_context(served(index_dir, result_cache_bytes=0))
        writer = stack.enter_context(FaissIndex.open(index_dir, writable=True, compact_after=0))
        for step in steps:
            if isinstance(step, dict):
                for _ in range(2):
                    assert lasting(ask(keeping, **step)) == lasting(ask(forgetting, **step))
            elif step[0] == "put":
                writer.upsert([key(step[1], step[2], number=len(step[2]))])
            elif step[0] == "delete":
                writer.delete([step[1]])
            else:
                writer.compact()


def test_services_share_answers_through_redis_and_each_is_fresh(index_dir: Path, redis: RedisServer) -> None:  # noqa: F811
    options = {"redis_url": redis.url, "redis_timeout_ms": 2000}
    with (
        FaissIndex.open(index_dir, writable=True, compact_after=0) as writer,
        served(index_dir, **options) as one,
        served(index_dir, **options) as other,
    ):
        for number in range(100):  # writing to Redis is not waited for
            text = f"a bb {'c' * number}"
            first = ask(one, text)
            second = ask(other, text)
            assert lasting(second) == lasting(first)
            if second["result_cached"]:
                break
        assert counters(other, "results")["result_redis_hits"] == 1
        writer.upsert([key("new", "a bb")])
        for client in (one, other):
            assert "new" in {hit["key"] for hit in ask(client)["hits"]}


def test_a_copy_of_an_index_that_was_changed_otherwise_shares_no_answers(
    index_dir: Path,
    tmp_path: Path,
    redis: RedisServer,  # noqa: F811
) -> None:
    """Both have the same store's name, version and number of changes, and yet not the same keys."""
    copy = tmp_path / "copy"
    shutil.copytree(index_dir, copy)
    options = {"redis_url": redis.url, "redis_timeout_ms": 2000}
    for place, name in ((index_dir, "here"), (copy, "there")):
        with FaissIndex.open(place, writable=True, compact_after=0) as writer:
            writer.upsert([key(name, "a bb")])
    for place, name in ((index_dir, "here"), (copy, "there")):
        with served(place, **options) as client:
            answer = ask(client)
            assert not answer["result_cached"]
            assert answer["hits"][0]["key"] in (name, "k1")
            assert name in {hit["key"] for hit in answer["hits"]}


def test_a_store_that_came_back_to_its_place_is_not_answered_for_by_what_was_there(
    index_dir: Path,
    tmp_path: Path,
    redis: RedisServer,  # noqa: F811
) -> None:
    """Version, store and number of changes are those of before, as where `rsync` brings a copy back."""
    copy = tmp_path / "copy"
    shutil.copytree(index_dir / "stores", copy)
    options = {"redis_url": redis.url, "redis_timeout_ms": 2000}
    number_kept = Redis.from_url(redis.url).dbsize
    for name in ("before", "after"):
        with FaissIndex.open(index_dir, writable=True, compact_after=0) as writer:
            writer.upsert([key(name, "a bb")])
        with served(index_dir, **options) as client:
            assert name in {hit["key"] for hit in ask(client)["hits"]}
            until(lambda: number_kept() >= 2, "the vector and the answer are in Redis")
        for file in copy.rglob("*"):
            if file.is_file():
                place = index_dir / "stores" / file.relative_to(copy)
                for other in place.parent.glob(f"{place.name}-*"):  # its log
                    other.unlink()
                shutil.copy2(file, place.with_suffix(".new"))
                os.replace(place.with_suffix(".new"), place)


def answer_of(num_bytes: int) -> KeptAnswer:
    fields = SearchResponse.model_construct(hits=[], timings_ms=Timings.model_construct())
    return KeptAnswer(fields, b"x" * num_bytes, 1)


def test_room_is_bounded_and_what_was_used_last_stays() -> None:
    memory = ResultMemory(max_bytes=100_000, ttl_s=60)
    memory.put("too large", "m", answer_of(50_000))
    assert len(memory) == 0
    for number in range(20):
        memory.put(str(number), "m", answer_of(9_000))
        memory.get("0", "m")
        assert memory.num_bytes <= 100_000
    assert "0" in memory
    assert "1" not in memory
    assert memory.get("19", "another moment") is None
    assert "19" not in memory
    used = memory.num_bytes
    memory.put("0", "m2", answer_of(1))
    assert memory.num_bytes < used


def test_an_answer_is_forgotten_after_its_time() -> None:
    now_s = [0.0]
    memory = ResultMemory(max_bytes=100_000, ttl_s=5, clock=lambda: now_s[0])
    memory.put("q", "m", answer_of(10))
    now_s[0] = 4.9
    assert memory.get("q", "m") is not None
    now_s[0] = 5.0
    assert memory.get("q", "m") is None
    assert memory.num_bytes == 0


CONDITIONS = [
    {"field": "a", "eq": 1}, {"field": "a", "eq": 1.0}, {"field": "a", "eq": True}, {"field": "a", "eq": "1"},
    {"field": "a", "in": [1, 2]}, {"field": "a", "gt": 1}, {"field": "a", "gte": 1}, {"field": "a", "lt": "2026-01-01"},
    {"field": "a", "exists": True}, {"field": "a", "exists": False}, {"not": {"field": "a", "eq": 1}},
    {"and": [{"field": "a", "eq": 1}, {"field": "b", "eq": 1}]},
    {"or": [{"field": "a", "eq": 1}, {"field": "b", "eq": 1}]},
    {"field": ["a", "b"], "eq": 1}, {"field": "a.b", "gt": 1},
]  # fmt: skip


def queries() -> list[Query]:
    """Queries each of which differs from all others in what it asks."""
    text = ItemPart(Item(text="a"))
    parts: list[tuple[Any, ...]] = [
        (text,), (ItemPart(Item(text="b")),), (ItemPart(Item(text="a", images=(b"x",))),), (KeyPart("a"),),
        (ItemPart(Item(text="a"), instruction="look"),), (text, KeyPart("a")), (KeyPart("a"), text),
        (ItemPart(Item(text="a"), weight=0.5),), (ItemPart(Item(images=(b"a", b"b"))),),
        (ItemPart(Item(images=(b"ab",))),), (VectorPart((1.0, 0.0)),), (VectorPart((0.0, 1.0)),),
    ]  # fmt: skip
    scopes = [
        Scope(modalities=frozenset({Modality.TEXT})), Scope(modalities=frozenset()), Scope(pool="a"), Scope(pool="b"),
        Scope(within=frozenset({"a", "b"})), Scope(within=frozenset({"ab"})), Scope(exclude=frozenset({"a"})),
    ]  # fmt: skip
    found = [Query(each) for each in parts]
    found += [Query((text,), scope=scope) for scope in scopes]
    found += [Query((text,), scope=Scope(condition=parse_condition(condition))) for condition in CONDITIONS]
    found += [Query((text,), k=3), Query((text,), exact=True), Query((text,), min_score=0.1), Query((text,), offset=0)]
    return found


def test_each_query_has_a_digest_of_its_own_and_equal_ones_share_it() -> None:
    digests = [digest_of(query) for query in queries()]
    assert len(set(digests)) == len(digests)
    assert digests == [digest_of(query) for query in queries()]


@dataclass(frozen=True)
class Inner:
    number: int = 0


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    number: int = 0
    told: float = 1.0
    where: str = field(default="", compare=False)


def test_a_field_that_is_as_usual_is_told_from_one_that_is_not() -> None:
    values = [
        Outer(), Outer(Inner(1)), Outer(number=1), Outer(Inner(1), 1), Outer(told=0.5), Outer(told=True),
        Outer(number=False),
        [Inner(), 1], [Inner(1)], [Inner(), "number", 1], [Outer(Inner()), "number", 1],
    ]  # fmt: skip
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of(Outer(where="here")) == digest_of(Outer(Inner(0), 0, 1.0))


def test_what_cannot_be_told_apart_has_no_digest() -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        digest_of([object()])
