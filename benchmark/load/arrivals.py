"""When requests are due: whatever the service does, as users come."""

import itertools
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Moments in seconds from the start.

    Attributes:
        due_s: When requests are due, ascending.
        warm_up_s: What is due before is sent and not counted.
        end_s: When no more are due.
    """

    due_s: Iterable[float]
    warm_up_s: float
    end_s: float


def poisson(rate: float, duration_s: float, warm_up_s: float, seed: int) -> Schedule:
    """Users who know nothing of each other: gaps are exponential, and `rate` come in a second on average."""
    rng = random.Random(seed)
    end_s = warm_up_s + duration_s
    moments_s = itertools.accumulate(rng.expovariate(rate) for _ in itertools.count())
    return Schedule(itertools.takewhile(lambda due_s: due_s < end_s, moments_s), warm_up_s, end_s)


def uniform(rate: float, duration_s: float, warm_up_s: float) -> Schedule:
    """One every `1 / rate` seconds, the first at once.

    >>> list(uniform(4, 1.0, 0.0).due_s)
    [0.0, 0.25, 0.5, 0.75]
    """
    end_s = warm_up_s + duration_s
    moments_s = (number / rate for number in itertools.count())
    return Schedule(itertools.takewhile(lambda due_s: due_s < end_s, moments_s), warm_up_s, end_s)


def replayed(times_s: Sequence[float], speed: float, warm_up_s: float) -> Schedule:
    """The pace of a log, so many times as fast.

    >>> replayed([0.0, 3.0, 4.0], speed=2, warm_up_s=0.0).due_s
    [0.0, 1.5, 2.0]
    """
    due_s = [moment_s / speed for moment_s in times_s]
    return Schedule(due_s, warm_up_s, due_s[-1])


def at_once(duration_s: float) -> Schedule:
    """As many as can be taken in this time, each due when it is taken."""

    def moments_s() -> Iterator[float]:
        start_s = time.monotonic()
        while (due_s := time.monotonic() - start_s) < duration_s:
            yield due_s

    return Schedule(moments_s(), 0.0, duration_s)
