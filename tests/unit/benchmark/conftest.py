"""One small ShapesWorld, drawn once for all tests that only read it."""

from pathlib import Path

import pytest

from anykey.benchmark.settings import ShapesWorldSettings
from anykey.benchmark.shapesworld.write import run


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
