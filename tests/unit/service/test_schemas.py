"""Protects the wire module's promise to be light: clients may import it without the libraries of the encoder."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "[name for name in ('torch', 'faiss', 'open_clip', 'PIL') if name in sys.modules]"


def loaded_by(module: str) -> str:
    """Which heavy libraries importing a module loads, in a process of its own."""
    code = f"import sys, {module}; sys.stdout.write(','.join({HEAVY}))"
    root = Path(__file__).parents[3]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "module", ["anykey.service", "anykey.service.schemas", "anykey.service.queries.query", "anykey.service.settings"]
)
def test_the_wire_format_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module) == ""


def test_the_program_shows_its_help_without_torch() -> None:
    assert "torch" not in loaded_by("anykey.service.server")


def test_the_check_can_fail() -> None:
    assert "PIL" in loaded_by("anykey.encoder.images")
