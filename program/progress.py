"""How far a command is: bars with rate and time left on a terminal, now and then a plain line elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
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

LINE_INTERVAL_S = 30.0

Report = Callable[[str, int, int], None]  # told what is being done, how much of it is done, and of how much


def quietly(step: str, done: int, total: int) -> None:
    """Reports nothing."""


class Advance(Protocol):
    """Reports that more of a step is done."""

    def __call__(self, count: int = 1, facts: str | None = None) -> None:
        """Adds `count` to what is done; `facts` stand beside the count until others come."""


class Display(Protocol):
    """What the steps of a command are shown on. `open_progress` chooses which."""

    def begin(self, title: str, total: int | None = None, done: int = 0) -> Advance:
        """Begins a step of `total` units, or nobody knows how many, `done` of them before."""

    def report(self, step: str, done: int, total: int) -> None:
        """Shows a step that another part of the program names; it ends when the next is named."""

    def print(self, line: str) -> None:
        """Prints one line of its own."""


@contextmanager
def open_progress(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Display]:
    """Shows steps while the block runs: as bars where `console` is a terminal that can redraw, else as lines.

    A line comes about every `LINE_INTERVAL_S` seconds, and one when a step ends.

    Args:
        console: Where to.
        clock: Seconds, for the lines.
    """
    if console.is_interactive:
        with _bars(console) as bars:
            yield _Bars(bars)
    else:
        lines = _Lines(console, clock)
        yield lines
        lines.end()


@contextmanager
def progress(
    console: Console, title: str, total: int | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Shows the progress of one step while the block runs.

    Args:
        console: Where to.
        title: What is being done.
        total: How much there is to do, or `None` if nobody knows.
        clock: Seconds, for the lines.
    """
    with open_progress(console, clock) as display:
        yield display.begin(title, total)


class _Bars:
    """One bar a step, redrawn in place."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._reported: tuple[str, TaskID] | None = None

    def begin(self, title: str, total: int | None = None, done: int = 0) -> Advance:
        return partial(self._advance, self._bars.add_task(title, total=total, completed=done, facts=""))

    def report(self, step: str, done: int, total: int) -> None:
        if self._reported is None or self._reported[0] != step:
            if self._reported is not None:
                self._bars.stop_task(self._reported[1])
            self._reported = step, self._bars.add_task(step, facts="")
        self._bars.update(self._reported[1], completed=done, total=total)

    def print(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _advance(self, task: TaskID, count: int = 1, facts: str | None = None) -> None:
        if facts is not None:
            self._bars.update(task, facts=facts)
        self._bars.advance(task, count)


@dataclass
class _Count:
    """One step, and how far it was when it began and at its last line."""

    title: str
    total: int | None
    done: int
    start_done: int
    start_s: float
    line_done: int
    line_s: float
    facts: str = ""
    is_over: bool = False


class _Lines:
    """One line a step about every `LINE_INTERVAL_S`, and one at its end: readable in a log."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._counts: list[_Count] = []
        self._reported, self._reported_s = "", 0.0

    def begin(self, title: str, total: int | None = None, done: int = 0) -> Advance:
        now_s = self._clock()
        count = _Count(title, total, done, done, now_s, done, now_s)
        self._counts.append(count)
        return partial(self._advance, count)

    def report(self, step: str, done: int, total: int) -> None:
        now_s = self._clock()
        if step != self._reported or now_s - self._reported_s >= LINE_INTERVAL_S:
            self._reported, self._reported_s = step, now_s
            self.print(f"{step}: {done:,} of {total:,}" if done else step)

    def print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Ends the steps that did something and did not say how much there is."""
        for count in self._counts:
            if count.done > count.start_done:
                self._end(count)

    def _advance(self, count: _Count, units: int = 1, facts: str | None = None) -> None:
        count.done += units
        if facts is not None:
            count.facts = facts
        if count.total is not None and count.done >= count.total:
            self._end(count)
        elif self._clock() - count.line_s >= LINE_INTERVAL_S:
            self._go_on(count)

    def _go_on(self, count: _Count) -> None:
        """A line of a step that lasts; what came since its last line tells the time left best: first steps are slow."""
        now_s = self._clock()
        units, seconds = count.done - count.line_done, now_s - count.line_s
        left = "?" if not units or count.total is None else _time((count.total - count.done) * seconds / units)
        self._line(count, _rate(units, seconds), "" if count.total is None else f"{left} left")
        count.line_done, count.line_s = count.done, now_s

    def _end(self, count: _Count) -> None:
        if not count.is_over:
            count.is_over = True
            took_s = self._clock() - count.start_s
            self._line(count, _rate(count.done - count.start_done, took_s), f"took {_time(took_s)}")

    def _line(self, count: _Count, rate: str, took: str) -> None:
        of_total = "" if count.total is None else f" of {count.total:,}"
        parts = [f"{count.title}: {count.done:,}{of_total}", rate, took, count.facts]
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
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
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
