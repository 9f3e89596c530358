"""The search for the highest rate ends just below a service's capacity, and says what gave way."""

import asyncio

import pytest

from anykey.benchmark.load.saturation import NEAR, Saturation, find_saturation, reasons_against
from anykey.benchmark.load.tally import Tally


def tally(rate: float, latency_s: float = 0.01, num_due: int = 2000, **counts: int) -> Tally:
    """What became of requests at a rate, all answered in the same time."""
    found = Tally(rate, due=num_due, sent=num_due, **counts)
    for _ in range(num_due):
        found.latency.add(latency_s)
    return found


def found(capacity: float, first: float = 10.0, highest: float = 1e6) -> tuple[Saturation, list[float]]:
    """What the search finds of a service that is overloaded above its capacity, and the rates it tried."""
    tried: list[float] = []

    async def measure(rate: float) -> Tally:
        tried.append(rate)
        return tally(rate, 0.01 if rate <= capacity else 2.0)

    return asyncio.run(find_saturation(measure, first, highest, limit_s=0.5)), tried


@pytest.mark.parametrize("capacity", [0.7, 11.0, 137.0, 9000.0])
def test_the_highest_rate_is_found_within_ten_percent(capacity: float) -> None:
    result, tried = found(capacity)
    assert result.held is not None
    assert result.gave_way is not None
    assert result.held <= capacity < result.gave_way <= NEAR * result.held
    assert result.reasons == ("p99 was 2000 ms, the limit is 500 ms",)
    assert len(tried) <= 16


def test_where_no_rate_holds_that_is_said() -> None:
    result, tried = found(capacity=0.01)
    assert result.held is None
    assert result.gave_way == min(tried) < 1
    assert tried == sorted(tried, reverse=True)


def test_no_rate_is_tried_above_what_the_client_can_measure() -> None:
    result, tried = found(capacity=1000, highest=70)
    assert result == Saturation(held=70, gave_way=None, reasons=())
    assert tried == [10, 20, 40, 70]


def test_a_hiccup_among_few_requests_is_measured_again() -> None:
    tried: list[float] = []

    async def measure(rate: float) -> Tally:
        tried.append(rate)
        is_slow = rate > 100 or len(tried) == 1
        return tally(rate, 2.0 if is_slow else 0.01, num_due=500)

    result = asyncio.run(find_saturation(measure, 100, 1e6, limit_s=0.5))
    assert result.held == 100
    assert tried[:2] == [100, 100]


def test_everything_that_gives_way_is_said() -> None:
    held = tally(10, not_sent=20, late=20)
    held.errors["timeout"] = 20
    assert reasons_against(held, limit_s=0.5) == []  # 1 % each
    failed = tally(10, latency_s=0.1, not_sent=100, late=50)
    failed.errors.update({"timeout": 5, "429 overloaded": 195})
    assert reasons_against(failed, limit_s=0.05) == [
        "p99 was 100 ms, the limit is 50 ms",
        "10.0% got an error or no answer (429 overloaded 195, timeout 5)",
        "5.0% found too many under way and were not sent",
        "2.5% were sent more than 10 ms late by the client",
    ]
