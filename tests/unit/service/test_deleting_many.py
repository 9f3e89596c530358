"""Protects deletions of very many keys: others change keys and search meanwhile, and nothing else goes."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from anykey.index.faiss_index import FaissIndex
from anykey.index.key_index import NewKey
from tests.fakes import FakeEncoder
from tests.live_index import make_index, unit_vectors
from tests.serving import serving

OLD = {"filter": {"field": "lot", "eq": "old"}}


@contextmanager
def serving_many(tmp_path: Path, num_keys: int, *, is_folded: bool, **settings: Any) -> Iterator[httpx.Client]:
    """Serves an index of so many old keys, which a version covers or not, and one new one; it may change them."""
    vectors_ND = unit_vectors(num_keys)
    old = [NewKey(f"k{n}", vector_D, text="a mug", metadata={"lot": "old"}) for n, vector_D in enumerate(vectors_ND)]
    new = NewKey("new", vectors_ND[0], text="a cup", metadata={"lot": "new"})
    directory = make_index(tmp_path / "index", [new])
    with FaissIndex.open(directory, writable=True, compact_after=0) as index:
        index.upsert(old)
        if is_folded:
            index.compact()
    encoder = FakeEncoder(name="drawn", fingerprint="sha256:drawn")
    with FaissIndex.open(directory) as index, serving(encoder, index, writable=True, **settings) as client:
        yield client


def put(client: httpx.Client, key: str, lot: str) -> int:
    """Stores a key; gives the number of the change."""
    body = {"vector": [1.0] + [0.0] * 7, "metadata": {"lot": lot}}
    answer = client.put(f"/keys/{key}", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["seq"])


def check_that_others_get_on(tmp_path: Path, num_keys: int, longest_s: float) -> None:
    """Deletes so many keys while others change keys and search, who wait no longer than they may."""
    waits: list[float] = []
    seqs: list[int] = []
    is_over = threading.Event()
    with serving_many(tmp_path, num_keys, is_folded=num_keys > 20_000) as client, ThreadPoolExecutor(2) as pool:
        last = f"k{num_keys - 1}"
        before = put(client, "new", "new")

        def change() -> None:
            while not is_over.is_set():
                began_s = time.monotonic()
                seqs.append(put(client, last, "old"))
                waits.append(time.monotonic() - began_s)

        def search() -> None:
            while not is_over.is_set():
                began_s = time.monotonic()
                assert client.post("/search", json={"vector": [1.0] + [0.0] * 7, "k": 3}).status_code == 200
                waits.append(time.monotonic() - began_s)
                time.sleep(0.01)

        others = [pool.submit(change), pool.submit(search)]
        headers = {"idempotency-key": "once"}
        with httpx.Client(base_url=client.base_url, timeout=600, trust_env=False) as patient:
            deleted = patient.post("/keys/delete", json=OLD, headers=headers).json()
            again = patient.post("/keys/delete", json=OLD, headers=headers)
        is_over.set()
        for other in others:
            other.result()
        amid = [seq for seq in seqs if before + 2_001 < seq < deleted["seq"]]
        assert amid, "changes are made between two pieces"
        assert num_keys - 1 <= deleted["num_deleted"] <= num_keys
        assert client.get(f"/keys/{last}").status_code == 200, "it was stored anew"
        assert client.post("/keys/count", json={}).json()["num_keys"] == 2
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == deleted
        assert max(waits) < longest_s


def test_others_change_and_search_between_the_pieces(tmp_path: Path) -> None:
    check_that_others_get_on(tmp_path, 10_500, longest_s=20.0)
