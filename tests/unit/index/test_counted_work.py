"""What changes and searches cost, counted in statements and calls, which are as many on a busy machine."""

import cProfile
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.filtering.filters import parse_condition
from anykey.index.key_index import NewKey, Scope
from tests.killed_writers import numbered_key
from tests.live_index import make_index, unit_vectors

NUM_KEYS = 40
TITLES = parse_condition({"or": [{"field": "title", "eq": f"{number}"} for number in range(300)]})
PRICES = parse_condition({"field": "n", "gte": 10, "lt": 50})
SCOPES = {
    "many conditions": Scope(condition=TITLES),
    "range": Scope(condition=PRICES),
    "pool": Scope(pool="even"),
    "plain": Scope(),
}


def upsert(index: FaissIndex, number: int) -> None:
    index.upsert([numbered_key(f"new-{number}", number)])


def delete(index: FaissIndex, number: int) -> None:
    index.delete([f"k{number}"])


def num_calls(work: Callable[[], object], name: str = "") -> int:
    """Calls that some work makes, of Python's functions and of those in C; of those only whose name has a part."""
    with cProfile.Profile() as profile:
        work()
    return sum(entry.callcount for entry in profile.getstats() if name in str(entry.code))


@pytest.mark.parametrize("change", [upsert, delete])
def test_a_change_of_one_key_costs_few_statements(tmp_path: Path, change: Callable[[FaissIndex, int], None]) -> None:
    index_dir = make_index(tmp_path / "i", [])
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([numbered_key(f"k{number}", number) for number in range(NUM_KEYS)])
        change(index, 0)  # imports and caches
        statements = num_calls(lambda: [change(index, number) for number in range(1, NUM_KEYS)], "execute")

    assert statements / (NUM_KEYS - 1) <= 20  # nine of them for the words of the key


def key(number: int) -> NewKey:
    metadata = {"n": number, "title": f"title {number}"}
    return NewKey(
        f"k{number}", unit_vectors(1, number)[0], "text", metadata=metadata, pools=("odd", "even")[number % 2 :]
    )


def test_search_with_a_filter_makes_no_more_calls_where_more_keys_are_recent(tmp_path: Path) -> None:
    """Each recent key was asked each condition once, which took minutes for 999 conditions over some thousand keys."""
    query_1D, calls = unit_vectors(1), []
    with FaissIndex.open(make_index(tmp_path / "i", []), writable=True, compact_after=0) as index:
        for numbers in (range(100), range(100, 2000)):
            index.upsert([key(number) for number in numbers])
            for scope in SCOPES.values():
                index.search(query_1D, 5, scope)  # what keys say is taken in by whoever asks first
            calls.append(
                {
                    name: num_calls(lambda scope=scope: index.search(query_1D, 5, scope))
                    for name, scope in SCOPES.items()
                }
            )
        index.compact()
        of_version = num_calls(lambda: index.count(Scope(condition=TITLES)))

    few, many = calls
    assert {name: many[name] <= few[name] + 20 for name in SCOPES} == dict.fromkeys(SCOPES, True), calls
    assert many["many conditions"] < 3 * of_version
