"""Long answers hold up no other request: they are written outside the thread that all requests share."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.answers.schemas import SearchResponse
from anykey.service.app import create_app
from anykey.service.keys.schemas import KeyResponse
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, make_settings, running, serving, stored

NUM_HITS = 1000
NUM_ANSWERS = 5
# What it may compute for an answer, whatever else runs: it is 3 ms, and was 13 ms while the answers were written in it.
MAX_LOOP_S = 0.007
MAX_BLOCKED_S = 0.002  # in one go, so that all others wait; it is 1 ms, and was 3 ms while answers were sent whole


class LoopProbe:
    """An application that finds out how much its event loop computes from one turn of it to the next.

    What else runs on the machine does not count: it is the loop's own processor time.

    Attributes:
        state: The application's.
        turns_s: Of each turn.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.state = app.state
        self._last_s: float | None = None
        self.turns_s: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begins to look with the first request."""
        if scope["type"] == "http" and self._last_s is None:
            self._look()
        await self._app(scope, receive, send)

    def _look(self) -> None:
        now_s = time.thread_time()
        if self._last_s is not None:
            self.turns_s.append(now_s - self._last_s)
        self._last_s = now_s
        asyncio.get_running_loop().call_soon(self._look)


def server_clock(others: Sequence[threading.Thread]) -> int:
    """The clock of what the thread with the event loop has computed: the one server that was not there before."""
    (thread,) = [one for one in threading.enumerate() if one.name == "server" and one not in others]
    assert thread.ident is not None
    return time.pthread_getcpuclockid(thread.ident)


def test_a_long_answer_takes_little_of_the_event_loop(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    metadata = {f"field {number}": "forty letters that stand for a real text" for number in range(20)}
    keys = [stored(f"key-{number}", Item(text=f"text {number}"), (), **metadata) for number in range(NUM_HITS)]
    huge = stored("huge", Item(text="huge"), (), pages=[metadata] * NUM_HITS)
    others = threading.enumerate()
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, [*keys, huge])) as index,
        serving(encoder, index) as client,
    ):
        clock = server_clock(others)
        query = {"text": "a", "k": NUM_HITS, "exclude": ["huge"]}
        for method, path, body in (("POST", "/search", query), ("GET", "/keys/huge", None)):
            client.request(method, path, json=body)
            before_s = time.clock_gettime(clock)
            answers = [client.request(method, path, json=body) for _ in range(NUM_ANSWERS)]
            spent_s = time.clock_gettime(clock) - before_s
            assert min(len(answer.content) for answer in answers) > 1_000_000
            schema = SearchResponse if body else KeyResponse
            answer = schema.model_validate_json(answers[0].content)
            assert answer.model_dump(mode="json", exclude_unset=True) == answers[0].json(), (
                "what is sent is what the schema says"
            )
            assert spent_s / NUM_ANSWERS < MAX_LOOP_S, path


@pytest.mark.parametrize("long", [{"k": NUM_HITS}, {"k": 1, "facets": [{"field": "about", "limit": NUM_HITS}]}])
def test_a_long_answer_holds_up_no_other_request(tmp_path: Path, long: dict[str, Any]) -> None:
    """A thousand hits, or counted values, of a kilobyte each."""
    encoder = FakeEncoder()
    keys = [stored(f"key-{n}", Item(text=f"text {n}"), (), about=f"{n} " + "a letter " * 112) for n in range(NUM_HITS)]
    with FaissIndex.open(build_real_index(tmp_path, encoder, keys)) as index:
        probe = LoopProbe(create_app(make_settings(), encoder=encoder, index=index))
        with running(probe) as client:
            client.post("/search", json={"text": "a"})
            blocked_s = []
            for _ in range(NUM_ANSWERS):
                probe.turns_s.clear()
                answer = client.post("/search", json={"text": "a", **long})
                blocked_s.append(max(probe.turns_s))
                assert len(answer.content) > 1_000_000
                fields = answer.json()
                shown = fields["hits"] if fields["facets"] is None else fields["facets"][0]["values"]
                assert len(shown) == NUM_HITS
            assert sorted(blocked_s)[NUM_ANSWERS // 2] < MAX_BLOCKED_S
