"""Progress on a terminal and off one: what is printed, and when."""

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from anykey.program.progress import Display, open_progress, progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def plain() -> Iterator[tuple[Display, Clock, io.StringIO]]:
    file, clock = io.StringIO(), Clock()
    with open_progress(Console(file=file, width=20), clock) as display:
        yield display, clock, file


def terminal(term: str = "xterm") -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=120, _environ={"TERM": term}), file


def drawn(file: io.StringIO) -> str:
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", file.getvalue())


def test_a_line_comes_every_half_minute_with_rate_time_left_and_facts() -> None:
    with plain() as (display, clock, file):
        advance = display.begin("train", 1200)
        for _ in range(600):
            clock.now_s += 0.1
            advance(facts="loss 2.31 [best]")
        first, second = file.getvalue().splitlines()
    assert first == "train: 300 of 1,200, 10/s, 0:01:30 left, loss 2.31 [best]"
    assert second.startswith("train: 600 of 1,200, 10/s, 0:01:00 left")


def test_the_last_line_says_how_long_it_took_and_nothing_follows_it() -> None:
    with plain() as (display, clock, file):
        advance = display.begin("read pairs", 5)
        clock.now_s = 20.0
        advance(5)
        assert file.getvalue() == "read pairs: 5 of 5, 0.25/s, took 0:00:20\n"
        clock.now_s = 90.0
        advance()
    assert file.getvalue().count("\n") == 1


def test_a_step_of_unknown_length_tells_what_was_done_now_and_then_and_at_its_end() -> None:
    file, clock = io.StringIO(), Clock()
    with progress(Console(file=file, width=20), "reading", None, clock) as advance:
        for clock.now_s in (15.0, 30.0, 45.0):
            advance(1500)
    assert file.getvalue().splitlines() == ["reading: 3,000, 100/s", "reading: 4,500, 100/s, took 0:00:45"]


def test_a_step_that_fails_tells_no_end() -> None:
    file = io.StringIO()
    with pytest.raises(OSError), progress(Console(file=file), "reading", 3) as advance:  # noqa: PT011, PT012
        advance()
        raise OSError
    assert file.getvalue() == ""


def test_a_step_without_work_is_silent() -> None:
    file = io.StringIO()
    with progress(Console(file=file), "embedding", 0):
        pass
    assert file.getvalue() == ""


def test_rate_and_time_left_are_those_since_the_last_line() -> None:
    with plain() as (display, clock, file):
        advance = display.begin("train", 100)
        for clock.now_s, units in ((30.0, 3), (60.0, 30)):
            advance(units)
    assert file.getvalue().splitlines()[1] == "train: 33 of 100, 1/s, 0:01:07 left"


def test_what_was_done_before_a_resume_does_not_count_as_speed() -> None:
    with plain() as (display, clock, file):
        advance = display.begin("train", 100, done=90)
        clock.now_s = 10.0
        advance(10)
    assert file.getvalue() == "train: 100 of 100, 1/s, took 0:00:10\n"


def test_steps_have_lines_of_their_own() -> None:
    with plain() as (display, clock, file):
        first, second = display.begin("a", 10), display.begin("b", 10)
        clock.now_s = 30.0
        first(5)
        second(0)
        display.print("[between]")
        assert file.getvalue().splitlines() == [
            "a: 5 of 10, 0.17/s, 0:00:30 left",
            "b: 0 of 10, 0/s, ? left",
            "[between]",
        ]


def test_a_step_that_others_name_has_a_line_when_it_begins_and_now_and_then() -> None:
    with plain() as (display, clock, file):
        for clock.now_s, step, done in ((0.0, "building", 0), (20.0, "building", 4), (40.0, "building", 6)):
            display.report(step, done, 8)
        display.report("measuring", 0, 1)
    assert file.getvalue().splitlines() == ["building", "building: 6 of 8", "measuring"]


def test_a_terminal_gets_bars_with_count_facts_and_time_left() -> None:
    console, file = terminal()
    with open_progress(console) as display:
        advance = display.begin("train [x]", 8, done=2)
        advance(3, facts="loss [2.31]")
        advance()
        display.print("step 3 [ok]")
    wanted = ("train [x]", "6/8", "loss [2.31]", "step 3 [ok]", "ETA")
    assert [text for text in wanted if text not in drawn(file)] == []


def test_a_terminal_gets_bars_of_the_steps_that_others_name() -> None:
    console, file = terminal()
    with open_progress(console) as display:
        for step, done in (("building", 4), ("building", 6), ("measuring", 1)):
            display.report(step, done, 8)
    *_, building, measuring = drawn(file).splitlines()
    assert building.startswith("building")
    assert "6/8" in building
    assert "1/8" in measuring


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_redraw_gets_lines(term: str) -> None:
    console, file = terminal(term)
    with progress(console, "work", 3) as advance:
        advance(3)
    assert file.getvalue().startswith("work: 3 of 3,")


PROGRAM = """
from rich.console import Console
from anykey.program.progress import open_progress
with open_progress(Console()) as display:
    display.begin("work", 3)(3, facts="done well")
"""


def test_a_real_pipe_gets_one_line_and_a_real_terminal_a_bar() -> None:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", PROGRAM]
    piped = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, timeout=60).stdout.decode()
    assert piped.count("\n") == 1
    assert piped.startswith("work: 3 of 3,")
    leader, follower = pty.openpty()
    subprocess.run(command, stdout=follower, env=environment, check=True, timeout=60)
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    assert "3/3" in shown
    assert "\x1b[" in shown
