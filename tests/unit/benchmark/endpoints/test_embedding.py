"""Embeddings endpoints of others are measured as numpy says from the same vectors, and whatever fails has a name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.benchmark.dataset import Image, Task, image_bytes
from anykey.benchmark.datasets.mbeir import MBeir
from anykey.benchmark.endpoints.vectors import BLOCK, best
from anykey.benchmark.errors import (
    DatasetError,
    EndpointMismatchError,
    EndpointNotReadyError,
    EndpointUnreachableError,
    RequestFailedError,
)
from anykey.benchmark.quality import run
from anykey.benchmark.settings import QualitySettings
from tests.unit.benchmark.endpoints.embedding_server import EmbeddingServer, Said, serving, vector_of


@pytest.fixture(scope="module")
def dataset(shapesworld_dir: Path) -> MBeir:
    return MBeir(shapesworld_dir, "test")


def settings(dataset: MBeir, url: str, output: Path, **changes: object) -> QualitySettings:
    given = {"api": "openai", "model": "m", "item_form": "messages", "ready_timeout_s": 5, "max_attempts": 3}
    return QualitySettings.model_validate({"dataset": dataset.root, "url": url, "output": output, **given, **changes})


def results(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "results.json").read_text(encoding="utf-8"))["results"]
    return found


def said_of(text: str | None, images: Sequence[Image]) -> Said:
    return text or None, tuple(image_bytes(image) for image in images)


def unit(said: Said) -> np.ndarray:
    vector_D = vector_of(said)
    return vector_D / np.linalg.norm(vector_D)


def expected_ranks(dataset: MBeir, task: Task) -> dict[str, list[int]]:
    """Of each query, the ranks of its relevant keys, by sorting all cosines."""
    keys = [entry for entry in dataset.corpus() if task.pool is None or task.pool in entry.pools]
    keys_ND = np.stack([unit(said_of(entry.text, entry.images)) for entry in keys])
    found = {}
    for query in dataset.queries(task):
        order = np.argsort(-(keys_ND @ unit(said_of(query.text, query.images))))[:50]
        found[query.id] = [rank for rank, row in enumerate(order, 1) if keys[row].key in query.relevant]
    return found


@pytest.mark.parametrize(
    ("more", "num_tables"), [({"api": "openai"}, 16), ({"api": "cohere", "tasks": ["1", "7"], "pools": ["local"]}, 2)]
)
def test_every_task_is_ranked_as_numpy_ranks_it(
    more: dict[str, Any], num_tables: int, dataset: MBeir, tmp_path: Path
) -> None:
    with serving(EmbeddingServer()) as server:
        assert run(settings(dataset, server.url, tmp_path, worst=0, **more)) == 0
    tasks = {(task.name, task.candidates): task for task in dataset.tasks()}
    measured = results(tmp_path)
    assert (len(measured), len(tasks)) == (num_tables, 16)
    for row in measured:
        expected = expected_ranks(dataset, tasks[row["task"]["name"], row["task"]["candidates"]])
        assert row["ranks"] == expected, row["task"]


def test_infinity_takes_texts_and_images_by_their_modality(dataset: MBeir, tmp_path: Path) -> None:
    more = {"item_form": "modality", "embed_path": "/embeddings", "tasks": ["0", "3", "4"], "pools": ["local"]}
    with serving(EmbeddingServer()) as server:
        assert run(settings(dataset, server.url, tmp_path, **more)) == 0
    assert {path for path, _, _ in server.requests} == {"/embeddings"}
    tasks = {task.name: task for task in dataset.tasks() if task.candidates == "local"}
    for row in results(tmp_path):
        assert row["ranks"] == expected_ranks(dataset, tasks[row["task"]["name"]])


@pytest.mark.parametrize(
    ("form", "task", "message"),
    [
        ("text", "0", "task0 has keys that are image, which --api openai with --item-form text cannot embed"),
        ("text", "3", "task3 has queries that are image"),
        ("modality", "7", "task7 has queries that are fused"),
        ("modality", "2", "task2 has keys that are fused"),
    ],
)
def test_what_the_endpoint_cannot_embed_names_the_task_before_the_first_query(
    form: str, task: str, message: str, dataset: MBeir, tmp_path: Path
) -> None:
    more = {"item_form": form, "tasks": [task], "pools": ["local"]}
    with serving(EmbeddingServer()) as server, pytest.raises(EndpointMismatchError, match=message):
        run(settings(dataset, server.url, tmp_path, **more))
    assert server.said == [("a text", ())]  # which asked whether it is there


def test_texts_alone_are_measured_with_texts_alone(dataset: MBeir, tmp_path: Path) -> None:
    more = {"item_form": "text", "tasks": ["1"], "pools": ["local"], "api_key": "secret-1"}
    with serving(EmbeddingServer()) as server:
        run(settings(dataset, server.url, tmp_path, **more))
    assert {authorization for _, _, authorization in server.requests} == {"Bearer secret-1"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret-1" in path.read_bytes()]


def test_a_stopped_run_goes_on_and_vectors_can_be_used_again(dataset: MBeir, tmp_path: Path) -> None:
    more = {"tasks": ["1"], "embed_batch": 2, "concurrency": 1, "vectors": tmp_path / "vectors"}
    with serving(EmbeddingServer()) as server:
        server.fails_from = 6
        with pytest.raises(RequestFailedError, match=r"key \d+:\d+: 500 internal: boom"):
            run(settings(dataset, server.url, tmp_path / "a", **more))
        first = server.said[1:]
        server.fails_from = None
        run(settings(dataset, server.url, tmp_path / "a", **more))
        keys = [said_of(entry.text, entry.images) for entry in dataset.corpus()]
        assert first
        assert server.said[1 + len(first)] == ("a text", ())
        again = server.said[2 + len(first) :]
        kept = len(first) - len(first) % 2
        assert again[: len(keys) - kept] == keys[kept:]
        before = len(server.said)
        run(settings(dataset, server.url, tmp_path / "b", **more))
        num_queries = sum(len(dataset.queries(task)) for task in dataset.tasks() if "1" in task.aliases)
        assert len(server.said) - before == 1 + num_queries  # the keys were there
    assert results(tmp_path / "a")[1]["ranks"] == results(tmp_path / "b")[1]["ranks"]


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda vectors: [[float("nan")] * len(vectors[0])], "its vector is 0 or not finite"),
        (lambda vectors: [[0.0] * len(vectors[0])], "its vector is 0 or not finite"),
        (lambda vectors: [[None] * len(vectors[0])], "its vector is 0 or not finite"),
        (lambda vectors: [vectors[0][:-1]], "expected 1 vectors of 16 numbers, got 1 of 15"),
        (lambda vectors: [], "the answer lacks or garbles"),
        (lambda vectors: ["AAAA"], "the answer lacks or garbles"),
    ],
)
def test_an_answer_that_is_no_vector_is_named(spoiled: Any, message: str, dataset: MBeir, tmp_path: Path) -> None:
    (task,) = (each for each in dataset.tasks() if "7" in each.aliases and each.candidates == "local")
    victim, entry = dataset.queries(task)[1], next(each for each in dataset.corpus() if task.pool in each.pools)
    for said, name in (
        (said_of(victim.text, victim.images), rf"query {victim.id} of {task.name} \(local\)"),
        (said_of(entry.text, entry.images), f"key {entry.key}"),
    ):
        server = EmbeddingServer()
        server.spoil = lambda every, vectors, said=said: spoiled(vectors) if said in every else vectors
        with serving(server), pytest.raises(RequestFailedError, match=f"{name}: {message}"):
            run(settings(dataset, server.url, tmp_path, tasks=["7"], pools=["local"]))


def test_an_overloaded_endpoint_gets_everything_again(dataset: MBeir, tmp_path: Path) -> None:
    server = EmbeddingServer()
    server.turned_away = 2
    with serving(server):
        run(settings(dataset, server.url, tmp_path, tasks=["1"], pools=["local"]))
        server.turned_away = 10**6
        with pytest.raises(EndpointNotReadyError, match="429 rate_limit: too many"):
            run(settings(dataset, server.url, tmp_path, ready_timeout_s=0))
        server.turned_away, server.fails_from = 0, 0
        with pytest.raises(RequestFailedError, match="refuses a text: 500"):
            run(settings(dataset, server.url, tmp_path))
    with pytest.raises(EndpointUnreachableError, match="nothing answers at"):
        run(settings(dataset, server.url, tmp_path, ready_timeout_s=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "give --model"),
        ({"text_weight": 0.5}, "no text_weight"),
        ({"index": "indexes/mine", "index_settings": ["checkpoint=m"]}, "has no index"),
        ({"api": "anykey"}, "model is for endpoints of others"),
    ],
)
def test_settings_of_other_endpoints_are_refused(
    changes: dict[str, Any], message: str, dataset: MBeir, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        run(settings(dataset, "http://127.0.0.1:9", tmp_path, **changes))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_best_of_several_blocks_keep_the_order_of_equal_ones(share: float) -> None:
    random = np.random.default_rng(0)
    vectors_ND = random.integers(-3, 3, size=(2 * BLOCK + 77, 3)).astype(np.float32)
    query_D = np.array([1, 2, -1], np.float32)
    rows = np.flatnonzero(random.random(len(vectors_ND)) < share)
    found, products = best(vectors_ND, query_D, None if share == 1 else rows, 5000)
    exact = vectors_ND[rows] @ query_D
    order = np.lexsort((rows, -exact))[:5000]
    assert found.tolist() == rows[order].tolist()
    assert products.tolist() == exact[order].tolist()
