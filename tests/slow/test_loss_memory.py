"""A batch of 8,192 pairs, 24,576 rows, in memory that a matrix of its logits (2.4 GB) would not fit in."""

import json
import math
import subprocess
import sys

import pytest

from tests.guards.checkout import ROOT

pytestmark = pytest.mark.slow

GIB = 2**30


@pytest.mark.timeout(900)
def test_the_loss_of_8192_pairs_takes_less_than_a_gib_above_its_inputs() -> None:
    command = [sys.executable, "-m", "tests.slow.measure_loss_memory", "8192", "512", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
    measured = json.loads(done.stdout)
    assert math.log(2) < measured["loss"] < 50
    assert measured["bytes"] < GIB
