"""Protects how an answer says it was made: each number beside one that the test counts in another way."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import faiss
import httpx
import numpy as np
import pytest

from anykey.encoder.item import Item, Modality
from anykey.index import FaissIndex
from anykey.index.milvus_index import MilvusIndex, Structure
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher
from anykey.service.embedding.cache import CacheCounters, MemoryCache, QueryVector, VectorCache
from anykey.service.embedding.query_embedder import ItemEmbedder, Source
from anykey.service.queries.parts import ItemPart
from tests.engines import needs_milvus
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, serving
from tests.unit.service.test_query_parts import asked, refused
from tests.unit.service.test_ranking import FACTS, NUM_KEYS, QUERY_D, TEXT, drawn_keys, make

NUM_RECENT, NUM_REMOVED = 40, 2  # one of the removed was recent
STAGES = ("wait_ms", "scope_ms", "compare_ms", "words_ms", "payload_ms", "choose_ms", "write_ms")
FILTER = {"field": "nr", "lt": 50}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    directory = make(tmp_path_factory.mktemp("explained") / "exact")
    with FaissIndex.open(directory) as index, serving(FakeEncoder(), index) as client:
        yield client


@pytest.fixture(scope="module")
def clustered_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("explained") / "clustered", "IVF16,Flat")


@pytest.fixture(scope="module")
def clustered(clustered_dir: Path) -> Iterator[httpx.Client]:
    with FaissIndex.open(clustered_dir, exact_allowed=0) as index, serving(FakeEncoder(), index) as client:
        yield client


def explained(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """How a search for the text, or for something else, says that it was made."""
    what = {} if {"key", "vector", "words", "parts"} & fields.keys() else {"text": TEXT}
    answer = asked(client, **what, **fields, explain=True)
    explanation: dict[str, Any] = answer["explanation"]
    assert sum(explanation[name] for name in STAGES) == pytest.approx(answer["timings_ms"]["search"], abs=0.01)
    assert all(explanation[name] >= 0 for name in STAGES)
    return explanation


def test_who_does_not_ask_is_told_nothing_and_gets_the_same_hits(exact: httpx.Client) -> None:
    plain, told = asked(exact, text=TEXT), asked(exact, text=TEXT, explain=True)
    assert plain["explanation"] is asked(exact, text=TEXT, explain=False)["explanation"] is None
    assert plain["hits"] == told["hits"]


def test_exact_search_compares_every_key_once(exact: httpx.Client) -> None:
    found = explained(exact)
    num_keys = NUM_KEYS - NUM_REMOVED
    assert (found["structure"], found["exact"], found["scope_looked_up"]) == ("exact", True, False)
    assert found["num_keys"] == found["num_in_scope"] == num_keys
    assert found["num_recent"] == NUM_RECENT - 1
    assert found["num_compared"] == num_keys - found["num_recent"]
    assert (found["num_reranked"], found["num_searches"], found["num_together"]) == (0, 1, 1)
    assert found["num_with_words"] is None
    assert found["words_ms"] == 0
    assert found["compare_ms"] > 0
    assert found["payload_ms"] > 0


@pytest.mark.parametrize(
    "scope",
    [{"filter": FILTER}, {"within": ["k000", "k299", "gone"]}, {"exclude": ["k000"]}, {"modalities": ["image"]}],
)
def test_the_scope_is_looked_up_before_anything_is_compared(exact: httpx.Client, scope: dict[str, Any]) -> None:
    found = explained(exact, **scope)
    counted = exact.post("/keys/count", json=scope).json()["num_keys"]
    assert found["scope_looked_up"]
    assert found["num_in_scope"] == found["num_compared"] + found["num_recent"] == counted
    assert found["num_keys"] == NUM_KEYS - NUM_REMOVED


def test_lists_that_are_searched_are_counted(clustered: httpx.Client, clustered_dir: Path) -> None:
    [path] = clustered_dir.rglob("structure.faiss")
    manifest = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))
    lists: Any = faiss.read_index(str(path))
    centres_CD = lists.quantizer.reconstruct_n(0, lists.nlist)
    nearest = np.argsort(-(centres_CD @ QUERY_D))[: manifest["structure"]["search"]["probes"]]
    found = explained(clustered)
    assert (found["structure"], found["exact"]) == ("IVF16,Flat", False)
    assert found["num_compared"] == sum(lists.invlists.list_size(int(number)) for number in nearest)
    assert found["num_reranked"] >= 10
    assert found["num_recent"] == NUM_RECENT - 1
    compared = explained(clustered, exact=True)
    assert (compared["structure"], compared["exact"], compared["num_reranked"]) == ("exact", True, 0)
    assert compared["num_compared"] + compared["num_recent"] == compared["num_in_scope"]
    few = explained(clustered, within=["k000", "k001"])
    assert (few["structure"], few["exact"], few["num_compared"]) == ("exact", True, 2)


def test_a_search_that_looks_deeper_is_told_of_as_all_its_searches(clustered: httpx.Client) -> None:
    once, pages = explained(clustered), explained(clustered, offset=0)
    deeper = explained(clustered, group_by="duplicates", duplicate_score=0.1, k=20)
    assert (once["num_searches"], pages["num_searches"]) == (1, 1)
    assert deeper["num_searches"] > 1
    assert deeper["num_compared"] > once["num_compared"]


def test_where_each_vector_came_from(exact: httpx.Client) -> None:
    parts: list[dict[str, Any]] = [
        {"text": "not asked for before"},
        {"key": "k001"},
        {"words": "text"},
        {"vector": [1.0] * 8},
        {"text": "nor this one", "weight": -0.1},
    ]
    first, again = (explained(exact, parts=parts) for _ in range(2))
    assert [part["source"] for part in first["parts"]] == ["encoder", "index", "words", "request", "encoder"]
    assert [part["source"] for part in again["parts"]] == ["memory", "index", "words", "request", "memory"]
    times = ("decode_ms", "queue_ms", "encode_ms")
    assert all(sum(first["parts"][place][name] for name in times) > 0 for place in (0, 4))
    assert not any(part[name] for part in again["parts"] for name in times)


def test_what_another_request_brought_meanwhile_came_from_memory() -> None:
    async def scenario() -> None:
        encoder, part = FakeEncoder(), ItemPart(Item(text="the same"))
        cache = VectorCache(MemoryCache(8, 60.0), None, CacheCounters(), encoder.width)
        batcher: Batcher[Any] = Batcher(
            encoder, max_batch_items=1, max_batch_tokens=99, max_wait_s=0, max_queue_items=9
        )
        threads = BoundedThreads("decode", 1, 9)
        embedder = ItemEmbedder(encoder, batcher, cache, threads=threads, deadline_s=WAIT_S)
        asking = asyncio.create_task(embedder.embed(part))
        await asyncio.sleep(0)  # it has not found it at hand, and its look-up is the next to run
        key = part.content_hash(f"{encoder.fingerprint} {encoder.backend} {encoder.precision}")
        cache.put(key, QueryVector(encoder.encode([part.item])[0]))
        assert (await asking).source is Source.MEMORY
        assert cache.counters()["redis_hits"] == 0
        await asyncio.to_thread(batcher.close, WAIT_S)
        threads.close()

    anyio.run(scenario)


def test_words_say_how_many_keys_have_them(exact: httpx.Client) -> None:
    alone = explained(exact, words="text 1*", filter=FILTER)
    in_scope = [number for number in range(50) if number != 5]
    assert (alone["num_with_words"], alone["structure"], alone["num_in_scope"]) == (len(in_scope), None, None)
    assert (alone["num_searches"], alone["num_compared"], alone["scope_looked_up"]) == (0, 0, True)
    assert (alone["compare_ms"], alone["words_ms"] > 0) == (0, True)
    joined = explained(exact, parts=[{"words": "text"}, {"text": TEXT}], filter=FILTER)
    assert (joined["num_with_words"], joined["num_in_scope"]) == (len(in_scope), len(in_scope))
    assert (joined["structure"], joined["num_searches"]) == ("exact", 1)


def test_a_batch_says_how_many_shared_the_search(exact: httpx.Client) -> None:
    queries = [{"text": text, "explain": True} for text in ("one", "to to", "six seven")]
    answers = exact.post("/search/batch", json={"queries": [*queries, {"text": "four"}]}).json()["answers"]
    assert [answer["explanation"] is None for answer in answers] == [False, False, False, True]
    found = answers[0]["explanation"]
    assert found["num_together"] == 3
    assert found["num_compared"] == 3 * explained(exact)["num_compared"]


def test_a_form_asks_for_it_too(exact: httpx.Client) -> None:
    form = exact.post("/search", files={"text": (None, TEXT), "explain": (None, "true")}).json()
    assert form["explanation"]["structure"] == "exact"


def test_it_is_told_of_this_answer_and_not_of_one_that_was_kept(exact: httpx.Client) -> None:
    assert [asked(exact, text="kept")["result_cached"] for _ in range(2)] == [False, True]
    answers = [asked(exact, text="kept", explain=True) for _ in range(2)]
    assert [answer["result_cached"] for answer in answers] == [False, False]
    assert all(answer["explanation"]["num_searches"] == 1 for answer in answers)
    again = asked(exact, text="kept")
    assert (again["result_cached"], again["explanation"]) == (True, None)
    assert again["hits"] == answers[0]["hits"]


@pytest.mark.parametrize("wrong", [1, "true", "yes", None, []])
def test_what_is_neither_true_nor_false_is_refused(exact: httpx.Client, wrong: Any) -> None:
    message = "explain must be true or false, got"
    assert message in refused(exact, 400, "invalid_request", text=TEXT, explain=wrong)


@needs_milvus
@pytest.mark.parametrize("kind", ["FLAT", "HNSW"])
def test_milvus_is_told_of_as_far_as_it_tells(tmp_path: Path, kind: str) -> None:
    structure = Structure() if kind == "FLAT" else Structure(kind="HNSW", build={"M": 8, "efConstruction": 40})
    with MilvusIndex.create(str(tmp_path / "keys.db"), "keys", FACTS, structure=structure) as index:
        index.upsert(drawn_keys(60))
        with serving(FakeEncoder(), index) as client:
            found = explained(client, filter=FILTER)
            assert (found["structure"], found["exact"]) == (kind, kind == "FLAT")
            assert (found["num_keys"], found["num_in_scope"], found["scope_looked_up"]) == (60, 50, True)
            assert found["num_compared"] == (50 if kind == "FLAT" else None)
            assert explained(client, filter=FILTER, exact=True)["num_compared"] == 50
            assert not explained(client)["scope_looked_up"]
            assert explained(client, modalities=[str(Modality.IMAGE)])["num_in_scope"] == 0
