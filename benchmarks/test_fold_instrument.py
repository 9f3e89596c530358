"""The instrument for searches while changes are folded runs whole, on few keys, and its table has every way to fold."""

from pathlib import Path

from benchmarks.fold_speed import Load, measure, table


def test_the_whole_measurement_of_folds_runs(tmp_path: Path) -> None:
    load = Load(num_keys=200, num_changes=100, width=16, searches_per_s=100, rounds=1, idle_s=0.2)

    (found,) = measure(load, tmp_path, "process")

    assert all(turn.latencies_ms and turn.p50_ms <= turn.p99_ms for turn in vars(found).values())
    _, _, row = table({"process": [found]})
    assert row.startswith("| a process | ")
    assert row.count("|") == 8
