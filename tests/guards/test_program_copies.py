"""The benchmark's copy of the settings loader is the encoder's, byte for byte: fix one, copy it to the other."""

from pathlib import Path

from tests.guards.checkout import ROOT

COPIES = ("encoder/program.py", "benchmark/program.py")


def are_equal(root: Path) -> bool:
    first, second = ((root / copy).read_bytes() for copy in COPIES)
    return first == second


def test_both_copies_are_equal() -> None:
    assert are_equal(ROOT)


def test_the_guard_notices_one_changed_byte(tmp_path: Path) -> None:
    for copy in COPIES:
        (tmp_path / copy).parent.mkdir(parents=True)
        (tmp_path / copy).write_bytes((ROOT / copy).read_bytes())
    assert are_equal(tmp_path)
    (tmp_path / COPIES[1]).write_bytes((ROOT / COPIES[0]).read_bytes() + b"\n")
    assert not are_equal(tmp_path)
