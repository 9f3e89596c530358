"""Keys are stored in a live service as their dataset says, also those whose images count differently."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.benchmark.__main__ import main
from anykey.benchmark.dataset import Dataset, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.quality import run
from anykey.benchmark.settings import QualitySettings
from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from anykey.index.faiss_index import FaissIndex
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts
from tests.fakes import FakeEncoder
from tests.serving import serving
from tests.unit.benchmark.endpoints.embedding_server import EmbeddingServer, vector_of
from tests.unit.benchmark.endpoints.embedding_server import serving as embedding

QUERY_POOLING = ("--options", "pooling=query")


@pytest.fixture(scope="module")
def covr(mini: Callable[[str], Path]) -> Path:
    return mini("covr")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """A service whose index has no keys yet."""
    encoder = FakeEncoder()
    facts = {name: getattr(encoder, name) for name in ("name", "width", "fingerprint", "fusion")}
    create_index(tmp_path / "index", EncoderFacts.model_validate(facts))
    with (
        FaissIndex.open(tmp_path / "index") as index,
        serving(encoder, index, writable=True, max_images=15, max_keys=7) as client,
    ):
        yield client


def stored(client: httpx.Client, dataset: Path, *flags: str) -> int:
    return main(["store", "--dataset", str(dataset), "--url", str(client.base_url), *flags])


def vector_at(client: httpx.Client, key: str) -> NDArray[np.float64]:
    found = client.get(f"/keys/{key.replace('/', '%2F')}", params={"include": "vector"}).json()
    return np.array(found["vector"])


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def by_definition(dataset: Dataset, weighed: bool = True) -> dict[str, NDArray[np.float64]]:
    """CoVR's pooling of each key's frames, whose vectors are those of the encoder; or their mean."""
    encoder, found = FakeEncoder(), {}
    for entry in dataset.corpus():
        frames = [encoder.prepare(Item(images=(image_bytes(image),)), Role.KEY) for image in entry.images]
        vectors_FD = encoder.encode_prepared(frames).astype(np.float64)
        found[entry.key] = unit(np.average(vectors_FD, axis=0, weights=entry.image_weights if weighed else None))
    return found


def test_frames_are_pooled_by_their_scores_and_searched(
    covr: Path, client: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset(covr, options=["pooling=query"])
    expected = by_definition(dataset)
    assert stored(client, covr, *QUERY_POOLING) == 0
    assert "21 keys of WebVid-CoVR, 21 of them new, are stored at" in capsys.readouterr().out.replace("\n", " ")
    for key, vector in expected.items():
        assert vector_at(client, key) == pytest.approx(vector, abs=1e-6)
    means = by_definition(dataset, weighed=False)
    assert max(np.abs(expected[key] - means[key]).max() for key in expected) > 1e-4

    output = tmp_path / "out"
    flags = ["--dataset", str(covr), "--url", str(client.base_url), "--output", str(output), "--check-keys"]
    assert main(["quality", *flags, *QUERY_POOLING, "--search", "exact"]) == 0
    report = json.loads((output / "results.json").read_text())
    assert report["warnings"] == []
    encoder = FakeEncoder()
    for task, result in zip(dataset.tasks(), report["results"], strict=True):
        least, most = 0, 0  # right answers found first, where a tie with another key is lost or won
        for query in dataset.queries(task):
            item = Item(query.text, tuple(image_bytes(image) for image in query.images))
            (vector,) = encoder.encode_prepared([encoder.prepare(item, Role.QUERY)]).astype(np.float64)
            allowed = [key for key in expected if not (task.excludes_references and key in query.references)]
            scores = {key: float(expected[key] @ vector) for key in allowed}
            best = {key for key in allowed if scores[key] > max(scores.values()) - 1e-6}
            least, most = least + (best == set(query.relevant)), most + bool(best & set(query.relevant))
        assert least <= result["metrics"]["success@1"] * 21 + 1e-9 <= most + 1e-6, task

    assert stored(client, covr, *QUERY_POOLING) == 0
    assert "21 keys of WebVid-CoVR, 0 of them new" in capsys.readouterr().out.replace("\n", " ")


def test_keys_of_another_pooling_are_not_taken_for_these(
    covr: Path, client: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stored(client, covr) == 0
    flags = ["--dataset", str(covr), "--url", str(client.base_url), "--output", str(tmp_path / "out")]
    assert main(["quality", *flags]) == 0
    capsys.readouterr()
    assert main(["quality", *flags, *QUERY_POOLING]) == 1
    assert "has no pool 'webvid_covr_test_query'" in capsys.readouterr().err.replace("\n", " ")


def test_keys_with_texts_and_pages_are_embedded_by_the_service(shapesworld_dir: Path, client: httpx.Client) -> None:
    assert stored(client, shapesworld_dir, "--batch", "5") == 0
    dataset, encoder = open_dataset(shapesworld_dir), FakeEncoder()
    entries = list(dataset.corpus())
    assert client.get("/info").json()["index"]["num_keys"] == len(entries)
    for entry in entries[::9]:
        item = Item(entry.text, tuple(image_bytes(image) for image in entry.images))
        (vector,) = encoder.encode_prepared([encoder.prepare(item, Role.KEY)])
        assert vector_at(client, entry.key) == pytest.approx(vector, abs=1e-6)
        found = client.get(f"/keys/{entry.key}").json()
        assert (found["pools"], found["modality"]) == (sorted(entry.pools), entry.modality)


def test_what_a_service_does_not_take_is_one_line(
    covr: Path, client: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = FakeEncoder()
    with FaissIndex.open(tmp_path / "index") as index:
        with serving(encoder, index, max_images=15) as reader:
            assert stored(reader, covr, *QUERY_POOLING) == 1
        assert "409 read_only" in capsys.readouterr().err
        with serving(encoder, index, writable=False) as few:
            assert stored(few, covr) == 1
        said = capsys.readouterr().err.replace("\n", " ")
        assert "has 15 images, the service takes at most 8: give it a larger max_images" in said
    assert client.get("/info").json()["index"]["num_keys"] == 0


def test_an_embeddings_endpoint_of_others_pools_the_same_way(covr: Path, tmp_path: Path) -> None:
    given = {"api": "cohere", "model": "m", "ready_timeout_s": 5}
    with embedding(EmbeddingServer()) as server:
        settings = {"dataset": covr, "url": server.url, "output": tmp_path, "options": ["pooling=query"], **given}
        assert run(QualitySettings.model_validate(settings)) == 0
    vectors = np.fromfile(tmp_path / "vectors" / "vectors.f32", "<f4").reshape(21, -1)
    for entry, vector in zip(open_dataset(covr, options=["pooling=query"]).corpus(), vectors, strict=True):
        frames = [unit(vector_of((None, (image_bytes(image),)))) for image in entry.images]
        assert entry.image_weights is not None
        assert vector == pytest.approx(unit(np.average(frames, axis=0, weights=entry.image_weights)), abs=1e-6)
