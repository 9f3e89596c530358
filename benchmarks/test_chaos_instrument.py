"""What breaks a service runs whole, and a page says what became of requests."""

import sys
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import main


@pytest.mark.slow
def test_scenarios_run_and_find_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "chaos.md"
    chosen = ["--only", "nothing", "kill", "damaged", "hostile", "--calm-s", "2", "--num-hostile", "42"]
    monkeypatch.setattr(sys, "argv", ["chaos", "--output", str(page), *chosen])
    assert main() == 0, page.read_text()
    assert "| kill -9 three times |" in page.read_text()
