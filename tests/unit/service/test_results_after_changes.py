"""Protects kept answers from being stale: after every kind of change, by whichever process, in memory and in Redis."""

from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import FakeEncoder
from tests.integration.test_service_redis import RedisServer, redis  # noqa: F401  (a fixture)
from tests.serving import build_real_index, counters
from tests.unit.service.test_results import KEYS, WORDS, ask, lasting, served

NAMES = ("x", "y", "k0", "k1")
POINTS = "/collections/default/points"
names, words = st.sampled_from(NAMES), st.sampled_from(WORDS)
CHANGES = st.one_of(
    st.tuples(st.just("put"), names, words),
    st.tuples(st.just("patch"), names, st.integers(0, 3)),
    st.tuples(st.just("delete"), names, st.none()),
    st.tuples(st.just("delete by filter"), st.none(), st.integers(0, 3)),
    st.tuples(st.just("qdrant upsert"), names, words),
    st.tuples(st.just("qdrant payload"), names, st.integers(0, 3)),
    st.tuples(st.just("qdrant delete"), names, st.none()),
)
QUESTIONS = st.one_of(
    st.fixed_dictionaries(
        {"text": st.sampled_from(WORDS[:2])},
        optional={"offset": st.integers(0, 2), "filter": st.just({"field": "number", "lt": 2})},
    ),
    st.fixed_dictionaries({"key": names}),
    st.just("the page of before"),
)


def change(client: httpx.Client, step: tuple[str, Any, Any]) -> None:
    """Makes a change; one of a key that is not there changes nothing."""
    kind, name, value = step
    answer = {
        "put": lambda: client.put(f"/keys/{name}", json={"text": value, "metadata": {"number": len(value)}}),
        "patch": lambda: client.patch(f"/keys/{name}", json={"metadata": {"number": value}}),
        "delete": lambda: client.delete(f"/keys/{name}"),
        "delete by filter": lambda: client.post("/keys/delete", json={"filter": {"field": "number", "eq": value}}),
        "qdrant upsert": lambda: client.put(
            POINTS, json={"points": [{"id": name, "vector": {"text": value}, "payload": {"number": len(value)}}]}
        ),
        "qdrant payload": lambda: client.post(
            f"{POINTS}/payload", json={"points": [name], "payload": {"number": value}}
        ),
        "qdrant delete": lambda: client.post(f"{POINTS}/delete", json={"points": [name]}),
    }[kind]()
    assert answer.status_code in (200, 404), answer.text


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(CHANGES, QUESTIONS), min_size=6, max_size=30))
def test_two_services_on_one_redis_answer_as_one_that_keeps_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    redis: RedisServer,  # noqa: F811
    steps: list[Any],
) -> None:
    index_dir = build_real_index(tmp_path_factory.mktemp("index"), FakeEncoder(), KEYS)
    shared = {"redis_url": redis.url, "redis_timeout_ms": 2000}
    with ExitStack() as stack:
        writer = stack.enter_context(served(index_dir, writable=True, **shared))
        reader = stack.enter_context(served(index_dir, **shared))
        forgetting = stack.enter_context(served(index_dir, result_cache_bytes=0))
        keeping = (writer, reader)
        change(writer, ("delete", "nobody", None))  # it writes from now on: before, no page is kept beyond a change
        firsts = [ask(client, offset=0) for client in keeping]
        for step in steps:
            if isinstance(step, dict):
                body = {"k": 9, **step}
                expected = forgetting.post("/search", json=body)
                for client in (*keeping, *keeping):
                    answer = client.post("/search", json=body)
                    assert answer.status_code == expected.status_code
                    if answer.status_code == 200:
                        assert lasting(answer.json()) == lasting(expected.json())
            elif step == "the page of before":
                for client, first in zip(keeping, firsts, strict=True):
                    again = ask(client, offset=0, snapshot=first["snapshot"])
                    assert lasting(again)["hits"] == first["hits"]
                    assert again["index_seq"] == first["index_seq"]
            else:
                change(writer, step)
        if any(isinstance(step, dict) and "text" in step for step in steps):
            assert all(counters(client, "results")["result_hits"] for client in keeping)
