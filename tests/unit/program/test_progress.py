"""Progress: a bar on terminals, a few plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from anykey.program import progress as module
from anykey.program.progress import progress


def console(is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=120)


def output(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_terminal_gets_a_bar_with_count_rate_and_time_left() -> None:
    shown = console(is_terminal=True)

    with progress(shown, "embedding", 3) as advance:
        advance(2)
        advance()

    assert "embedding" in output(shown)
    assert "3/3" in output(shown)
    assert "ETA" in output(shown)


def test_elsewhere_one_line_at_the_end_tells_count_and_rate() -> None:
    shown = console(is_terminal=False)

    with progress(shown, "embedding", 1000) as advance:
        for _ in range(1000):
            advance()

    (line,) = output(shown).splitlines()
    assert line.startswith("embedding: 1,000 of 1,000, ")
    assert line.endswith("/s")


def test_long_steps_tell_the_time_left_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = iter([0.0, 5.0, 11.0, 12.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock_s))
    shown = console(is_terminal=False)

    with progress(shown, "embedding", 40) as advance:
        for _ in range(3):
            advance(10)

    first, last = output(shown).splitlines()
    assert first == "embedding: 20 of 40, 2/s, 11 s left"
    assert last.startswith("embedding: 30 of 40")


def test_step_without_work_is_silent() -> None:
    shown = console(is_terminal=False)

    with progress(shown, "embedding", 0):
        pass

    assert output(shown) == ""
