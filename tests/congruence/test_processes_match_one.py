"""Several processes give the loss and the gradient of one that has the whole batch: whole weights, and sharded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed_step import gradients
from tests.guards.checkout import ROOT


def run_processes(kind: str, count: int, num_chunks: int, output: Path) -> dict:
    """What the processes found together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "tests.distributed_step", kind, str(num_chunks), str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize(
    ("kind", "count", "num_chunks"),
    [("whole", 2, 1), ("whole", 4, 1), ("whole", 2, 2), ("sharded", 2, 1), ("sharded", 2, 2)],
)
def test_processes_give_the_gradient_of_one(kind: str, count: int, num_chunks: int, tmp_path: Path) -> None:
    loss, expected = gradients("whole", 1)
    found = run_processes(kind, count, num_chunks, tmp_path / "found.pt")
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert set(found["gradients"]) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
