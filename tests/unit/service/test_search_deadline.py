"""A search that is late stops, so that its thread is free for the next."""

import threading
import time
from typing import Any

import httpx
import pytest

from anykey.encoder.item import Item
from anykey.index.deadline import Deadline
from anykey.index.hits import Hit
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, MemoryIndex, serving, stored

KEYS = [stored("a", Item(text="a"), ("slow",)), stored("b", Item(text="b"))]


class SlowIndex(MemoryIndex):
    """Takes for ever to search one pool, and looks at the deadline all the while."""

    entered = threading.Event()
    stopped = threading.Event()

    def search(self, *args: Any, **options: Any) -> list[list[Hit]]:
        """The hits, after a while."""
        deadline: Deadline = options["deadline"]
        if args[2].pool == "slow":
            self.entered.set()
            give_up_s = time.monotonic() + WAIT_S
            while time.monotonic() < give_up_s:
                if deadline.is_over:
                    self.stopped.set()
                deadline.check()
                time.sleep(0.001)
        return super().search(*args, **options)


@pytest.fixture
def index() -> SlowIndex:
    index = SlowIndex(FakeEncoder(), KEYS)
    index.entered, index.stopped = threading.Event(), threading.Event()
    return index


def test_late_searches_are_504_and_leave_their_thread_to_others(index: SlowIndex) -> None:
    with serving(FakeEncoder(), index, search_threads=1, request_deadline_ms=300) as client:
        late = client.post("/search", json={"text": "a", "pool": "slow"})
        assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline_exceeded")
        assert client.post("/search", json={"text": "a"}).status_code == 200
        assert index.stopped.is_set()


def test_search_of_a_client_that_went_away_stops(index: SlowIndex) -> None:
    with serving(FakeEncoder(), index, search_threads=1, request_deadline_ms=600_000) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/search", json={"text": "a", "pool": "slow"}, timeout=0.5)
        assert index.entered.is_set()
        assert index.stopped.wait(WAIT_S)
        assert client.post("/search", json={"text": "a"}).status_code == 200
