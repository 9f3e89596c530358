"""What breaks a service runs whole, and a page says what became of requests."""

import sys
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import main
from benchmarks.recorded import kept_notes


@pytest.mark.slow
def test_scenarios_run_and_find_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "chaos.md"
    page.write_text("# Of before\n\n## Notes\n\nWhat people wrote.\n")
    chosen = ["--only", "nothing", "kill", "damaged", "hostile", "--calm-s", "2", "--num-hostile", "42"]
    monkeypatch.setattr(sys, "argv", ["chaos", "--output", str(page), *chosen])
    assert main() == 0, page.read_text()
    written = page.read_text()
    assert "| kill -9 three times |" in written
    assert "Of before" not in written
    assert written.endswith("All that was run is as it should be.\n\n## Notes\n\nWhat people wrote.\n")


def test_notes_are_what_follows_their_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert kept_notes(page) == []
    page.write_text("# Notes on results\n\nfound\n")
    assert kept_notes(page) == []
    page.write_text("# Results\n\nfound\n\n## Notes\n\none\n\ntwo\n")
    assert kept_notes(page) == ["## Notes", "", "one", "", "two"]
