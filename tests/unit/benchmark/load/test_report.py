"""The tables show whole numbers on a narrow terminal, and no percentile that says nothing."""

import io

import pytest
from rich.console import Console

from anykey.benchmark.load.report import LoadReport, markdown, table
from anykey.benchmark.load.saturation import Saturation
from anykey.benchmark.load.tally import Tally
from anykey.benchmark.settings import LoadSettings


def tally(rate: float, num_answered: int, latency_s: float, **counts: int) -> Tally:
    """What became of requests that were answered in the same time, within 10 s."""
    found = Tally(rate, end_s=10.0, due=num_answered, sent=num_answered, answered=num_answered, **counts)
    for _ in range(num_answered):
        found.latency.add(latency_s)
    found.stages["encode"].add(0.002)
    return found


@pytest.fixture
def report() -> LoadReport:
    busy = tally(2345.6, 23_456, 1.5, late=1000, cached=23_456)
    busy.errors["429 overloaded"] = 12
    return LoadReport(
        parameters=LoadSettings(url="http://10.0.0.1:8000").model_dump(mode="json"),
        environment={"time_utc": "now", "anykey": "1", "python": "3", "platform": "Linux", "num_cpus": 2},
        service={"index": {"version": "7", "num_keys": 3}},
        traffic={"num_queries": 100, "modalities": {"text": 100}},
        ceiling_per_s=3000.0,
        tallies=[busy, tally(10, 999, 0.0031)],
        saturation=Saturation(10.0, 2345.6, ("p99 was 1500 ms, the limit is 500 ms",)),
        is_stopped=False,
    )


def shown(report: LoadReport, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(table(report, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_narrow_terminal_shows_whole_numbers(report: LoadReport) -> None:
    low, high = (line.split() for line in shown(report, 80).splitlines()[3:5])
    assert low == ["10", "99.9", "999", "0", "0", "3.1", "3.1", "-", "-", "0%"]
    assert high == ["2346*", "2346", "23456", "12", "0", "1,500", "1,500", "1,500", "1,500", "100%"]


def test_a_wide_one_and_the_page_show_how_many_lie_beyond(report: LoadReport) -> None:
    assert "1,500 (23)" in shown(report, 120)
    page = markdown(report)
    assert "| 10 | 99.9 | 999 | 0 | 0 | 3.1 (499) | 3.1 (99) | - | - | 0% |  |" in page
    assert "| 2346 | 2346 | 23456 | 12 | 0 | 1,500 (11728) |" in page
    assert "| 2346 | 429 overloaded | 12 |" in page


def test_the_page_says_what_limits_the_numbers(report: LoadReport) -> None:
    page = markdown(report)
    assert "The highest rate that held (p99 up to 500 ms, and up to 1% errors and late sends) is 10/s." in page
    assert "At 2346/s, p99 was 1500 ms, the limit is 500 ms." in page
    assert "warning: 2346/s is limited by the client: above 70% of the client's ceiling" in page
    assert "warning: 2346/s is limited by the client: 4.3% sent more than 10 ms late" in page
    assert "the machine of the service" not in page
