"""One small ShapesWorld and miniatures of benchmarks in their owners' forms, made once; tests only read them."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.benchmark.settings import ShapesWorldSettings
from anykey.benchmark.shapesworld.write import run

ARCHIVES = Path(__file__).parents[2] / "data" / "bench-mini"


def small_settings(output: Path, **changes: object) -> ShapesWorldSettings:
    """Settings of a ShapesWorld that takes well under a second."""
    small = {
        "train_scenes": 12,
        "val_scenes": 5,
        "queries_per_task": 4,
        "near_misses_per_query": 2,
        "distractors_per_task": 3,
        "shard_size": 5,
        "workers": 1,
    }
    return ShapesWorldSettings.model_validate({"output": output, **small, **changes})


@pytest.fixture(scope="session")
def shapesworld_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("drawn") / "shapesworld"
    assert run(small_settings(output)) == 0
    return output


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a miniature, with what its owners' own code says of fixed runs, once a session; tests only read it."""
    root = tmp_path_factory.mktemp("bench-mini")

    def unpacked(name: str) -> Path:
        if not (root / name).exists():
            with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
                archive.extractall(root, filter="data")
        return root / name

    return unpacked
