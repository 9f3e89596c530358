"""Protects what is foretold of how long what waits will take."""

from anykey.service.concurrency.throughput import LEAST, WINDOW, Throughput


def test_it_tells_by_the_last_calls_without_the_longest() -> None:
    pace = Throughput()
    pace.note(1, 100.0)  # the first call of a model
    for number in range(LEAST - 1):
        assert pace.seconds_for(10) == 0.0, number
        pace.note(number, 0.5 * number)
    assert pace.seconds_for(10) == 5.0


def test_old_calls_are_forgotten() -> None:
    pace = Throughput()
    for seconds in (9.0, 1.0):
        for _ in range(WINDOW):
            pace.note(1, seconds)
    assert pace.seconds_for(3) == 3.0


def test_nothing_is_told_where_nothing_was_done() -> None:
    pace = Throughput()
    for _ in range(LEAST):
        pace.note(0, 1.0)
    assert pace.seconds_for(3) == 0.0
