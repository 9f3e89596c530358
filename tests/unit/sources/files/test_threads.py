"""Maps in threads: the order stays, and inputs are not read far ahead."""

import threading
from itertools import count

import pytest

from anykey.sources.files.threads import CHUNK_SIZE, map_in_threads


def test_results_come_in_order_whatever_the_threads_do() -> None:
    numbers = range(2 * CHUNK_SIZE + 3)
    assert list(map_in_threads(lambda number: number * 2, numbers, 7)) == [number * 2 for number in numbers]


def test_no_more_than_a_chunk_is_read_ahead() -> None:
    source = count()
    results = map_in_threads(str, source, 2)
    assert next(results) == "0"
    assert next(source) == CHUNK_SIZE
    results.close()  # type: ignore[attr-defined]


def test_chunk_that_waits_for_nothing_stays_in_the_caller_s_thread() -> None:
    threads = set(map_in_threads(lambda _: threading.current_thread(), range(9), 4, waits=lambda _: False))
    assert threads == {threading.current_thread()}


def test_errors_are_raised_in_their_place() -> None:
    results = map_in_threads(lambda number: 6 // number, [3, 2, 0], 2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
