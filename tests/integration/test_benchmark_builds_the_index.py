"""The harness brings the index that a real service serves to a dataset's keys, and finds what is missing in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anykey.benchmark.__main__ import main as bench
from anykey.index.__main__ import main as index
from anykey.service.app import create_app
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.models import tiny_checkpoint
from tests.serving import make_settings, running, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, and an index of the first one's keys."""
    root = tmp_path_factory.mktemp("served")
    tiny_checkpoint(root)
    for name, count in (("few", 4), ("many", 6)):
        write_shard(root / f"{name}.tar", drawn_pairs(count))
        made = ["--pairs", f"{root}/{name}.tar", "--output", f"{root}/{name}", "--name", "drawn"]
        assert bench(["from-pairs", *made]) == 0
    assert index(["build", "--corpus", f"{root}/few", "--checkpoint", f"{root}/tiny", "--output", f"{root}/index"]) == 0
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    settings = make_settings(checkpoint=f"{folder}/tiny", index=f"{folder}/index", device="cpu", backend="torch")
    with running(create_app(settings)) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the service is ready")
        yield client


def quality(folder: Path, client: httpx.Client, dataset: str, *flags: str) -> int:
    paths = ["--dataset", f"{folder}/{dataset}", "--output", f"{folder}/report", "--url", str(client.base_url)]
    return bench(["quality", *paths, "--tasks", "0", "--pools", "local", *flags])


@pytest.mark.slow
def test_an_index_without_some_of_the_keys_is_found_and_then_built(
    folder: Path, client: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    assert quality(folder, client, "few", "--check-keys") == 0
    assert quality(folder, client, "many", "--check-keys") == 1
    assert "has 12 keys, the dataset 18" in capfd.readouterr().err.replace("\n", " ")

    flags = ["--index-settings", f"checkpoint={folder}/tiny,backend=torch"]
    assert quality(folder, client, "many", "--check-keys", "--index", f"{folder}/index", *flags) == 0

    report: dict[str, Any] = json.loads((folder / "report" / "results.json").read_text())
    assert report["service"]["index"]["version"] == "2"
    assert report["warnings"] == []


def test_a_build_that_fails_ends_the_run(folder: Path, client: httpx.Client, capfd: pytest.CaptureFixture[str]) -> None:
    assert quality(folder, client, "few", "--index", f"{folder}/index", "--index-settings", "backend=abacus") == 1
    said = capfd.readouterr().err.replace("\n", " ")
    assert "abacus" in said
    assert "anykey-index build ended with exit code 2" in said
