"""Progress on a terminal and off one: what is printed, and when."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from anykey.training.progress import BarProgress, PlainProgress, open_progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def plain() -> tuple[PlainProgress, Clock, io.StringIO]:
    file, clock = io.StringIO(), Clock()
    return PlainProgress(Console(file=file, width=20), clock), clock, file


def test_a_line_comes_every_half_minute_with_rate_time_left_and_facts() -> None:
    progress, clock, file = plain()
    task = progress.add("train", 1200)
    for _ in range(600):
        clock.now_s += 0.1
        progress.advance(task, facts="loss 2.31 [best]")
    first, second = file.getvalue().splitlines()
    assert first == "train: 300 of 1,200, 10/s, 0:01:30 left, loss 2.31 [best]"
    assert second.startswith("train: 600 of 1,200, 10/s, 0:01:00 left")


def test_the_last_line_says_how_long_it_took_and_nothing_follows_it() -> None:
    progress, clock, file = plain()
    task = progress.add("read pairs", 5)
    clock.now_s = 20.0
    progress.advance(task, 5)
    clock.now_s = 90.0
    progress.advance(task)
    assert file.getvalue() == "read pairs: 5 of 5, 0.25/s, took 0:00:20\n"


def test_rate_and_time_left_are_those_since_the_last_line() -> None:
    progress, clock, file = plain()
    task = progress.add("train", 100)
    for clock.now_s, units in ((30.0, 3), (60.0, 30)):
        progress.advance(task, units)
    assert file.getvalue().splitlines()[1] == "train: 33 of 100, 1/s, 0:01:07 left"


def test_what_was_done_before_a_resume_does_not_count_as_speed() -> None:
    progress, clock, file = plain()
    task = progress.add("train", 100, done=90)
    clock.now_s = 10.0
    progress.advance(task, 10)
    assert file.getvalue() == "train: 100 of 100, 1/s, took 0:00:10\n"


def test_tasks_have_lines_of_their_own() -> None:
    progress, clock, file = plain()
    first, second = progress.add("a", 10), progress.add("b", 10)
    clock.now_s = 30.0
    progress.advance(first, 5)
    progress.advance(second, 0)
    progress.print("[between]")
    assert file.getvalue().splitlines() == ["a: 5 of 10, 0.17/s, 0:00:30 left", "b: 0 of 10, 0/s, ? left", "[between]"]


def test_a_terminal_gets_bars_with_count_and_facts() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with open_progress(console) as progress:
        assert isinstance(progress, BarProgress)
        task = progress.add("train [x]", 8, done=2)
        progress.advance(task, 3, facts="loss [2.31]")
        progress.advance(task)
        progress.print("step 3 [ok]")
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", file.getvalue())
    assert [text for text in ("train [x]", "6/8", "loss [2.31]", "step 3 [ok]") if text not in shown] == []


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_redraw_gets_lines(term: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": term})
    with open_progress(console) as progress:
        assert isinstance(progress, PlainProgress)


PROGRAM = """
from rich.console import Console
from anykey.training.progress import open_progress
with open_progress(Console()) as progress:
    progress.advance(progress.add("work", 3), 3, facts="done well")
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
    drawn = os.read(leader, 10_000).decode()
    os.close(leader)
    assert "3/3" in drawn
    assert "\x1b[" in drawn
