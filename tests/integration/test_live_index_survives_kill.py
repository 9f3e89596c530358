"""A writer killed with SIGKILL loses nothing that it acknowledged, and leaves nothing half-done."""

import subprocess
import sys
from pathlib import Path

import pytest

from anykey.index.store.manifest import FoldOptions
from tests.killed_writers import FIXED, make_changed, numbered_key
from tests.live_index import make_index

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    options = FoldOptions(structure=getattr(request, "param", "auto"))
    return make_index(tmp_path / "old", [numbered_key(f"k{number}", number) for number in range(5)], options=options)


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "tests.killing", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def check_sweep(old: Path, directory: Path, stride: int) -> None:
    directory.mkdir()

    run("sweep-changes", old, directory, str(stride))

    verdicts = [path.read_text() for path in directory.glob("*.seen")]
    assert len(verdicts) > 150 / stride
    assert {"0", str(len(FIXED))} <= set(verdicts)


with_structure = pytest.mark.parametrize("old", ["IVF1,SQ8"], indirect=True)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the child forks


@with_structure
def test_writer_killed_at_any_step_leaves_every_change_whole(old: Path, tmp_path: Path) -> None:
    check_sweep(old, tmp_path / "killed", stride=23)


@with_structure
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_writer_killed_at_every_step_leaves_every_change_whole(old: Path, tmp_path: Path) -> None:
    check_sweep(old, tmp_path / "killed", stride=1)


def check_rollback_sweep(old: Path, directory: Path, stride: int) -> None:
    directory.mkdir()
    make_changed(old)

    run("sweep-rollbacks", old, directory, str(stride))

    verdicts = [path.read_text() for path in directory.glob("*.seen")]
    assert len(verdicts) > 60 / stride
    assert set(verdicts) == {"before", "after"}


@with_structure
def test_rollback_killed_at_any_step_took_place_or_not(old: Path, tmp_path: Path) -> None:
    check_rollback_sweep(old, tmp_path / "killed", stride=29)


@with_structure
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rollback_killed_at_every_step_took_place_or_not(old: Path, tmp_path: Path) -> None:
    check_rollback_sweep(old, tmp_path / "killed", stride=1)


def test_writers_killed_at_random_lose_nothing_they_acknowledged(old: Path) -> None:
    num_killed, num_changes = map(int, run("at-random", old, "6", "1").split())

    assert num_killed > 9
    assert num_changes > 9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_writers_killed_at_random_for_long_lose_nothing_they_acknowledged(old: Path) -> None:
    num_killed, num_changes = map(int, run("at-random", old, "300", "1000").split())

    assert num_killed > 300
    assert num_changes > 1000
