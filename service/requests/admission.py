"""Whether a request is let in before its body has been read and parsed.

What is asked for may be known already, whatever the encoder has to do, and that can only be told from the body. So a
request is refused this early only where the encoder would refuse it, and where it would not even be parsed soon. While
more comes than even that lets through, connections are turned away (`requests.connection`). Refusals themselves take
no more than a share of the processors (`RefusalPace`).
"""

import asyncio
import math
import time
from collections.abc import Callable

from starlette.datastructures import Headers

from anykey.encoder.protocol import Prepared
from anykey.program.machine import num_cores
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher
from anykey.service.requests.body import is_short

BEAT_S = 0.01  # between two turns of the event loop that are looked at
BEHIND_S = 0.005  # that the event loop is late, from which on no body is read that would be refused
FAR_BEHIND_S = 0.1  # from which on no connection is taken, if it lasts
LASTS_S = 1.0  # without one turn in time, after which more is asked than can be answered
CALM_S = 5.0  # after that, until it counts as over
SHARE_LOOKED_INTO = 0.05  # of all cores, that refusals may take before bodies are no longer looked into for them
SHARE_TOLD = 0.25  # and before they are held back
MOST_OF_LOOP = 0.5  # that they may take, however many cores there are: the event loop has one
FREE_S = 0.5  # so much of a share may be taken at once after a quiet time
HELD_S = 2.0  # longest time for which a refusal is held back
NUM_COUNTED = 64  # answers, by which it is measured what one takes of the event loop
MOST_EACH_S = 0.005  # that a refusal is taken to cost; other answers take longer, such as those that come in a stream


class Pressure:
    """How far an event loop is behind with its work, and whether that lasts; belongs to that loop.

    A turn of the loop takes up all that has come until then, and one request that is refused once its body is read
    costs some milliseconds, so many of them would keep the loop, and all who wait for it, for seconds. While somebody
    comes every now and then, the loop is asked for a turn every ten milliseconds; by what that comes late it is behind.
    """

    def __init__(self) -> None:
        """Begins with nothing to do."""
        self._asked_s = -math.inf  # when it was last asked how things are
        self._due_s = math.inf
        self._in_time_s = 0.0  # when a turn last was
        self._lasts_until_s = -math.inf

    def late_s(self) -> float:
        """Seconds by which the event loop is behind now, as it may be for a moment at any time; less than 0 if not."""
        self._asked_s = time.monotonic()
        if self._due_s == math.inf:
            self._in_time_s = self._asked_s
            self._ask_for_turn()
        return self._asked_s - self._due_s

    def is_swamped(self) -> bool:
        """Whether the event loop is far behind now, and has been or was lately for a second and longer."""
        if self.late_s() <= FAR_BEHIND_S:
            return False
        now_s = time.monotonic()
        if now_s - self._in_time_s > LASTS_S:
            self._lasts_until_s = now_s + CALM_S
        return now_s < self._lasts_until_s

    def _ask_for_turn(self) -> None:
        self._due_s = time.monotonic() + BEAT_S
        asyncio.get_running_loop().call_later(BEAT_S, self._take_turn)

    def _take_turn(self) -> None:
        now_s = time.monotonic()
        if now_s - self._due_s <= FAR_BEHIND_S:
            self._in_time_s = now_s
        if now_s - self._asked_s < CALM_S:
            self._ask_for_turn()
        else:
            self._due_s = math.inf


class RefusalPace:
    """How much of the processors refusals take, and when those who are refused are told so; belongs to a loop.

    Where cores are few, the encoder has what the event loop leaves, and a refusal takes a millisecond of that. So
    beyond a small share of all cores, refusals should cost less: no more bodies are looked into. Many clients also ask
    again in the moment in which they are refused, whatever `Retry-After` says, as fast as they are told. So beyond a
    larger share they are told later: a client that waits for its refusal asks nothing.
    """

    def __init__(
        self,
        cores: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """Begins with nothing measured.

        Args:
            cores: That the process may use; absent: as the system says.
            clock: Seconds.
            cpu_clock: Seconds of a processor that the event loop has taken.
        """
        cores = cores or num_cores()
        self._looked_into = _Share(min(SHARE_LOOKED_INTO * cores, MOST_OF_LOOP))
        self._told = _Share(min(SHARE_TOLD * cores, MOST_OF_LOOP))
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._num_answers = 0
        self._cpu_s: float | None = None  # when it was last measured
        self._each_s = 0.0  # of the loop, that an answer takes, refusals among them

    @property
    def is_high(self) -> bool:
        """Whether refusals should cost less than they did of late."""
        return self._looked_into.taken_until_s > self._clock()

    def count(self) -> None:
        """Counts an answer, whatever it says; in the event loop."""
        if self._num_answers % NUM_COUNTED == 0:
            cpu_s = self._cpu_clock()
            if self._cpu_s is not None:
                self._each_s = min((cpu_s - self._cpu_s) / NUM_COUNTED, MOST_EACH_S)
            self._cpu_s = cpu_s
        self._num_answers += 1

    def wait_s(self) -> float:
        """Seconds for which one more refusal, which this counts, is to be held back; 0 for most."""
        now_s = self._clock()
        self._looked_into.take(self._each_s, now_s)
        return self._told.take(self._each_s, now_s)


class _Share:
    """A share of a processor, which may be exceeded for a moment after a time in which less was taken."""

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self.taken_until_s = -math.inf  # until when all that was taken so far suffices

    def take(self, cpu_s: float, now_s: float) -> float:
        """Takes some of it; seconds until there is so much, at most `HELD_S`."""
        taken_until_s = max(self.taken_until_s, now_s - FREE_S) + cpu_s / self._cores
        self.taken_until_s = min(taken_until_s, now_s + HELD_S)
        return max(0.0, self.taken_until_s - now_s)


class Admission:
    """Lets requests to one encoder in, or refuses them while it costs nothing; belongs to one event loop."""

    def __init__(
        self,
        batcher: Batcher[Prepared],
        threads: BoundedThreads,
        deadline_s: float,
        pressure: Pressure,
        refusal_pace: RefusalPace,
    ) -> None:
        """Joins the parts.

        Args:
            batcher: The encoder's.
            threads: Where bodies are parsed that are not short.
            deadline_s: Longest time from the whole request read to its answer.
            pressure: The event loop's.
            refusal_pace: That of the process.
        """
        self._refusal_pace = refusal_pace
        self._batcher = batcher
        self._threads = threads
        self._deadline_s = deadline_s
        self._pressure = pressure

    def check(self, headers: Headers) -> None:
        """Returns if the request with these headers is worth reading on, or parsing.

        Raises:
            OverloadedError: what waits for the encoder leaves no time for one more, and what waits to be parsed, or the
                event loop, does not let anybody see soon whether this one needs the encoder at all.
            NotReadyError: shutting down, or the encoder's worker died.
        """
        is_late = self._threads.is_crowded or self._pressure.late_s() > BEHIND_S or self._refusal_pace.is_high
        if is_late and not is_short(headers):
            self._batcher.require_room(time.monotonic() + self._deadline_s)
