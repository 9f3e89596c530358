"""How far a run is: bars on a terminal, now and then a plain line where the output goes to a file or a pipe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY_S = 30.0


class ProgressDisplay(Protocol):
    """What a long step is shown on. `open_progress` chooses which."""

    def add(self, name: str, total: int, done: int = 0) -> int:
        """Starts a task of `total` units, `done` of them before; gives back what `advance` takes."""

    def advance(self, task: int, n: int = 1, facts: str | None = None) -> None:
        """Counts `n` more units; `facts` stand beside the count until others come."""

    def print(self, line: str) -> None:
        """Prints one line of its own."""


@contextmanager
def open_progress(console: Console, clock: Callable[[], float] = monotonic) -> Iterator[ProgressDisplay]:
    """Bars where `console` is a terminal that can redraw; else a line per task about every 30 s and at its end.

    Args:
        console: Where to.
        clock: Seconds, for the plain lines.
    """
    if not console.is_interactive:
        yield PlainProgress(console, clock)
        return
    with _bars(console) as bars:
        yield BarProgress(bars)


class BarProgress:
    """One bar a task, redrawn in place."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def add(self, name: str, total: int, done: int = 0) -> int:
        """Starts a bar."""
        return self._bars.add_task(name, total=total, completed=done, facts="")

    def advance(self, task: int, n: int = 1, facts: str | None = None) -> None:
        """Moves a bar on."""
        if facts is not None:
            self._bars.update(TaskID(task), facts=facts)
        self._bars.advance(TaskID(task), n)

    def print(self, line: str) -> None:
        """Prints a line above the bars."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Count:
    """One task, and how far it was at its start and at its last line."""

    name: str
    total: int
    done: int
    start_done: int
    start_s: float
    line_done: int
    line_s: float
    facts: str = ""


class PlainProgress:
    """One line a task about every `LINE_EVERY_S`, and one at its end: readable in a log."""

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._clock = clock
        self._counts: list[_Count] = []

    def add(self, name: str, total: int, done: int = 0) -> int:
        """Starts a task; nothing is printed yet."""
        now_s = self._clock()
        self._counts.append(_Count(name, total, done, done, now_s, done, now_s))
        return len(self._counts) - 1

    def advance(self, task: int, n: int = 1, facts: str | None = None) -> None:
        """Counts on; prints when the last line is old, or the task done."""
        count, now_s = self._counts[task], self._clock()
        was_done = count.done >= count.total
        count.done += n
        if facts is not None:
            count.facts = facts
        if count.done >= count.total and not was_done:
            took_s = now_s - count.start_s
            self._line(count, _rate(count.done - count.start_done, took_s), f"took {_time(took_s)}")
        elif not was_done and now_s - count.line_s >= LINE_EVERY_S:
            # What came since the last line tells the time left better than the whole: the first steps are slow.
            units, seconds = count.done - count.line_done, now_s - count.line_s
            left = _time((count.total - count.done) * seconds / units) if units else "?"
            self._line(count, _rate(units, seconds), f"{left} left")
            count.line_done, count.line_s = count.done, now_s

    def print(self, line: str) -> None:
        """Prints a line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, count: _Count, rate: str, time: str) -> None:
        parts = [f"{count.name}: {count.done:,} of {count.total:,}", rate, time, count.facts]
        self.print(", ".join(part for part in parts if part))


class _RateColumn(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """The recent rate, or nothing before there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else _rate(speed, 1.0))


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        _RateColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        refresh_per_second=2,
    )


def _rate(units: float, seconds: float) -> str:
    if seconds <= 0:
        return ""
    rate = units / seconds
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
