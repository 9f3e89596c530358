"""Changes that Milvus Lite acknowledged are there after kill -9, and after being opened again."""

import subprocess
import sys
from pathlib import Path

import pytest

from anykey.index.milvus_index import MilvusIndex
from tests.engines import ENCODER, needs_milvus
from tests.guards.checkout import ROOT

pytestmark = needs_milvus

CHANGING = """
import sys
from dataclasses import replace
from anykey.index.milvus.limits import Limits
from anykey.index.milvus_index import MilvusIndex
from tests.engines import ENCODER
from tests.unit.index.test_milvus_index import keys

# Moves records into files now and then.
index = MilvusIndex.open(sys.argv[1], "keys", limits=Limits(flush_after=20))
for turn in range(10_000):
    index.upsert([replace(new, text=f"turn {turn}") for new in keys(5)])
    index.delete([f"key-00{turn % 5}"])
    print(turn, flush=True)
"""


@pytest.mark.parametrize("last_turn", [0, 7, 30])
def test_acknowledged_changes_survive_kill(tmp_path: Path, last_turn: int) -> None:
    uri = str(tmp_path / "keys.db")
    MilvusIndex.create(uri, "keys", ENCODER).close()
    command = [sys.executable, "-c", CHANGING, uri]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        turn = -1
        while turn < last_turn:
            turn = int(process.stdout.readline())
        process.kill()
        turns = [turn, *map(int, process.stdout.read().split())]
    assert process.returncode == -9

    with MilvusIndex.open(uri, "keys") as index:
        found = {key.key: key.payload.text for key in index.scan()}

    before = {f"key-00{place}": f"turn {turns[-1]}" for place in range(5) if place != turns[-1] % 5}
    assert found == before or set(found.values()) == {f"turn {turns[-1] + 1}"}  # one more, unheard
