"""Where the product's files are, for the guards that read them."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("program", "sources", "encoder", "training", "index", "service", "benchmark", "client")


def modules(root: Path) -> Iterator[Path]:
    """Every module of the packages under `root`."""
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))
