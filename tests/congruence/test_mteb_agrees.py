"""What mteb's own code makes of a live service's answers is what ours makes of them, ties and all."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from anykey.benchmark.__main__ import main as bench
from anykey.benchmark.dataset import Query
from anykey.benchmark.datasets.mbeir import GLOBAL, MBeir
from anykey.benchmark.errors import DatasetError, EndpointMismatchError
from anykey.benchmark.mteb_adapter import SearchModel, write_corpus
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.build import build_index
from anykey.index.settings import BuildSettings
from tests.fakes import FakeEncoder
from tests.serving import ReadyEncoder, serving

if TYPE_CHECKING:  # or each process that only looks for tests would load it
    from datasets import Dataset

SIZES = ["--train-scenes", "0", "--val-scenes", "0", "--queries-per-task", "4", "--distractors-per-task", "3"]
KINDS = {"text": "t2it", "image": "i2it", "fused": "it2it"}  # mteb's words for what searches for what


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    """Mteb's tasks, which take seconds to load."""
    from tests import mteb_tasks

    return mteb_tasks


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> MBeir:
    root = tmp_path_factory.mktemp("mteb") / "scenes"
    assert bench(["shapesworld", "--output", f"{root}", "--workers", "1", *SIZES]) == 0
    return MBeir(root, "test")


@pytest.fixture(scope="module")
def corpus(tasks: ModuleType, dataset: MBeir) -> "Dataset":
    return tasks.table([(entry.key, entry) for entry in dataset.corpus()])


@pytest.fixture(scope="module")
def url(dataset: MBeir, corpus: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service over the index of the corpus that the adapter wrote."""
    folder = tmp_path_factory.mktemp("served")
    assert write_corpus(corpus, folder / "corpus.jsonl") == dataset.num_keys()
    settings = BuildSettings(corpus=[folder / "corpus.jsonl"], checkpoint="given", output=folder / "i", strict=True)
    build_index(settings, ReadyEncoder(FakeEncoder()), Console(quiet=True))
    with FaissIndex.open(settings.output) as index, serving(FakeEncoder(), index) as client:
        yield str(client.base_url)


@pytest.mark.parametrize("number", ["0", "3", "7"])
def test_mteb_scores_a_live_service_as_we_do(
    number: str, tasks: ModuleType, dataset: MBeir, corpus: "Dataset", url: str, tmp_path: Path
) -> None:
    (task,) = (each for each in dataset.tasks() if each.candidates == GLOBAL and number in each.aliases)
    queries = dataset.queries(task)
    flags = ["--tasks", number, "--pools", "global", "--cutoffs", "5,10", "--output", f"{tmp_path}"]
    assert bench(["quality", "--dataset", f"{dataset.root}", "--url", url, *flags]) == 0
    (ours,) = json.loads((tmp_path / "results.json").read_text())["results"]
    theirs = tasks.mteb.evaluate(
        SearchModel(url),
        tasks.MixedSearch(corpus, queries, KINDS[queries[0].modality]),
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
    )
    (scores,) = theirs.task_results[0].scores["test"]
    for name, metric in tasks.THEIRS.items():
        assert ours["metrics"][name] == pytest.approx(scores[f"exact {metric}"], abs=1e-9), name
    assert ours["metrics"]["ndcg@10"] == pytest.approx(scores["ndcg_at_10"], abs=5.1e-6)  # which mteb rounds


def found(
    tasks: ModuleType, url: str, corpus: "Dataset", queries: "Dataset", **more: Any
) -> dict[str, dict[str, float]]:
    model = SearchModel(url, **more.pop("settings", {}))
    model.index(corpus)
    return model.search(queries, task_metadata=tasks.MixedSearch.metadata, top_k=1000, **more)


def test_ties_stay_in_the_order_of_the_service(tasks: ModuleType, dataset: MBeir, corpus: "Dataset", url: str) -> None:
    queries = tasks.table([("q", Query("q", text="a blue heart"))])
    (scores,) = found(tasks, url, corpus, queries).values()
    values = list(scores.values())
    assert len(values) == dataset.num_keys()
    steps = [above - below for above, below in pairwise(values)]
    assert 0 < min(steps) < 1e-6  # there were ties


def test_tasks_that_rank_given_keys_again_search_within_them(tasks: ModuleType, corpus: "Dataset", url: str) -> None:
    queries = tasks.table([("q", Query("q", text="a blue heart"))])
    given = list(corpus["id"][:4])
    assert set(found(tasks, url, corpus, queries, top_ranked={"q": given})["q"]) == set(given)


def test_a_service_without_the_corpus_is_refused(tasks: ModuleType, corpus: "Dataset", url: str) -> None:
    queries = tasks.table([("q", Query("q", text="a blue heart"))])
    with pytest.raises(EndpointMismatchError, match=r"MixedSearch: \d+ keys in the index, 5 in mteb's corpus"):
        found(tasks, url, corpus.select(range(5)), queries)
    with pytest.raises(EndpointMismatchError, match="no pool 'elsewhere'"):
        found(tasks, url, corpus, queries, settings={"pool": "elsewhere"})
    renamed = corpus.remove_columns("id").add_column("id", [f"other {n}" for n in range(len(corpus))])
    with pytest.raises(EndpointMismatchError, match=r"query q of MixedSearch .* is not in the corpus"):
        found(tasks, url, renamed, queries)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [" "]}, "q: neither text nor image"),
        ({"text": ["a"], "audio": ["b"]}, "q: it has audio"),
        ({"text": [["a", "b"]]}, "query q: a conversation"),
    ],
)
def test_what_no_search_can_take_is_named(
    columns: dict[str, list[Any]], message: str, tasks: ModuleType, corpus: "Dataset"
) -> None:
    with pytest.raises(DatasetError, match=message):
        found(tasks, "http://127.0.0.1:9", corpus, tasks.Dataset.from_dict({"id": ["q"], **columns}))


def test_a_title_is_part_of_the_text(tasks: ModuleType, tmp_path: Path) -> None:
    rows = tasks.Dataset.from_dict({"id": ["k"], "title": ["Hearts"], "text": ["are red."]})
    assert write_corpus(rows, tmp_path / "corpus.jsonl", pool="p") == 1
    (line,) = (tmp_path / "corpus.jsonl").read_text().splitlines()
    assert json.loads(line) == {"key": "k", "text": "Hearts are red.", "pool": ["p"]}
