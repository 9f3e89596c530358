"""The benchmark's copies of what every command shares are the encoder's, byte for byte: mend one, copy it over."""

from pathlib import Path

import pytest

from tests.guards.checkout import ROOT

SHARED = ("exits.py", "program.py")


def are_equal(root: Path, name: str) -> bool:
    return (root / "encoder" / name).read_bytes() == (root / "benchmark" / name).read_bytes()


@pytest.mark.parametrize("name", SHARED)
def test_both_copies_are_equal(name: str) -> None:
    assert are_equal(ROOT, name)


@pytest.mark.parametrize("name", SHARED)
def test_the_guard_notices_one_changed_byte(name: str, tmp_path: Path) -> None:
    for package in ("encoder", "benchmark"):
        (tmp_path / package).mkdir()
        (tmp_path / package / name).write_bytes((ROOT / package / name).read_bytes())
    assert are_equal(tmp_path, name)
    (tmp_path / "benchmark" / name).write_bytes((ROOT / "encoder" / name).read_bytes() + b"\n")
    assert not are_equal(tmp_path, name)
