"""Miniatures of benchmarks in their owners' forms, with what the owners' own code says of fixed runs."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ARCHIVES = Path(__file__).parents[3] / "data" / "bench-mini"


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a miniature, once a session; tests only read it."""
    root = tmp_path_factory.mktemp("bench-mini")

    def unpacked(name: str) -> Path:
        if not (root / name).exists():
            with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
                archive.extractall(root, filter="data")
        return root / name

    return unpacked
