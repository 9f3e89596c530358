"""The progress bar of every long step: share done, rate and time left."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from anykey.program.settings import plain_console

T = TypeVar("T")


class RateColumn(TextColumn):
    """Units finished per second."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate, or a dash before there is one."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.0f} {self.unit}/s" if rate else f"- {self.unit}/s", style="cyan")


def progress_bar(unit: str) -> Progress:
    """A progress bar on stderr that counts in `unit` ("images", "queries"); use it as a context manager."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        RateColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=plain_console(stderr=True),
    )


def tracked(steps: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """Yields from `steps` and shows how many of `total` have come."""
    with progress_bar(unit) as progress:
        task = progress.add_task(description, total=total)
        for step in steps:
            yield step
            progress.advance(task)
