"""Several processes give the loss and the gradient of one that has the whole batch: whole weights, and sharded."""

import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.distributed_step import RECIPES, check_gradients, gradients, pairs, share_of
from tests.guards.checkout import ROOT
from tests.training_runs import make_table

Found = tuple[float, dict[str, torch.Tensor]]
ALL_CASES = ["-".join(parts) for parts in itertools.product(("whole", "sharded"), "12", RECIPES)]
# Every recipe; chunks and shards of the default one and, as they have parameters beside the towers, of two more.
CASES = [f"whole-1-{recipe}" for recipe in RECIPES if not recipe.startswith("cached")]
CASES += ["whole-2-gcl", "sharded-2-gcl", "sharded-1-sigmoid", "sharded-2-cachedfusion"]


def run_processes(count: int, cases: Sequence[str], folder: Path, timeout_s: int = 170) -> dict[str, Found]:
    """What the processes found together; all cases in one start, which takes longer than they do."""
    output = folder / "found.pt"
    command = [sys.executable, "-m", "tests.distributed_step", str(output), str(count), *cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Found] = torch.load(output, weights_only=True)
    return found


@functools.cache
def found_by_one(recipe: str) -> Found:
    """The loss and the gradient of the whole batch at once."""
    return gradients(f"whole-1-{recipe}")


def check(case: str, found: Found) -> None:
    """Compares what processes found with what one finds alone."""
    (loss, grads), (expected_loss, expected) = found, found_by_one(case.split("-")[2])
    assert loss == pytest.approx(expected_loss, rel=1e-5), case
    unused = {name: torch.zeros_like(grads[name]) for name in grads.keys() - expected.keys()}  # summed all the same
    check_gradients(grads, {**expected, **unused}, case)


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """The cases, by two processes; four, of which each has neighbours on both sides, are a slow proof."""
    return run_processes(2, CASES, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_gradient_of_one(case: str, found_by_two: dict[str, Found]) -> None:
    check(case, found_by_two[case])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_give_the_gradient_of_one_in_every_case(count: int, tmp_path: Path) -> None:
    for case, found in run_processes(count, ALL_CASES, tmp_path, timeout_s=850).items():
        check(case, found)


def test_every_recipe_has_a_loss_or_a_gradient_of_its_own() -> None:
    """Shows that no recipe is another one under a second name; `temperatures` differs by what learns."""
    losses = {recipe: round(found_by_one(recipe)[0], 4) for recipe in RECIPES if recipe != "temperatures"}
    assert len(set(losses.values())) == len(losses), losses
    assert "log_scales" in found_by_one("temperatures")[1]
    assert "own_bias" in found_by_one("sigmoid")[1]


@pytest.mark.parametrize("count", [2, 4])
def test_pairs_of_one_image_are_in_different_processes(count: int) -> None:
    """Shows that the positives of `same_image` are not all at hand."""
    table = make_table(pairs())
    shares = [{pairs()[draw.pair].image for draw in share_of(table, rank, count)} - {None} for rank in range(count)]
    assert any(one & other for one, other in itertools.combinations(shares, 2))
