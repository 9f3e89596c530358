"""A search that nobody waits for any more stops, wherever it is, and leaves all as it was."""

import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from anykey.index import FaissIndex
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import DeadlineExceededError
from anykey.index.filtering.filters import parse_condition
from anykey.index.key_index import EVERYTHING, NewKey, Scope
from anykey.index.store.manifest import FoldOptions
from tests.live_index import make_index, unit_vectors

NUM_FOLDED, NUM_RECENT = 3_000, 2_000
VECTORS_ND = unit_vectors(NUM_FOLDED + NUM_RECENT)
QUERY_1D = VECTORS_ND[:1]
MANY = parse_condition(
    {"or": [{"and": [{"field": "n", "gte": n}, {"not": {"field": "tag", "eq": n}}]} for n in range(240)]}
)
SCOPES = {
    "plain": EVERYTHING,
    "filter": Scope(condition=MANY),
    "within": Scope(within=[f"k{number}" for number in range(NUM_FOLDED + NUM_RECENT)]),
    "pool": Scope(pool="even"),
}


def key(number: int) -> NewKey:
    metadata = {"n": number, "tag": f"tag {number % 50}", "title": f"title {number}"}
    return NewKey(f"k{number}", VECTORS_ND[number], f"{number}", metadata=metadata, pools=("odd", "even")[number % 2 :])


class Clock:
    """Seconds that pass by one whenever somebody looks."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return float(self.looks)


@pytest.fixture(scope="module", params=["exact", "HNSW32", "IVF64,PQ4x4fs"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissIndex]:
    """Some keys in a version of each kind of structure, and many that came since."""
    index_dir = make_index(
        tmp_path_factory.mktemp("stops") / "i",
        [key(number) for number in range(NUM_FOLDED)],
        options=FoldOptions(structure=request.param),
    )
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as opened:
        opened.upsert([key(number) for number in range(NUM_FOLDED, NUM_FOLDED + NUM_RECENT)])
        yield opened


@pytest.mark.parametrize("name", SCOPES)
def test_search_stops_wherever_it_is_and_the_next_is_right(index: FaissIndex, name: str) -> None:
    expected = index.search(QUERY_1D, 5, SCOPES[name])
    clock = Clock()
    assert index.search(QUERY_1D, 5, SCOPES[name], deadline=Deadline(1e9, clock)) == expected
    for stop_after in {0, 1, 2, clock.looks // 2, clock.looks - 2}:
        with pytest.raises(DeadlineExceededError):
            index.search(QUERY_1D, 5, SCOPES[name], deadline=Deadline(stop_after, Clock()))

    assert index.search(QUERY_1D, 5, SCOPES[name]) == expected
    assert index.count(SCOPES[name], deadline=Deadline(1e9)) == index.count(SCOPES[name])


def test_exact_search_of_many_queries_stops_between_them(index: FaissIndex) -> None:
    queries_QD = unit_vectors(600, seed=1)
    clock = Clock()
    hits = index.search(queries_QD, 2, exact=True, deadline=Deadline(1e9, clock))
    assert hits == index.search(queries_QD, 2, exact=True)
    with pytest.raises(DeadlineExceededError):
        index.search(queries_QD, 2, exact=True, deadline=Deadline(clock.looks - 2, Clock()))


def test_search_that_is_given_up_ends_at_once(index: FaissIndex) -> None:
    deadline, ended = Deadline(), threading.Event()

    def search_for_ever() -> None:
        try:
            while True:
                index.search(QUERY_1D, 5, SCOPES["filter"], deadline=deadline)
        except DeadlineExceededError:
            ended.set()

    thread = threading.Thread(target=search_for_ever)
    thread.start()
    time.sleep(0.01)
    deadline.cancel()
    thread.join(20)
    assert ended.is_set()


def test_no_deadline_is_everybodys_and_cannot_be_ended() -> None:
    with pytest.raises(TypeError, match="everybody's deadline"):
        NEVER.cancel()
    NEVER.check()


def test_large_filters_that_are_all_different_leave_nothing_behind(index: FaissIndex) -> None:
    def search(number: int) -> None:
        values = [f"{number} {value} {'x' * 990}" for value in range(1000)]
        condition = parse_condition({"field": "title", "in": values})
        assert index.search(QUERY_1D, 5, Scope(condition=condition)) == [[]]

    search(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 6):
            search(number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000, "each condition alone has 1 MB"
