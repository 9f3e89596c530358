"""Protects what concurrent searches share: calls of the index, and what equal ones find; and what they do not."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.deadline import NEVER
from anykey.index.errors import KeyCorruptError
from anykey.index.faiss_index import FaissIndex
from anykey.index.hits import Hit
from anykey.index.key_index import Ranking
from anykey.index.store.manifest import FoldOptions
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.requests.context import CLIENT_GONE
from anykey.service.searching.batcher import SearchBatcher
from tests.congruence.test_http_matches_in_process import KEYS
from tests.fakes import FakeEncoder
from tests.live_index import make_index, new_keys
from tests.serving import WAIT_S, MemoryIndex, counters, serving, stored, until

TEXTS = ["a", "to be", "three words here", "seven letter", "a lone letter b", "five words are in this"]


class GatedIndex:
    """An index whose searches wait until the test lets them go.

    Attributes:
        calls: Number of queries, and k, of each call, in order.
        entered: Released once for each call begun.
        gate: Calls wait until it is set; set from the start.
        damaged: A call fails that has a query whose vector is these bytes.
        failure: How it does.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.calls: list[tuple[int, int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.damaged: bytes | None = None
        self.failure: Exception = KeyCorruptError(Path("store"), "a", "the record is damaged")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def moment(self, snapshot: str | None = None, **options: Any) -> "Iterator[GatedMoment]":
        """The inner index's, searched once the gate is open."""
        with self._inner.moment(snapshot, **options) as moment:
            yield GatedMoment(self, moment)

    def enter(self, vectors_QD: Any, k: int) -> None:
        """Waits for the gate, and fails if that is to be."""
        self.entered.release()
        assert self.gate.wait(WAIT_S), "the test never opened the gate"
        self.calls.append((len(vectors_QD), k))
        if self.damaged is not None and any(vector_D.tobytes() == self.damaged for vector_D in vectors_QD):
            raise self.failure


class GatedMoment:
    """A moment of a gated index."""

    def __init__(self, index: GatedIndex, inner: Any) -> None:
        self._index = index
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def search(self, vectors_QD: Any, k: int, *scope: Any, **options: Any) -> list[list[Hit]]:
        """What the inner moment finds, once the gate is open."""
        self._index.enter(vectors_QD, k)
        found: list[list[Hit]] = self._inner.search(vectors_QD, k, *scope, **options)
        return found

    def rank(self, vectors_QD: Any, k: int, *scope: Any, **options: Any) -> list[Ranking]:
        """The same, without what the keys carry."""
        self._index.enter(vectors_QD, k)
        found: list[Ranking] = self._inner.rank(vectors_QD, k, *scope, **options)
        return found


@pytest.fixture
def index() -> GatedIndex:
    return GatedIndex(MemoryIndex(FakeEncoder(), KEYS))


def num_waiting(client: httpx.Client) -> int:
    """How many searches wait now; not asked for so often that they hardly come to wait."""
    time.sleep(0.02)
    return counters(client, "searches")["waiting"]


class Crowd:
    """Searches that wait behind one that is under way."""

    def __init__(self, client: httpx.Client, index: GatedIndex, pool: ThreadPoolExecutor) -> None:
        self.client = client
        self._index = index
        self._pool = pool
        self._num_waiting = 0
        while index.entered.acquire(blocking=False):
            pass  # a search of before
        index.gate.clear()
        self._blocker = self.ask({"text": "the first of all", "k": 1})
        assert index.entered.acquire(timeout=WAIT_S)
        index.calls.clear()

    def ask(self, body: dict[str, Any], **options: Any) -> "Future[httpx.Response]":
        """Asks in a thread."""
        return self._pool.submit(self.client.post, "/search", json=body, **options)

    def wait(self, *bodies: dict[str, Any]) -> "list[Future[httpx.Response]]":
        """Asks for each, in any order, and returns when all wait."""
        asked = [self.ask(body) for body in bodies]
        self._num_waiting += len(bodies)
        until(lambda: num_waiting(self.client) == self._num_waiting, "all searches wait")
        return asked

    def go(self) -> list[tuple[int, int]]:
        """Lets all go; the calls that were made but for the first."""
        self._index.gate.set()
        assert self._blocker.result(WAIT_S).status_code == 200
        until(lambda: num_waiting(self.client) == 0, "all searches have begun")
        return self._index.calls[1:]


@contextmanager
def crowd(index: Any, **settings: Any) -> Iterator[Crowd]:
    """A service that is busy with one search."""
    encoder = FakeEncoder(index.encoder.name, index.encoder.fingerprint)
    with serving(encoder, index, **{"search_threads": 1, **settings}) as client, ThreadPoolExecutor(20) as pool:
        try:
            yield Crowd(client, index, pool)
        finally:
            index.gate.set()


def hits_of(asked: "list[Future[httpx.Response]]") -> list[Any]:
    return [answer.result(WAIT_S).json()["hits"] for answer in asked]


def hits_alone(index: Any, bodies: list[dict[str, Any]]) -> list[Any]:
    """The slow twin: one after the other, each in a call of its own."""
    encoder = FakeEncoder(index.encoder.name, index.encoder.fingerprint)
    with serving(encoder, index, max_batch_searches=1) as client:
        return [client.post("/search", json=body).json()["hits"] for body in bodies]


@pytest.mark.parametrize("structure", ["exact", "IVF8,SQ8"])
def test_searches_that_wait_share_a_call_and_find_what_they_find_alone(tmp_path: Path, structure: str) -> None:
    make_index(tmp_path / "index", new_keys(80), options=FoldOptions(structure=structure))
    bodies = [{"text": text, "k": 5} for text in TEXTS] + [{"text": text, "k": 5, "exact": True} for text in TEXTS]
    with FaissIndex.open(tmp_path / "index", exact_allowed=0) as real:
        index = GatedIndex(real)
        expected = hits_alone(real, bodies)
        with crowd(index) as waiting:
            asked = waiting.wait(*bodies)
            assert waiting.go() == [(len(TEXTS), 5)] * 2
            assert hits_of(asked) == expected


def test_what_differs_in_kind_shares_no_call(index: GatedIndex) -> None:
    bodies = [
        {"text": "a", "k": 5},
        {"text": "a", "k": 6},
        {"text": "a", "k": 5, "exact": True},
        {"text": "a", "k": 5, "pool": "texts"},
        {"text": "a", "k": 5, "filter": {"field": "nr", "gte": 2}},
        {"text": "a", "k": 5, "exclude": ["text 1"]},
        {"text": "a", "k": 5, "filter": {"field": "nr", "gte": 2}, "modalities": ["fused"]},
    ]
    again = [{**body, "text": "to be"} for body in bodies]
    expected = hits_alone(index, [*bodies, *again])
    with crowd(index) as waiting:
        asked = waiting.wait(*bodies, *again)
        assert Counter(waiting.go()) == Counter((2, body["k"]) for body in bodies)
        assert hits_of(asked) == expected


def test_a_call_has_as_many_searches_as_may_share_one(index: GatedIndex) -> None:
    with crowd(index, max_batch_searches=4) as waiting:
        waiting.wait(*({"text": text} for text in TEXTS))
        assert waiting.go() == [(4, 10), (2, 10)]


def test_searches_do_not_share_where_they_must_not(index: GatedIndex) -> None:
    with crowd(index, max_batch_searches=1) as waiting:
        waiting.wait(*({"text": text} for text in TEXTS))
        assert waiting.go() == [(1, 10)] * len(TEXTS)


def test_equal_searches_that_wait_are_searched_for_once(index: GatedIndex) -> None:
    with crowd(index, max_batch_searches=1) as waiting:
        asked = waiting.wait({"text": "a"}, {"text": "to be"})
        asked += [waiting.ask({"text": "a"}) for _ in range(2)]
        until(lambda: counters(waiting.client, "searches")["shared"] == 2, "equal searches have come")
        assert waiting.go() == [(1, 10), (1, 10)]
        first, other, second, third = hits_of(asked)
        assert first == second == third != other


def test_a_search_does_not_join_an_equal_one_that_has_begun(index: GatedIndex) -> None:
    """It may have to see a change that came since."""
    with crowd(index) as waiting:
        waiting.wait({"text": "the first of all", "k": 1})
        assert waiting.go() == [(1, 1)]


def test_a_search_whose_client_has_gone_is_left_out(index: GatedIndex, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anykey.service")
    with crowd(index) as waiting:
        (asked,) = waiting.wait({"text": "a"})
        with pytest.raises(httpx.ReadTimeout):
            waiting.client.post("/search", json={"text": "to be"}, timeout=0.3)
        until(lambda: any(vars(record).get("status") == CLIENT_GONE for record in caplog.records), "it is seen to go")
        assert waiting.go() == [(1, 10)]
        assert asked.result(WAIT_S).status_code == 200
        assert counters(waiting.client, "searches")["dropped"] == 1


def test_a_search_that_is_late_is_answered_in_time_and_left_out(index: GatedIndex) -> None:
    with crowd(index, request_deadline_ms=400) as waiting:
        started_s = time.monotonic()
        late = waiting.ask({"text": "a"}).result(WAIT_S)
        assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline_exceeded")
        assert time.monotonic() - started_s < WAIT_S / 2
        index.gate.set()
        until(lambda: num_waiting(waiting.client) == 0, "the queue is empty")
        assert index.calls == [(1, 1)]


@pytest.mark.parametrize("status", [503, 500])
def test_a_search_that_fails_fails_alone_and_at_once(index: GatedIndex, status: int) -> None:
    index.damaged = FakeEncoder().encode([Item(text="to be")])[0].tobytes()
    if status == 500:
        index.failure = ZeroDivisionError("a bug of ours")
    bodies = [{"text": text} for text in TEXTS]
    with crowd(index, request_deadline_ms=1000 * 10 * WAIT_S) as waiting:
        answers = [asked.result(WAIT_S) for asked in (waiting.wait(*bodies), waiting.go())[0]]
        assert [answer.status_code for answer in answers] == [status if text == "to be" else 200 for text in TEXTS]


def test_one_that_cannot_even_wait_leaves_the_others_that_it_would_begin_with() -> None:
    threads = BoundedThreads("search", 1, 10)
    batcher: SearchBatcher[Any, int, int] = SearchBatcher(
        lambda kind, sought, deadline: sought, lambda _: 9, lambda _: 9, threads=threads, num_threads=1, max_waiting=9
    )
    together = batcher.together(3)
    futures = []
    for kind in ("alike", ["what no dictionary takes"], "alike"):
        with together.place() as place:
            futures.append(batcher.submit(kind, 7, NEVER, lambda found: found, place))
    assert isinstance(futures[1].exception(WAIT_S), TypeError)
    assert futures[0].result(WAIT_S) == futures[2].result(WAIT_S) == 7
    threads.close()


def test_a_full_queue_refuses(index: GatedIndex) -> None:
    with crowd(index, max_queue_items=3) as waiting:
        # Three places, and one more for what the thread is about to take.
        asked = [answer for text in TEXTS[:4] for answer in waiting.wait({"text": text})]
        refused = waiting.ask({"text": "one too many"}).result(WAIT_S)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
        waiting.go()
        assert {answer.result(WAIT_S).status_code for answer in asked} == {200}


class SleepyIndex(MemoryIndex):
    """Takes some time for a call, and some for each of its queries.

    Attributes:
        call_s: For a call.
        query_s: For a query.
    """

    call_s = query_s = 0.0

    def search(self, vectors_QD: Any, *args: Any, **options: Any) -> list[list[Hit]]:
        """The hits, after a while."""
        time.sleep(self.call_s + self.query_s * len(vectors_QD))
        options["deadline"].check()
        return super().search(vectors_QD, *args, **options)


def pace_of(client: httpx.Client) -> dict[str, Any]:
    pace: dict[str, Any] = client.get("/info").json()["index"]["pace"]["usual"]
    return pace


def test_whether_searches_share_calls_is_measured_with_the_index_that_is_served() -> None:
    index = SleepyIndex(FakeEncoder(), [stored("a", Item(text="a"))])
    index.call_s = 0.005
    with serving(FakeEncoder(), index, max_batch_searches=None) as client:
        pace = pace_of(client)
        together_ms = pace["together_ms"][str(pace["most_together"])]
        assert together_ms <= 1.25 * min(pace["together_ms"].values()) < pace["alone_ms"] / 2
        index.version, index.call_s, index.query_s = "2", 0.0, 0.01
        client.post("/search", json={"text": "a"})
        until(lambda: pace_of(client)["most_together"] == 1, "it is measured again, of another version")


def test_a_search_that_is_too_slow_to_be_measured_shares_calls_if_it_is_exact() -> None:
    index = SleepyIndex(FakeEncoder(), [stored("a", Item(text="a"))])
    index.call_s = 0.6
    with serving(FakeEncoder(), index, max_batch_searches=None) as client:
        info = client.get("/info").json()["index"]["pace"]
        assert (info["usual"]["most_together"], info["exact"]["most_together"]) == (1, 16)
        assert info["usual"]["alone_ms"] is None
