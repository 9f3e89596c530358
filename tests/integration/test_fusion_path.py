"""An encoder with native fusion goes the whole way by the public commands: trained, indexed, served, searched.

The oracle embeds queries and keys with the checkpoint in this process, one at a time, and sorts in numpy.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from anykey.encoder import Encoder, Item
from anykey.index.__main__ import main as index
from anykey.training.__main__ import main as train
from tests.commands import serving
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.fusion_models import write_architecture, write_text_model
from tests.serving import WAIT_S
from tests.visualized import Toy

PAIRS = drawn_pairs(16)
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]  # `test_train_native_fusion` and others show its parts


@dataclass(frozen=True)
class Walked:
    """Where each step left its work."""

    checkpoint: Path
    url: str
    losses: list[float]

    def search(self, **query: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/search", json={"k": 48, **query}, timeout=WAIT_S, trust_env=False)


def items() -> dict[str, Item]:
    """Every drawing as an image, a text, and both."""
    kinds = {"i": (False, True), "t": (True, False), "it": (True, True)}
    return {
        f"{kind}-{pair.name}": Item(pair.captions[0] if has_text else None, (pair.image,) if has_image else ())
        for pair in PAIRS
        for kind, (has_text, has_image) in kinds.items()
    }


def write_corpus(folder: Path) -> Path:
    rows = []
    for key, item in items().items():
        row: dict[str, Any] = {"key": key, "text": item.text}
        if item.images:
            image = folder / f"{key}.png"
            image.write_bytes(item.images[0])  # type: ignore[arg-type]
            row["image"] = image.name
        rows.append(json.dumps(row))
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    return folder / "corpus.jsonl"


@pytest.fixture(scope="module")
def walked(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    folder = tmp_path_factory.mktemp("fusion")
    write_text_model(toy, folder / "text")
    write_architecture(folder / "mine.json")
    write_shard(folder / "train.tar", PAIRS)
    flags = ["--family", "fusion", "--architecture", f"{folder}/mine.json", "--temperature", "0.1"]
    flags += ["--data", f"{folder}/train.tar", "--output", f"{folder}/run"]
    assert train([*flags, "--batch-size", "8", "--num-epochs", "20", "--learning-rate", "3e-3"]) == 0
    corpus = write_corpus(folder)
    checkpoint = folder / "run" / "last"
    paths = ["--corpus", str(corpus), "--checkpoint", str(checkpoint), "--output", f"{folder}/index"]
    assert index(["build", *paths]) == 0
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    with serving(checkpoint, folder / "index", folder / "service.log") as url:
        yield Walked(checkpoint, url, losses)


def test_the_loss_falls(walked: Walked) -> None:
    assert walked.losses[-1] < 0.8 * walked.losses[0]


def test_answers_are_those_of_the_encoder_and_numpy(walked: Walked) -> None:
    encoder = Encoder.load(walked.checkpoint, device="cpu")
    keys_ND = np.concatenate([encoder.encode([item]) for item in items().values()])
    picture, text = PAIRS[3].image, PAIRS[7].captions[1]
    encoded = base64.b64encode(picture).decode()
    cases: list[tuple[dict[str, Any], Item]] = [
        ({"text": text}, Item(text)),
        ({"image": encoded}, Item(images=(picture,))),
        ({"text": text, "image": encoded}, Item(text, (picture,))),
    ]
    for query, item in cases:
        answer = walked.search(**query)
        assert answer.status_code == 200, answer.text
        scores = dict(zip(items(), keys_ND @ encoder.encode([item])[0], strict=True))
        hits = answer.json()["hits"]
        assert len(hits) == len(scores)
        for hit in hits:
            assert hit["score"] == pytest.approx(scores[hit["key"]], abs=1e-5)


def test_the_service_names_the_model_and_how_it_fuses(walked: Walked) -> None:
    answer = httpx.get(f"{walked.url}/info", timeout=WAIT_S, trust_env=False)
    assert '"fusion":"native"' in answer.text.replace(" ", "")
    manifest = json.loads((walked.checkpoint / "encoder.json").read_text())
    assert walked.search(text="a red circle").json()["model_fingerprint"] == manifest["fingerprint"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"text": "a bar", "text_weight": 0.7}, "model mine fuses text and image by itself and takes no text_weight"),
        ({"images": 2}, "model mine takes one image of an item, got 2"),
    ],
)
def test_what_the_model_cannot_do_is_a_4xx_that_names_it(walked: Walked, query: dict[str, Any], reason: str) -> None:
    encoded = base64.b64encode(PAIRS[0].image).decode()
    number = query.pop("images", 1)
    query |= {"image": encoded if number == 1 else [encoded] * number}
    answer = walked.search(**query)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]
