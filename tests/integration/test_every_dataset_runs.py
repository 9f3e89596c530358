"""Every dataset goes its documented way on a miniature, and no broken endpoint looks right on any of them."""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anykey.benchmark.__main__ import main as bench
from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Hit, Query, Task
from anykey.benchmark.datasets import READERS, open_dataset
from anykey.benchmark.scoring import hits_needed, score
from anykey.index.__main__ import main as index
from anykey.service.app import create_app
from tests.models import tiny_checkpoint
from tests.pictures import encoded, plain
from tests.serving import make_settings, running, until
from tests.unit.benchmark.conftest import mini as mini
from tests.unit.benchmark.conftest import shapesworld_dir as shapesworld_dir
from tests.unit.benchmark.datasets import test_beir, test_karpathy, test_trec, test_visual_documents
from tests.unit.benchmark.fake_service import FakeService, Hits, serving
from tests.unit.benchmark.knowing_service import KnowingService

pytestmark = pytest.mark.slow

DRAWS = 40
Mini = Callable[[str], Path]


def fashioniq(mini: Mini, folder: Path) -> Path:
    """Without the missing images of the real set, which would leave queries out."""
    root = Path(shutil.copytree(mini("fashioniq") / "fashion-iq", folder / "fashion-iq"))
    missing = json.loads((mini("fashioniq") / "expected/missing_images.json").read_text())["missing_images"]
    for number, name in enumerate(missing):
        (root / "images" / f"{name}.jpg").write_bytes(encoded(plain((250, 10, number)), "PNG"))
    return root


def karpathy(mini: Mini, folder: Path) -> Path:
    test_karpathy.write(folder, "coco", test_karpathy.rows())
    return folder


def beir(mini: Mini, folder: Path) -> Path:
    rows = [{"_id": key, "title": key, "text": f"text {key}."} for key in test_beir.KEYS]
    queries = {query: f"what of {query}?" for query in test_beir.GRADES}
    return test_beir.write(folder / "beir", rows, queries, test_beir.GRADES)


def trec(mini: Mini, folder: Path) -> Path:
    (folder / "photos").mkdir()
    (folder / "photos/red.png").write_bytes(test_trec.RED)
    (folder / "photos/blue.png").write_bytes(test_trec.BLUE)
    (folder / "qrels.txt").write_text(test_trec.QRELS)
    test_trec.lines(folder / "corpus.jsonl", test_trec.ROWS)
    test_trec.lines(folder / "topics.jsonl", test_trec.TOPICS)
    return folder


def documents(mini: Mini, folder: Path) -> Path:
    for name in test_visual_documents.TASKS:
        test_visual_documents.write(folder, name, test_visual_documents.tables(name))
    return folder


