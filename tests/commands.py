"""The service as a person runs it: a process of its own, from the top of the checkout."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.serving import WAIT_S, until

ROOT = Path(__file__).parents[1]
LONG_S = 8 * WAIT_S  # for what a whole process does
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not k.startswith("ANYKEY_")}, "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(checkpoint: Path, index: Path, log: Path) -> Iterator[str]:
    """The address of a service of its own process, which ends when it is asked to and logs JSON alone.

    It computes by torch, for to try what is fastest here takes minutes on a busy machine. Its log is a file: nobody
    empties a pipe while the service answers, and a full one would stop it.
    """
    served = ["--checkpoint", str(checkpoint), "--index", str(index), "--port", "0", "--backend", "torch"]
    command = [sys.executable, "-m", "service", *served]
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=output, stdout=output, text=True) as server,
    ):
        try:
            until(lambda: bool(_events(log, "listening")) or server.poll() is not None, "it listens", LONG_S)
            url = f"http://127.0.0.1:{_events(log, 'listening')[0]['port']}"
            until(lambda: bool(_events(log, "ready")) or server.poll() is not None, "it is ready", LONG_S)
            yield url
            server.terminate()
            assert server.wait(timeout=60) == 0
            lines = log.read_text().splitlines()
            assert [line for line in lines if not line.startswith("{")] == [], "it logs JSON alone"
        finally:
            server.kill()


def _events(log: Path, name: str) -> list[dict[str, Any]]:
    """What a service has logged under this name so far."""
    time.sleep(0.05)
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [event for event in map(json.loads, lines) if event.get("event") == name]
