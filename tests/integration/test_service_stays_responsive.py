"""Long answers hold up no other request: they are written outside the thread that all requests share."""

import threading
import time
from pathlib import Path

from anykey.encoder.item import Item
from anykey.index.faiss_index import FaissIndex
from anykey.service.schemas import KeyResponse, SearchResponse
from tests.fakes import FakeEncoder
from tests.serving import build_real_index, serving, stored

NUM_HITS = 1000
NUM_ANSWERS = 5
# What it may compute for an answer, whatever else runs: it is 3 ms, and was 13 ms while the answers were written in it.
MAX_LOOP_S = 0.007


def server_clock() -> int:
    """The clock of what the thread with the event loop has computed."""
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "server"]
    assert thread.ident is not None
    return time.pthread_getcpuclockid(thread.ident)


def test_a_long_answer_takes_little_of_the_event_loop(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    metadata = {f"field {number}": "forty letters that stand for a real text" for number in range(20)}
    keys = [stored(f"key-{number}", Item(text=f"text {number}"), (), **metadata) for number in range(NUM_HITS)]
    huge = stored("huge", Item(text="huge"), (), pages=[metadata] * NUM_HITS)
    with (
        FaissIndex.open(build_real_index(tmp_path, encoder, [*keys, huge])) as index,
        serving(encoder, index) as client,
    ):
        clock = server_clock()
        query = {"text": "a", "k": NUM_HITS, "exclude": ["huge"]}
        for method, path, body in (("POST", "/search", query), ("GET", "/keys/huge", None)):
            client.request(method, path, json=body)
            before_s = time.clock_gettime(clock)
            answers = [client.request(method, path, json=body) for _ in range(NUM_ANSWERS)]
            spent_s = time.clock_gettime(clock) - before_s
            assert min(len(answer.content) for answer in answers) > 1_000_000
            schema = SearchResponse if body else KeyResponse
            answer = schema.model_validate_json(answers[0].content)
            assert answer.model_dump(mode="json") == answers[0].json(), "what is sent is what the schema says"
            assert spent_s / NUM_ANSWERS < MAX_LOOP_S, path
