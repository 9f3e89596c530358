"""Queries that share an encoder batch get the hits they get alone, each with its own text weight."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.congruence.test_http_matches_in_process import KEYS
from tests.service_inputs import as_base64, png
from tests.serving import GatedEncoder, MemoryIndex, counters, serving, until

BODIES: list[dict[str, Any]] = [
    {"text": f"a {'very ' * n}long text", "image": as_base64(png((20 * n, 100, 10))), "text_weight": n / 11}
    for n in range(12)
] + [{"text": f"only {n} words"} for n in range(4)]


def hits(client: httpx.Client, body: dict[str, Any]) -> Any:
    answer = client.post("/search", json=body).json()
    assert answer["cached"] is False
    return answer["hits"]


def test_batched_matches_single() -> None:
    alone, together = GatedEncoder(), GatedEncoder()
    with serving(alone, MemoryIndex(alone, KEYS), max_batch_items=1) as client:
        expected = [hits(client, body) for body in BODIES]
    index = MemoryIndex(together, KEYS)
    together.wait_until_entered()
    together.batches.clear()
    with serving(together, index, max_batch_items=64) as client, ThreadPoolExecutor(20) as pool:
        together.gate.clear()
        blocker = pool.submit(hits, client, {"text": "blocker"})
        together.wait_until_entered()
        answers = [pool.submit(hits, client, body) for body in BODIES]
        until(lambda: counters(client, "batcher")["queued"] == len(BODIES), "all queries wait")
        together.gate.set()
        assert [answer.result() for answer in answers] == expected
        assert blocker.result()
    assert max(together.batches) > 1, "no batch was shared, so nothing was compared"
