"""Refusals take a share of the processors, whoever asks how fast; by clocks of the test's own."""

import heapq

import pytest

from anykey.service.requests.admission import RefusalPace

EACH_S = 0.0015  # of the event loop, for a refusal


class Loop:
    """An event loop that answers refusals, each of which takes a while of it."""

    def __init__(self, cores: int) -> None:
        self.now_s = self.cpu_s = 0.0
        self.waits_s: list[float] = []
        self.pace = RefusalPace(cores, lambda: self.now_s, lambda: self.cpu_s)

    def refuse(self, at_s: float) -> float:
        """When the refusal of a request that comes then is told, held back as the pace says."""
        self.now_s = max(self.now_s, at_s) + EACH_S
        self.cpu_s += EACH_S
        self.pace.count()
        self.waits_s.append(self.pace.wait_s())
        return self.now_s + self.waits_s[-1]


def asked_again_at_once(num_clients: int, cores: int, seconds: float) -> Loop:
    """A loop that so many clients have asked who ask again as soon as they are refused."""
    loop, due_s = Loop(cores), [0.0] * num_clients
    while due_s[0] < seconds:
        heapq.heappush(due_s, loop.refuse(heapq.heappop(due_s)))
    return loop


@pytest.mark.parametrize(("cores", "share"), [(1, 0.25), (2, 0.5), (16, 0.5)])
@pytest.mark.parametrize("num_clients", [32, 256])
def test_clients_that_ask_again_at_once_take_no_more_than_the_share(num_clients: int, cores: int, share: float) -> None:
    loop = asked_again_at_once(num_clients, cores, seconds=60.0)
    taken = loop.cpu_s / loop.now_s
    bound = max(share, num_clients / 2 * EACH_S)  # nobody is held back for longer than two seconds
    assert 0.9 * share < taken < bound + 0.03


def test_who_comes_at_a_pace_that_the_share_suffices_for_is_refused_at_once() -> None:
    loop = Loop(cores=2)
    for number in range(2_000):
        loop.refuse(number / 200)  # 200 a second take 30 % of a core, of 50 % that they may
    assert not any(loop.waits_s)


@pytest.mark.parametrize(("each_second", "is_high"), [(60, False), (100, True)])
def test_bodies_are_looked_into_for_few_refusals_only(each_second: int, is_high: bool) -> None:
    loop = Loop(cores=2)
    for number in range(30 * each_second):  # 60 a second take 9 % of a core, 100 take 15, of 10 % that they may
        loop.refuse(number / each_second)
    assert loop.pace.is_high is is_high
    loop.now_s += 2.1
    assert not loop.pace.is_high


def test_many_at_once_are_refused_at_once_after_a_quiet_time() -> None:
    loop = asked_again_at_once(8, cores=2, seconds=1.0)
    del loop.waits_s[:]
    quiet_until_s = loop.now_s + 10.0
    for _ in range(130):
        loop.refuse(quiet_until_s)
    assert not any(loop.waits_s)
    for _ in range(2_000):
        loop.refuse(quiet_until_s)
    assert max(loop.waits_s) == pytest.approx(2.0)


def test_answers_that_are_no_refusals_are_not_laid_to_their_charge() -> None:
    now_s = cpu_s = 0.0
    pace = RefusalPace(2, lambda: now_s, lambda: cpu_s)
    waits_s = []
    for number in range(5_000):  # the loop is busy with what is known; one in ten is refused
        now_s += 0.001
        cpu_s += 0.0009
        pace.count()
        if number % 10 == 0:
            waits_s.append(pace.wait_s())
    assert not any(waits_s)


def test_a_long_stream_makes_no_refusal_dear() -> None:
    now_s = cpu_s = 0.0
    pace = RefusalPace(2, lambda: now_s, lambda: cpu_s)
    for _ in range(64):
        pace.count()
    cpu_s += 30.0  # which one request took
    for _ in range(64):
        now_s += 0.02
        pace.count()
        assert pace.wait_s() == 0
