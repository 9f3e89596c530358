"""The instrument for the search page runs whole, on few keys, and its table has all that is told."""

from pathlib import Path

import pytest

from benchmarks.page_speed import Load, measure, report
from tests.browser import CHROMIUM, DRIVER


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is missing")
@pytest.mark.slow
def test_the_whole_measurement_of_the_page_runs(tmp_path: Path) -> None:
    load = Load(num_keys=60, num_visits=1, num_frames=10, rounds=1)

    found = measure(load, tmp_path)

    assert all(times[0] > 0 for times in found.paint_ms.values())
    assert [len(times) for times in found.frames_ms.values()] == [10, 10]
    assert all(0 < times[0] < 1000 for times in found.main_ms.values())
    assert 0 < found.num_bytes < 60_000
    assert report(load, found).count("\n| ") == 7
