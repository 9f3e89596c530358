"""The instrument for a build's memory runs whole, on few keys, and its table has every step."""

from pathlib import Path

from benchmarks.build_memory import STEPS, measure, table


def test_the_whole_measurement_of_a_build_runs(tmp_path: Path) -> None:
    found = measure(200, tmp_path, live_keys=30)

    assert list(found) == list(STEPS)
    assert all(step["mib"] >= 0 and step["seconds"] > 0 for step in found.values())
    head, _, *rows = table({200: found})
    assert head == "| step | 200 keys |"
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(STEPS)
