"""A deadline ends what waits for others, and what waits goes on to hold what it waited for."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.index.deadline import Deadline
from anykey.index.errors import DeadlineExceededError
from anykey.index.store.store_file import MOST_LENT, Connections, open_read_only
from tests.live_index import make_index, new_keys


def test_lock_that_came_too_late_is_not_given_back() -> None:
    lock, seconds = threading.Lock(), iter([0.0, 0.9999, 0.9999, 1.0])  # the wait ends a moment before the deadline
    deadline = Deadline(1, clock=lambda: next(seconds, 1.0))
    with lock:
        with pytest.raises(DeadlineExceededError), deadline.held(lock):
            pass
        assert lock.locked()


def wait_for_lock(deadline: Deadline) -> None:
    lock = threading.Lock()
    with lock, deadline.held(lock):
        pass


def wait_for_connection(deadline: Deadline, index_dir: Path) -> None:
    (store,) = (index_dir / "stores").glob("*/store.sqlite")
    connections = Connections(lambda: open_read_only(store))
    lent = [connections.lent() for _ in range(MOST_LENT)]
    for connection in lent:
        connection.__enter__()
    try:
        with connections.lent(deadline):
            pass
    finally:
        for connection in lent:
            connection.__exit__(None, None, None)
        connections.close()


@pytest.mark.parametrize("wait", [lambda deadline, _: wait_for_lock(deadline), wait_for_connection])
def test_who_waits_stops_once_nobody_wants_the_answer(tmp_path: Path, wait: Callable[[Deadline, Path], None]) -> None:
    index_dir, deadline = make_index(tmp_path / "i", new_keys(1)), Deadline(30)
    threading.Timer(0.2, deadline.cancel).start()
    start_s = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        wait(deadline, index_dir)
    assert time.monotonic() - start_s < 10
