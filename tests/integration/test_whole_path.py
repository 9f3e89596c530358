"""The whole path as a person walks it: draw, train, index, serve in a process of its own, and measure.

The oracle embeds the same queries and keys with open_clip alone, ranks them in numpy, and scores with trec_eval.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import open_clip
import pytest
import pytrec_eval
import torch
from PIL import Image

from anykey.benchmark.__main__ import main as bench
from anykey.index.__main__ import main as index
from anykey.sources.mbeir import format_string
from anykey.training.__main__ import main as train
from tests.commands import serving
from tests.serving import WAIT_S

pytestmark = pytest.mark.timeout(600)
TASKS = (0, 1, 2, 3, 4, 6, 7, 8)


@dataclass(frozen=True)
class Walked:
    """Where each step left its work."""

    dataset: Path
    checkpoint: Path
    report: dict[str, Any]
    report_dir: Path
    url: str


def train_flags(folder: Path) -> list[str]:
    return [
        *("--data", f"{folder}/scenes/train/*.tar", "--val-data", f"{folder}/scenes/val/*.tar"),
        *("--output", f"{folder}/run", "--batch-size", "16", "--num-epochs", "2"),
    ]


def index_flags(folder: Path) -> list[str]:
    return ["--corpus", f"{folder}/scenes", "--checkpoint", f"{folder}/run/best", "--output", f"{folder}/index"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def walked(folder: Path) -> Iterator[Walked]:
    sizes = ["--train-scenes", "64", "--val-scenes", "12", "--queries-per-task", "3", "--distractors-per-task", "3"]
    assert bench(["shapesworld", "--output", f"{folder}/scenes", "--workers", "1", *sizes]) == 0
    assert train(train_flags(folder)) == 0
    assert index(["build", *index_flags(folder)]) == 0
    with serving(folder / "run" / "best", folder / "index", folder / "service.log") as url:
        assert bench(["quality", "--dataset", f"{folder}/scenes", "--url", url, "--output", f"{folder}/report"]) == 0
        report = json.loads((folder / "report" / "results.json").read_text())
        yield Walked(folder / "scenes", folder / "run" / "best", report, folder / "report", url)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Oracle:
    """open_clip on the checkpoint directory, one item at a time, and numpy."""

    def __init__(self, walked: Walked) -> None:
        source = f"local-dir:{walked.checkpoint}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(source)
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(source)
        self.root = walked.dataset

    def vector(self, text: str | None, image: str | None) -> np.ndarray:
        with torch.inference_mode():
            features = torch.zeros(1)
            if text:
                features = features + self.model.encode_text(self.tokenize([text]))
            if image:
                with Image.open(self.root / image) as picture:
                    features = features + self.model.encode_image(self.preprocess(picture)[None])
        vector: np.ndarray = torch.nn.functional.normalize(features, dim=-1)[0].numpy()
        return vector

    def scores(self, queries: list[dict[str, Any]], keys: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        keys_ND = np.stack([self.vector(key.get("txt"), key.get("img_path")) for key in keys])
        runs = {}
        for query in queries:
            text = format_string(query["query_txt"]) if query["query_txt"] else None
            scores_N = keys_ND @ self.vector(text, query["query_img_path"])
            runs[query["qid"]] = {key["did"]: float(score) for key, score in zip(keys, scores_N, strict=True)}
        return runs


def test_all_eight_tasks_are_measured_in_both_pools(walked: Walked) -> None:
    measured = {(row["task"]["name"], row["task"]["candidates"]) for row in walked.report["results"]}
    assert measured == {(f"mbeir_shapesworld_task{task}", pool) for task in TASKS for pool in ("local", "global")}
    assert all(row["num_queries"] == 3 for row in walked.report["results"])


@pytest.mark.parametrize("pool", ["local", pytest.param("global", marks=pytest.mark.slow)])
def test_the_report_agrees_with_open_clip_numpy_and_trec_eval(walked: Walked, pool: str) -> None:
    oracle = Oracle(walked)
    pools = walked.dataset / "cand_pool"
    measured = [row for row in walked.report["results"] if row["task"]["candidates"] == pool]
    assert len(measured) == len(TASKS)
    for row in measured:
        name = row["task"]["name"]
        path = pools / "local" / f"{name}_cand_pool.jsonl"
        if pool == "global":
            path = pools / "global" / "mbeir_union_test_cand_pool.jsonl"
        queries = rows(walked.dataset / "query" / "test" / f"{name}_test.jsonl")
        qrels = {query["qid"]: {did: 1 for did in query["pos_cand_list"]} for query in queries}
        runs = oracle.scores(queries, rows(path))
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"success.1,5,10", "recall.5,10"})
        scored = list(evaluator.evaluate(runs).values())
        for k in (1, 5, 10):
            expected = np.mean([query[f"success_{k}"] for query in scored])
            assert row["metrics"][f"success@{k}"] == pytest.approx(expected, abs=1e-9), (name, pool, k)
        expected = np.mean([query["recall_5"] for query in scored])
        assert row["metrics"]["recall@5"] == pytest.approx(expected, abs=1e-9), (name, pool)


def test_the_answer_names_the_index_and_the_model(walked: Walked) -> None:
    answer = httpx.post(f"{walked.url}/search", json={"text": "a red circle"}, timeout=WAIT_S, trust_env=False).json()
    manifest = json.loads((walked.checkpoint / "encoder.json").read_text())
    assert answer["model_fingerprint"] == manifest["fingerprint"]
    assert answer["index_version"] == "1"
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 11))
