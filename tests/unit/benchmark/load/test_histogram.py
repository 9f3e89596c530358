"""Percentiles of the bins are those of the durations, and say nothing where too few lie beyond."""

import numpy as np
import pytest

from anykey.benchmark.load.histogram import WIDTH, Histogram


def of(durations_s: object) -> Histogram:
    times = Histogram()
    for duration_s in np.asarray(durations_s, dtype=float):
        times.add(float(duration_s))
    return times


def test_percentiles_are_right_to_a_percent() -> None:
    durations_s = np.random.default_rng(0).lognormal(mean=-5, sigma=1.5, size=20_000)
    times = of(durations_s)
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact_s = np.percentile(durations_s, percent, method="inverted_cdf")
        assert times.percentile_s(percent) == pytest.approx(exact_s, rel=WIDTH)
    assert times.mean_s == pytest.approx(durations_s.mean())
    assert times.max_s == durations_s.max()


def test_every_duration_is_in_the_bin_that_ends_above_it() -> None:
    durations_s = [0.0, -1.0, 1e-9, 0.003, 0.003, 7.0, 1e5]
    bins = of(durations_s).bins()
    assert [count for _, count in bins] == [3, 2, 1, 1]
    for (end_s, _), duration_s in zip(bins[1:], (0.003, 7.0, 1e5), strict=True):
        assert duration_s < end_s <= duration_s * (1 + WIDTH)


@pytest.mark.parametrize(
    ("count", "percent", "beyond"),
    [(500, 99.9, 0), (500, 99, 5), (1000, 99, 10), (10_000, 99.9, 10), (9_999, 99.9, 9), (20, 50, 10), (19, 50, 9)],
)
def test_a_percentile_is_told_where_ten_lie_beyond_it(count: int, percent: float, beyond: int) -> None:
    times = of(np.arange(1, count + 1) / 1000)
    assert times.beyond(percent) == beyond
    assert (times.told_s(percent) is not None) == (beyond >= 10)


def test_without_durations_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no durations"):
        Histogram().percentile_s(50)
    assert Histogram().told_s(50) is None
