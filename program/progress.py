"""Progress of a long step: a bar with rate and ETA on a terminal, an occasional line elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_INTERVAL_S = 10.0

Report = Callable[[str, int, int], None]  # told what is being done, how much of it is done, and of how much


def quietly(step: str, done: int, total: int) -> None:
    """Reports nothing."""


class Advance(Protocol):
    """Reports that more is done."""

    def __call__(self, count: int = 1) -> None:
        """Adds `count` to what is done."""


@contextmanager
def progress(console: Console, title: str, total: int | None) -> Iterator[Advance]:
    """Shows the progress of one step while the block runs.

    Args:
        console: Where to show it; bars appear on terminals only.
        title: What is being done.
        total: How much there is to do, or `None` if nobody knows.
    """
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count=1: bar.advance(task, count)
    else:
        lines = _Lines(console, title, total)
        yield lines.advance
        lines.finish()


def step_lines(console: Console) -> Report:
    """A line when a step of unknown length begins, and at most every `LINE_INTERVAL_S` seconds while it lasts."""
    last_step, last_line_s = "", 0.0

    def show(step: str, done: int, total: int) -> None:
        nonlocal last_step, last_line_s
        now_s = time.monotonic()
        if step != last_step or now_s - last_line_s >= LINE_INTERVAL_S:
            last_step, last_line_s = step, now_s
            console.print(f"{step}: {done:,} of {total:,}" if done else step)

    return show


class _Rate(ProgressColumn):
    """Keys per second."""

    def render(self, task: Task) -> Text:
        """Draws the column."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    return Progress(*columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console)


class _Lines:
    """Progress as plain lines, at most one in `LINE_INTERVAL_S` seconds and one at the end."""

    def __init__(self, console: Console, title: str, total: int | None) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done = 0
        self._started_s = self._last_line_s = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._done += count
        now_s = time.monotonic()
        if now_s - self._last_line_s >= LINE_INTERVAL_S:
            self._last_line_s = now_s
            self._print(now_s)

    def finish(self) -> None:
        if self._done:
            self._print(time.monotonic())

    def _print(self, now_s: float) -> None:
        rate_per_s = self._done / max(now_s - self._started_s, 1e-9)
        of_total = "" if self._total is None else f" of {self._total:,}"
        left = 0 if self._total is None else max(self._total - self._done, 0)
        eta = f", {left / rate_per_s:,.0f} s left" if left else ""
        self._console.print(f"{self._title}: {self._done:,}{of_total}, {rate_per_s:,.0f}/s{eta}")
