"""The command `anykey-bench load`: requests at given rates, or up to the rate at which the service gives way."""

import asyncio
import math
import selectors
import signal
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from anykey.benchmark.client import SearchClient
from anykey.benchmark.connection import own_key
from anykey.benchmark.dataset import Task
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError, RequestFailedError
from anykey.benchmark.load.arrivals import Schedule, poisson, replayed, uniform
from anykey.benchmark.load.ceiling import SHARE, client_ceiling
from anykey.benchmark.load.connections import Connections
from anykey.benchmark.load.open_loop import OpenLoop
from anykey.benchmark.load.report import LoadReport, forget_load_report, table, write_load_report
from anykey.benchmark.load.saturation import Saturation, find_saturation
from anykey.benchmark.load.tally import Tally
from anykey.benchmark.load.traffic import Log, Mix, Traffic
from anykey.benchmark.quality import Round, body_of, check_endpoint, chosen_tasks
from anykey.benchmark.report import environment
from anykey.benchmark.settings import LoadSettings
from anykey.program.exits import EXIT_INTERRUPTED
from anykey.program.progress import progress
from anykey.program.settings import plain_console

DEFAULT_RATES = (10.0, 50.0, 100.0)
MOST_SELECTED = 768  # connections that select() can wait for, files of other kinds apart
TICK_S = 0.5


def run(settings: LoadSettings) -> int:
    """The command: measures, writes the report, prints the table.

    Returns:
        The exit code: 0, or 130 where Ctrl-C ended it; what was measured before is in the report.

    Raises:
        DatasetError: the dataset or the log is wrong, or a named task is not in it.
        EndpointError: the service cannot be reached, lacks a pool, or does not answer the first query.
        OSError: an image cannot be read.
    """
    with asyncio.Runner(loop_factory=lambda: _event_loop(settings.max_in_flight)) as runner:
        report = runner.run(measure(settings))
    write_load_report(settings.output, report)
    out = plain_console()
    if not out.is_terminal:
        out.width = 140
    out.print(table(report, out.width), highlight=True, soft_wrap=False)
    for sentence in report.findings():
        out.print(sentence, soft_wrap=True)
    for warning in report.warnings:
        plain_console(stderr=True).print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=True)
    out.print(f"Histograms, stage timings and a picture: {settings.output}", soft_wrap=True)
    return EXIT_INTERRUPTED if report.is_stopped else 0


async def measure(settings: LoadSettings) -> LoadReport:
    """Measures what the settings say; an interrupt (SIGINT) ends it early and is no error.

    Raises:
        DatasetError: As for `run`.
        EndpointError: As for `run`.
        OSError: As for `run`.
    """
    traffic, rounds = open_traffic(settings)
    session = Session(settings, traffic)
    async with SearchClient(settings.url, settings.timeout_s, api_key=settings.api_key) as client:
        await client.wait_until_ready(settings.ready_timeout_s)
        info = await client.info()
        if rounds:
            check_endpoint(info, rounds, settings.url)
    forget_load_report(settings.output)
    is_stopped = await interrupted(session.run())
    return LoadReport(
        parameters=settings.model_dump(mode="json", exclude={"config", "api_key"}),
        environment=environment(),
        service=info,
        traffic=traffic.facts(),
        ceiling_per_s=session.ceiling_per_s,
        tallies=[tally for tally in session.tallies if tally.due],
        saturation=session.saturation,
        is_stopped=is_stopped,
    )


@dataclass
class Session:
    """What one run measures, as far as it came.

    Attributes:
        settings: What to measure.
        traffic: What is sent.
        ceiling_per_s: What the client can send in a second; None where it was not measured.
        tallies: What became of the requests, a tally for each rate in the order of the measurements.
        saturation: Where the service gave way; None where nobody asked, or the run was stopped.
    """

    settings: LoadSettings
    traffic: Traffic
    ceiling_per_s: float | None = None
    tallies: list[Tally] = field(default_factory=list)
    saturation: Saturation | None = None

    async def run(self) -> None:
        """Measures the client's ceiling, and then the service."""
        settings = self.settings
        async with Connections(settings.url, own_key(settings.api_key)) as connections:
            answer = await first_answer(connections, self.traffic, settings.timeout_s)
            if settings.ceiling_s:
                self.ceiling_per_s = await client_ceiling(self.traffic, answer, settings.ceiling_s, settings.timeout_s)
            loop = OpenLoop(connections, self.traffic.requests(), settings.max_in_flight, settings.timeout_s)
            await self._measure(loop)

    async def _measure(self, loop: OpenLoop) -> None:
        settings = self.settings

        async def at(rate: float) -> Tally:
            return await self._run(loop, rate, schedule_of(settings, rate))

        times_s = self.traffic.times_s
        if settings.find_saturation:
            highest = SHARE * self.ceiling_per_s if self.ceiling_per_s else math.inf
            first = settings.rates[0] if settings.rates else DEFAULT_RATES[0]
            self.saturation = await find_saturation(at, first, highest, settings.limit_ms / 1000)
        elif times_s and not settings.rates:
            schedule = replayed(times_s, settings.speed, settings.warm_up_s)
            await self._run(loop, len(times_s) / schedule.end_s, schedule)
        else:
            for rate in settings.rates or DEFAULT_RATES:
                await at(rate)

    async def _run(self, loop: OpenLoop, rate: float, schedule: Schedule) -> Tally:
        tally = Tally(rate)
        self.tallies.append(tally)
        ticking = asyncio.create_task(_show(tally, schedule))
        try:
            await loop.run(schedule, tally)
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
        return tally


