"""Builds that are killed with SIGKILL at chosen points; run as a program, so that only it dies.

python -m tests.killing after-batches CORPUS OUTPUT LOG N   stop before batch N+1, say so, wait to be killed
python -m tests.killing sweep CORPUS DIRECTORY              kill at every file operation in turn, finish each
"""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.item import Item
from index import FaissIndex
from index.errors import IndexNotFoundError
from tests.factories import build_with
from tests.fakes import FakeEncoder, FakePrepared

BATCH_SIZE = 4
EVENTS = (
    "open",
    "sqlite3.connect",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "shutil.copyfile",
    "shutil.rmtree",
)


class LoggingEncoder(FakeEncoder):
    """Writes a line for each item it embeds; survives the process."""

    def __init__(self, log: Path, stop_after: int | None = None) -> None:
        super().__init__()
        self._log = log
        self._stop_after = stop_after

    def encode_prepared(
        self, prepared: Sequence[FakePrepared], text_weight: float | Sequence[float] = 0.5
    ) -> NDArray[np.float32]:
        """Waits for its end at the chosen batch; logs and embeds before that."""
        if len(self.batches) == self._stop_after:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            signal.pause()
        vectors_BD = super().encode_prepared(prepared, text_weight)
        with self._log.open("a") as file:
            file.writelines(f"{vector.tobytes().hex()}\n" for vector in vectors_BD)
        return vectors_BD


class Killer:
    """An audit hook that ends the process at its N-th file operation below a directory."""

    def __init__(self, directory: Path, countdown: int) -> None:
        self._directory = str(directory)
        self._countdown = countdown

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and any(str(argument).startswith(self._directory) for argument in arguments):
            self._countdown -= 1
            if self._countdown < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def sweep(corpus: Path, old: Path | None, directory: Path) -> None:
    """Kills a build at its 1st, 2nd, ... file operation; after each, looks, and lets another process finish it."""
    for countdown in range(10_000):
        output = directory / f"killed-{countdown}"
        log = directory / f"killed-{countdown}.log"
        if old is not None:
            shutil.copytree(old, output)
        was_killed = _in_child(corpus, output, log, countdown)
        (directory / f"killed-{countdown}.seen").write_text(str(_num_keys_seen(output)))
        _in_child(corpus, output, log, None)
        if not was_killed:
            return


def _num_keys_seen(output: Path) -> int:
    """What a reader finds; 0 before the first version."""
    try:
        with FaissIndex.open(output) as index:
            (hits,) = index.search(FakeEncoder().encode([Item("word")]), 1000)
            return len(hits)
    except IndexNotFoundError:
        return 0


def _in_child(corpus: Path, output: Path, log: Path, countdown: int | None) -> bool:
    """Builds in a process of its own; gives whether it was killed."""
    child = os.fork()
    if child == 0:
        if countdown is not None:
            sys.addaudithook(Killer(output, countdown))
        build_with(corpus, output, LoggingEncoder(log), batch_size=BATCH_SIZE)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"build {output} failed")
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    if sys.argv[1] == "sweep":
        sweep(Path(sys.argv[2]), None if sys.argv[3] == "-" else Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        encoder = LoggingEncoder(Path(sys.argv[4]), int(sys.argv[5]))
        build_with(Path(sys.argv[2]), Path(sys.argv[3]), encoder, batch_size=BATCH_SIZE)