MAKERS: dict[str, Callable[[Mini, Path], Path]] = {
    "mbeir": lambda mini, folder: mini("mbeir") / "M-BEIR",
    "cirr": lambda mini, folder: mini("cirr") / "cirr",
    "fashioniq": fashioniq,
    "covr": lambda mini, folder: mini("covr"),
    "mmeb": lambda mini, folder: mini("mmeb"),
    "mmeb-v2": lambda mini, folder: mini("mmeb"),
    "mmeb-v2-documents": documents,
    "mixbench": lambda mini, folder: mini("mixbench"),
    "mixbench-2026": lambda mini, folder: mini("mixbench"),
    "karpathy": karpathy,
    "beir": beir,
    "trec": trec,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(params=list(MAKERS))
def dataset(request: pytest.FixtureRequest, mini: Mini, tmp_path: Path) -> tuple[str, Path]:
    (folder := tmp_path / "dataset").mkdir()
    return request.param, MAKERS[request.param](mini, folder)


def test_no_dataset_is_left_out() -> None:
    assert MAKERS.keys() == READERS.keys()


def test_a_dataset_is_indexed_served_and_measured(dataset: tuple[str, Path], checkpoint: Path, tmp_path: Path) -> None:
    format, root = dataset
    named = ["--dataset", str(root), "--format", format]
    corpus, place, output = tmp_path / "corpus.jsonl", tmp_path / "index", tmp_path / "report"
    assert bench(["corpus", *named, "--output", str(corpus)]) == 0
    build = ["--checkpoint", str(checkpoint), "--output", str(place), "--backend", "torch", "--strict"]
    assert index(["build", "--corpus", str(corpus), *build]) == 0
    settings = make_settings(checkpoint=str(checkpoint), index=str(place), device="cpu", backend="torch")
    with running(create_app(settings)) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the service is ready")
        flags = ["--url", str(client.base_url), "--output", str(output), "--search", "approximate,exact"]
        assert bench(["quality", *named, *flags, "--check-keys"]) == 0
    report = json.loads((output / "results.json").read_text())
    expected = {(task.name, task.candidates) for task in open_dataset(root, format).tasks()}
    assert {(row["task"]["name"], row["task"]["candidates"]) for row in report["results"]} == expected
    assert len(report["results"]) == 2 * len(expected)
    assert all(np.isfinite(list(row["metrics"].values())).all() for row in report["results"])
    assert (output / "report.html").stat().st_size > 10_000


def scope(data: Dataset, task: Task, query: Query) -> list[str]:
    """The keys that a query may be answered with."""
    keys = query.within or (data.keys(task.pool) if task.pool else [entry.key for entry in data.corpus()])
    return sorted(set(keys).difference(query.references if task.excludes_references else ()))


def chance(data: Dataset, task: Task) -> tuple[float, float]:
    """Mean and spread of a task's headline over rankings drawn at random."""
    queries, draw, values = data.queries(task), random.Random(0), []
    scopes = {query.id: scope(data, task, query) for query in queries}
    depth = hits_needed(task, [1, 5, 10, 20, 50], queries)
    for _ in range(DRAWS):
        answers = {}
        for query in queries:
            keys = draw.sample(scopes[query.id], min(depth, len(scopes[query.id])))
            hits = tuple(Hit(key, 1 - place / 1000, "text") for place, key in enumerate(keys))
            answers[query.id] = Answer(hits, 0.0, {}, False, 0, ("1", "f"))
        values.append(score(task, 1, queries, answers, [1, 5, 10, 20, 50]).headline.value)
    return float(np.mean(values)), float(np.std(values))


def test_a_broken_endpoint_scores_chance_or_ends_the_run(dataset: tuple[str, Path], tmp_path: Path) -> None:
    format, root = dataset
    data = open_dataset(root, format)
    entries = {entry.key: entry for entry in data.corpus()}
    sizes = {str(task.pool): len(data.keys(str(task.pool))) for task in data.tasks() if task.pool}
    expected = {(task.name, task.candidates): chance(data, task) for task in data.tasks()}

    def allowed(body: Mapping[str, Any]) -> list[str]:
        keys = body.get("within") or [key for key, e in entries.items() if body.get("pool") in (None, *e.pools)]
        return sorted(set(keys).difference(body.get("exclude", ())))

    def guessed(body: Mapping[str, Any]) -> Hits:
        draw = random.Random(json.dumps(body, sort_keys=True))
        return sorted(((key, draw.random(), entries[key].modality) for key in allowed(body)), key=lambda hit: -hit[1])

    def constant(body: Mapping[str, Any]) -> Hits:
        order = random.Random(len(body.get("text") or ""))
        keys = allowed(body)
        return [(key, 0.5, entries[key].modality) for key in order.sample(keys, len(keys))]

    def undefined(body: Mapping[str, Any]) -> Hits:
        return [(key, float("nan"), entries[key].modality) for key in allowed(body)]

    def measured(name: str, answer: Callable[[Mapping[str, Any]], Hits]) -> tuple[int, dict[str, Any]]:
        output = tmp_path / name
        with serving(FakeService(answer, sizes, len(entries))) as fake:
            flags = [
                "--format",
                format,
                "--url",
                fake.url,
                "--output",
                str(output),
                "--worst",
                "0",
                "--concurrency",
                "1",
            ]
            code = bench(["quality", "--dataset", str(root), *flags])
        return code, json.loads((output / "results.json").read_text()) if code == 0 else {}

    for name, answer in (("guessed", guessed), ("constant", constant)):
        code, report = measured(name, answer)
        assert code == 0
        for row in report["results"]:
            mean, spread = expected[row["task"]["name"], row["task"]["candidates"]]
            assert row["metrics"][row["task"]["headline"]] <= mean + 5 * spread + 0.01, (name, row["task"])
    assert measured("undefined", undefined)[0] == 1

    knowing = KnowingService(data)

    def foreign(body: Mapping[str, Any]) -> Hits:
        """Everything but what has the right answer's modality."""
        hits = knowing.service.answer(body)
        return [hit for hit in hits if hit[2] != hits[0][2]]

    code, report = measured("foreign", foreign)
    assert code in (0, 1)  # an answer without hits ends the run
    tasks = {(task.name, task.candidates): task for task in data.tasks()}
    for row in report.get("results", ()):
        task, found = tasks[row["task"]["name"], row["task"]["candidates"]], row["metrics"][row["task"]["headline"]]
        assert found == 0 if task.key_modality else found < 0.7, task
