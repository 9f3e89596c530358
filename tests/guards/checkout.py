"""Where the product's files are, for the guards that read them."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("encoder", "training", "index", "service", "benchmark")


def name_of(package: str) -> str:
    """What a package at the top is imported as."""
    return f"anykey.{package}"


def modules(root: Path) -> Iterator[Path]:
    """Every module of the five packages under `root`."""
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))
