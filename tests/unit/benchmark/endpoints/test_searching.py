"""Search engines of others are measured as numpy says, and what they cannot do has a name before the first query."""

from pathlib import Path
from typing import Any

import pytest

from anykey.benchmark.datasets.mbeir import MBeir
from anykey.benchmark.endpoints.dialects import Qdrant
from anykey.benchmark.errors import DatasetError, EndpointMismatchError, RequestFailedError
from anykey.benchmark.quality import run
from anykey.benchmark.settings import QualitySettings
from tests.unit.benchmark.endpoints.embedding_server import EmbeddingServer, serving
from tests.unit.benchmark.endpoints.engine_server import EngineServer
from tests.unit.benchmark.endpoints.test_embedding import expected_ranks, results

CLIP = {"api": "clip-retrieval", "key_field": "sku", "pools": ["global"], "tasks": ["0", "1", "3"]}
QDRANT = {"api": "qdrant", "key_field": "sku", "collection": "c", "model": "m", "tasks": ["0", "3", "7"]}
MARQO = {"api": "marqo", "collection": "c", "pools": ["global"], "tasks": ["0", "1"]}


@pytest.fixture(scope="module")
def dataset(shapesworld_dir: Path) -> MBeir:
    return MBeir(shapesworld_dir, "test")


@pytest.fixture
def engine(dataset: MBeir) -> EngineServer:
    return EngineServer(list(dataset.corpus()))


def settings(dataset: MBeir, url: str, output: Path, **changes: object) -> QualitySettings:
    given = {"dataset": dataset.root, "url": url, "output": output, "ready_timeout_s": 5, "max_attempts": 2}
    return QualitySettings.model_validate({**given, **changes})


def check_ranks(dataset: MBeir, output: Path, num_tables: int) -> None:
    """Every table is ranked as numpy ranks it."""
    tasks = {(task.name, task.candidates): task for task in dataset.tasks()}
    rows = results(output)
    assert len(rows) == num_tables
    for row in rows:
        assert row["ranks"] == expected_ranks(dataset, tasks[row["task"]["name"], row["task"]["candidates"]])


@pytest.mark.parametrize(("given", "num_tables"), [(CLIP, 3), (QDRANT, 6), (MARQO, 2)])
def test_an_engine_is_ranked_as_numpy_ranks_it(
    given: dict[str, Any], num_tables: int, dataset: MBeir, engine: EngineServer, tmp_path: Path
) -> None:
    with serving(engine):
        assert run(settings(dataset, engine.url, tmp_path, **given)) == 0
    check_ranks(dataset, tmp_path, num_tables)


def test_queries_can_be_embedded_by_another_server(dataset: MBeir, engine: EngineServer, tmp_path: Path) -> None:
    more = {**QDRANT, "item_form": "messages", "api_key": "secret-2", "search": ["exact"], "vector_name": "clip"}
    with serving(engine), serving(EmbeddingServer()) as embedding:
        run(settings(dataset, engine.url, tmp_path, **more, embed_url=embedding.url))
    check_ranks(dataset, tmp_path, 6)
    bodies = [body for _, body, _ in engine.requests[1:]]
    assert all(isinstance(body["query"]["nearest"], list) for body in bodies)
    assert {(body["params"]["exact"], body["using"]) for body in bodies} == {(True, "clip")}
    assert {key for _, _, key in engine.requests} == {"secret-2"}
    assert {key for _, _, key in embedding.requests} == {None}


def test_a_query_is_not_answered_with_its_own_image(dataset: MBeir, engine: EngineServer, tmp_path: Path) -> None:
    (task,) = (each for each in dataset.tasks() if "7" in each.aliases and each.candidates == "local")
    references = {query.id: query.references for query in dataset.queries(task)}
    assert any(references.values())
    more = {**QDRANT, "tasks": ["7"], "pools": ["local"], "exclude_reference": True}
    with serving(engine):
        run(settings(dataset, engine.url, tmp_path, **more))
    (page,) = (tmp_path / "runs").iterdir()
    hits = [line.split() for line in page.read_text().splitlines()]
    assert hits
    assert not [row for row in hits if row[2] in references[row[0]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**CLIP, "tasks": ["7"]}, "task7 has queries that are fused, which --api clip-retrieval does not take"),
        ({**MARQO, "tasks": ["3"]}, "task3 has queries that are image"),
        ({**MARQO, "pools": ["local"]}, r"task0 \(local\) is searched in a part of the corpus"),
    ],
)
def test_what_an_engine_cannot_do_names_the_task_before_the_first_query(
    changes: dict[str, Any], message: str, dataset: MBeir, engine: EngineServer, tmp_path: Path
) -> None:
    with serving(engine), pytest.raises(EndpointMismatchError, match=message):
        run(settings(dataset, engine.url, tmp_path, **changes))
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**CLIP, "key_field": ""}, "give --key-field"),
        ({**QDRANT, "collection": ""}, "give --collection"),
        ({**MARQO, "search": ["exact"]}, "leave out --search exact"),
        ({**MARQO, "embed_url": "http://127.0.0.1:9"}, "leave out --embed-url"),
        ({**QDRANT, "text_weight": 0.5}, "no text_weight"),
        ({"api": "anykey", "collection": "c"}, "collection is for endpoints of others"),
    ],
)
def test_settings_that_an_engine_lacks_are_named(
    changes: dict[str, Any], message: str, dataset: MBeir, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        run(settings(dataset, "http://127.0.0.1:9", tmp_path, **changes))


def test_points_that_are_their_own_keys_are_numbers_or_uuids() -> None:
    uuid = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
    dialect = Qdrant("c", "m", key_field="", vector_name="")
    body = dialect.body({"text": "a", "within": ["7", uuid]}, (), None, 3)
    assert body["filter"] == {"must": [{"has_id": [7, uuid]}]}
    points = [{"id": 7, "score": 0.5}, {"id": uuid, "score": 0.25}]
    assert dialect.hits({"result": {"points": points}}) == [("7", 0.5), (uuid, 0.25)]


@pytest.mark.parametrize("given", [CLIP, QDRANT, MARQO])
def test_an_answer_that_cannot_be_scored_names_the_query(
    given: dict[str, Any], dataset: MBeir, engine: EngineServer, tmp_path: Path
) -> None:
    engine.renamed = {entry.key: f"photos/{entry.key}.jpg" for entry in engine.entries}
    name = r"query \d+:\d+ of mbeir_shapesworld_task0 \(\w+\)"
    with serving(engine):
        with pytest.raises(RequestFailedError, match=rf"{name}: key 'photos/.*' is none of the dataset's"):
            run(settings(dataset, engine.url, tmp_path, **given))
        engine.broken = True
        with pytest.raises(RequestFailedError, match=rf"{name}: the answer (lacks|has no)"):
            run(settings(dataset, engine.url, tmp_path, **given))