def schedule_of(settings: LoadSettings, rate: float) -> Schedule:
    """When requests are due at a rate, in requests per second."""
    if settings.arrivals == "uniform":
        return uniform(rate, settings.duration_s, settings.warm_up_s)
    return poisson(rate, settings.duration_s, settings.warm_up_s, settings.seed)


def open_traffic(settings: LoadSettings) -> tuple[Traffic, list[Round]]:
    """What is sent, read and checked, and from which tasks of a dataset it comes.

    Raises:
        DatasetError: the dataset or the log is wrong, or a wanted task or kind of candidates is not in it.
    """
    if settings.log is not None:
        log = Log(settings.log)
        lasts_s = log.times_s[-1] / settings.speed if log.times_s else math.inf
        if not settings.rates and not settings.find_saturation and lasts_s <= settings.warm_up_s:
            raise DatasetError(
                f"log {settings.log} lasts {lasts_s:g} s, of which the first {settings.warm_up_s:g} are not counted: "
                "lower --warm-up-s"
            )
        return log, []
    dataset = open_dataset(settings.dataset, settings.format, settings.split, settings.options)
    tasks = chosen_tasks(dataset.tasks(), settings.tasks, settings.pools)
    is_exact = settings.search == "exact"
    rounds = [
        Round(task.name, task, is_exact, dataset.queries(task), None, settings.num_hits)
        for task in (tasks if settings.pools else asked_once(tasks))
    ]
    pairs = [(query, round) for round in rounds for query in round.queries]
    if not pairs:
        raise DatasetError(f"{settings.dataset} has no queries")
    if settings.instructions != "none":
        for query, round in pairs:
            if query.instruction is None:
                body_of(query, round, settings)  # says that the query has none
    mix = Mix(
        [query for query, _ in pairs], lambda at: body_of(*pairs[at], settings), settings.repeat_share, settings.seed
    )
    return mix, rounds


def asked_once(tasks: list[Task]) -> list[Task]:
    """Of tasks that ask the same queries among several candidates, that of the whole corpus, or else the first."""
    chosen: dict[str, Task] = {}
    for task in tasks:
        if task.name not in chosen or (task.pool is None and chosen[task.name].pool is not None):
            chosen[task.name] = task
    return list(chosen.values())


async def first_answer(connections: Connections, traffic: Traffic, timeout_s: float) -> bytes:
    """The answer to the first search, without which there is nothing to measure.

    Raises:
        RequestFailedError: it is none.
    """
    body = await next(traffic.requests()).body()
    try:
        async with asyncio.timeout(timeout_s):
            reply = await connections.post("/search", body)
    except OSError as error:
        raise RequestFailedError(f"the first query got no answer in {timeout_s:g} s: {error}") from error
    tally = Tally(rate=0.0)
    tally.take(reply, due_s=reply.received_s)
    if not tally.answered:
        raise RequestFailedError(f"the first query was answered with {', '.join(tally.errors)}: {reply.body[:200]!r}")
    return reply.body


async def interrupted(work: Coroutine[Any, Any, None]) -> bool:
    """Does some work, which Ctrl-C (SIGINT) ends; gives whether it did.

    Where the signal is ignored, as for a shell's jobs in the background, it stays so.
    """
    task, loop, was_interrupted = asyncio.create_task(work), asyncio.get_running_loop(), False

    def interrupt(*_: object) -> None:
        nonlocal was_interrupted
        was_interrupted = True
        loop.call_soon_threadsafe(task.cancel)

    before = signal.getsignal(signal.SIGINT)
    is_ours = threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN
    if is_ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        await task
    except asyncio.CancelledError:
        if not was_interrupted:
            raise
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)
    return was_interrupted


async def _show(tally: Tally, schedule: Schedule) -> None:
    """Shows how far a rate is, until it is cancelled."""
    title = f"{tally.rate:.4g} requests/s, {schedule.end_s:.0f} s"
    start_s, shown = time.monotonic(), 0
    with progress(plain_console(stderr=True), title, round(schedule.end_s)) as advance:
        while True:
            await asyncio.sleep(TICK_S)
            passed = min(round(schedule.end_s), int(time.monotonic() - start_s))
            advance(passed - shown, f"{tally.answered} answered, {tally.errors.total() + tally.not_sent} not")
            shown = passed


def _event_loop(max_in_flight: int) -> asyncio.AbstractEventLoop:
    """An event loop that wakes when a request is due: epoll counts milliseconds, select() microseconds."""
    if max_in_flight <= MOST_SELECTED:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())
    return asyncio.SelectorEventLoop()
