"""Sends requests when they are due, whatever is under way.

A client that waits for an answer before it sends the next request asks less of a slow service than users do, and its
percentiles leave out what a stall did to those who would have come (coordinated omission; Gil Tene, "How NOT to Measure
Latency", 2013). Here a latency runs from when the request was due.
"""

import asyncio
from collections.abc import Iterator

from anykey.benchmark.load.arrivals import Schedule
from anykey.benchmark.load.connections import BrokenAnswerError, Connections
from anykey.benchmark.load.tally import Tally
from anykey.benchmark.load.traffic import Request


class OpenLoop:
    """Sends requests to one service, searches as a rule.

    Args:
        connections: To the service.
        requests: What is sent, from one run to the next.
        max_in_flight: How many may be under way. A request that finds so many is not sent, and is counted.
        timeout_s: How long after it was due an answer is waited for.
        path: Where it is asked.
    """

    def __init__(
        self,
        connections: Connections,
        requests: Iterator[Request],
        max_in_flight: int,
        timeout_s: float,
        path: str = "/search",
    ) -> None:
        self._connections, self._requests, self._timeout_s, self._path = connections, requests, timeout_s, path
        self._places = asyncio.Semaphore(max_in_flight)

    async def run(self, schedule: Schedule, tally: Tally, waits: bool = False) -> None:
        """Sends a request at each moment, and waits for the answers to all.

        Args:
            schedule: When requests are due, from now.
            tally: Counts those behind the warm-up.
            waits: Whether a request that finds too many under way is sent when there is room, which makes a closed
                loop of this one.

        Raises:
            OSError: an image or a log cannot be read.
        """
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        tally.start_s = start_s + schedule.warm_up_s
        try:
            async with asyncio.TaskGroup() as under_way:
                await self._send_all(schedule, start_s, tally, waits, under_way)
            await asyncio.sleep(start_s + schedule.end_s - loop.time())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            tally.end_s = loop.time()

    async def _send_all(
        self, schedule: Schedule, start_s: float, measured: Tally, waits: bool, under_way: asyncio.TaskGroup
    ) -> None:
        loop = asyncio.get_running_loop()
        warm_up = Tally(measured.rate)
        for moment_s in schedule.due_s:
            request = next(self._requests)
            body = await request.body()
            await asyncio.sleep(start_s + moment_s - loop.time())  # however late it is, answers have their turn
            tally = warm_up if moment_s < schedule.warm_up_s else measured
            tally.due += 1
            if self._places.locked() and not waits:
                tally.not_sent += 1
                continue
            await self._places.acquire()
            under_way.create_task(self._send(body, request.is_repeat, start_s + moment_s, tally))

    async def _send(self, body: bytes, is_repeat: bool, due_s: float, tally: Tally) -> None:
        tally.send(asyncio.get_running_loop().time() - due_s, is_repeat)
        try:
            async with asyncio.timeout_at(due_s + self._timeout_s):
                reply = await self._connections.post(self._path, body)
            tally.take(reply, due_s)
        except TimeoutError:
            tally.errors["timeout"] += 1
        except BrokenAnswerError:
            tally.errors["broken connection"] += 1
        except OSError:
            tally.errors["no connection"] += 1
        finally:
            self._places.release()
