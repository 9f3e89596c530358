"""A model that sentence-transformers saved goes the way of any other: indexed, served, searched, measured.

The oracle is that library, one item at a time, and numpy.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from anykey.benchmark.__main__ import main as bench
from anykey.index.__main__ import main as index
from anykey.service.app import create_app
from anykey.service.errors import StartupError
from anykey.service.indexes.parts import check_match, load_encoder, load_index
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.sentence_models import of_library
from tests.serving import make_settings, running, until

PAIRS = drawn_pairs(6)
WIDTH = 16


@dataclass(frozen=True)
class Walked:
    """Where each step left its work, and a client of the service."""

    checkpoint: Path
    folder: Path
    client: httpx.Client

    def search(self, **query: Any) -> httpx.Response:
        return self.client.post("/search", json={"k": 50, **query})


@pytest.fixture(scope="module")
def walked(sentence_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    folder = tmp_path_factory.mktemp("sentences")
    write_shard(folder / "pairs.tar", PAIRS)
    assert bench(["from-pairs", "--pairs", f"{folder}/pairs.tar", "--output", f"{folder}/data", "--name", "drawn"]) == 0
    paths = ["--corpus", f"{folder}/data", "--checkpoint", str(sentence_checkpoint), "--output", f"{folder}/index"]
    assert index(["build", *paths, "--width", str(WIDTH), "--backend", "torch"]) == 0
    settings = make_settings(
        checkpoint=str(sentence_checkpoint), index=f"{folder}/index", width=WIDTH, backend="torch", device="cpu"
    )
    with running(create_app(settings)) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the service is ready")
        yield Walked(sentence_checkpoint, folder, client)


def keys(folder: Path) -> dict[str, Any]:
    """What the library calls each key of the dataset."""
    (pool,) = (folder / "data" / "cand_pool" / "global").glob("*union*.jsonl")
    found = {}
    for row in map(json.loads, pool.read_text().splitlines()):
        parts: dict[str, Any] = {"text": row["txt"]} if row.get("txt") else {}
        if row.get("img_path"):
            parts["image"] = Image.open(folder / "data" / row["img_path"]).convert("RGB")
        found[row["did"]] = parts
    return found


@pytest.mark.parametrize("instruction", [None, "Find the same shape."])
def test_answers_are_those_of_the_library_and_numpy(walked: Walked, instruction: str | None) -> None:
    library, corpus = of_library(walked.checkpoint), keys(walked.folder)
    options = {"truncate_dim": WIDTH, "normalize_embeddings": True}
    keys_ND = np.stack([library.encode_document(parts, **options) for parts in corpus.values()])
    picture, text = PAIRS[2].image, PAIRS[4].captions[1]
    encoded, decoded = base64.b64encode(picture).decode(), Image.open(BytesIO(picture)).convert("RGB")
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"text": text}, {"text": text}),
        ({"image": encoded}, {"image": decoded}),
        ({"text": text, "image": encoded}, {"text": text, "image": decoded}),
        ({"image": [encoded, encoded]}, {"image": [decoded, decoded]}),
    ]
    for query, parts in cases:
        answer = walked.search(**query, **({} if instruction is None else {"instruction": instruction}))
        assert answer.status_code == 200, answer.text
        scores = keys_ND @ library.encode_query(parts, prompt=instruction, **options)
        expected = dict(zip(corpus, scores, strict=True))
        hits = answer.json()["hits"]
        assert {hit["key"] for hit in hits} == set(expected)
        for hit in hits:
            assert hit["score"] == pytest.approx(expected[hit["key"]], abs=1e-5)


def test_what_the_model_cannot_do_is_a_4xx_that_names_it(walked: Walked) -> None:
    encoded = base64.b64encode(PAIRS[0].image).decode()
    answer = walked.search(text="a bar", image=encoded, text_weight=0.7)
    assert answer.status_code == 400
    assert "model qwen fuses text and image by itself" in answer.json()["error"]["message"]


def test_the_benchmark_measures_it(walked: Walked) -> None:
    output = walked.folder / "report"
    paths = ["--dataset", f"{walked.folder}/data", "--output", str(output)]
    assert bench(["quality", *paths, "--url", str(walked.client.base_url)]) == 0
    report = json.loads((output / "results.json").read_text())
    measured = {(row["task"]["name"], row["task"]["candidates"]) for row in report["results"]}
    assert len(measured) == len(report["results"]) >= 8


def test_another_width_is_refused_by_both_numbers(walked: Walked) -> None:
    settings = make_settings(checkpoint=str(walked.checkpoint), index=f"{walked.folder}/index", device="cpu")
    with (
        closing(load_index(settings)) as built,
        pytest.raises(StartupError, match=r"width: index has 16, encoder has 32.*fusion and width"),
    ):
        check_match(load_encoder(settings), built)
