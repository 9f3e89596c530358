"""Processes that are killed with SIGKILL at chosen points; run as a program, so that only it dies.

python -m tests.killing after-batches CORPUS OUTPUT LOG N   build; stop before batch N+1, say so, wait to be killed
python -m tests.killing sweep CORPUS OLD|- DIRECTORY N      kill a build at every N-th step in turn, finish each
python -m tests.killing sweep-loads SHARDS OLD|- DIRECTORY N   kill a load at every N-th step in turn, finish each
python -m tests.killing sweep-reembeddings OLD DIRECTORY N  kill a new embedding at every N-th step in turn, finish each
python -m tests.killing sweep-changes OLD DIRECTORY N       kill a writer at every N-th step in turn, look at each
python -m tests.killing sweep-rollbacks OLD DIRECTORY N     kill a rollback at every N-th step in turn, look at each
python -m tests.killing at-random DIRECTORY SECONDS SEED    kill writers at random moments, look at each
"""

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Item
from anykey.index import FaissIndex
from anykey.index.errors import IndexNotFoundError, UnusableOptionError
from anykey.index.jobs.transfer import load_shards
from tests.factories import build_with, reembed_with
from tests.fakes import FakeEncoder, FakePrepared
from tests.killed_writers import go_back, kill_at_random, look_after, look_after_rollback, make_changes

BATCH_SIZE = 4
EVENTS = ("open", "sqlite3.connect", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


class LoggingEncoder(FakeEncoder):
    """Writes a line for each item it embeds; survives the process."""

    def __init__(self, log: Path, stop_after: int | None = None, name: str = "fake") -> None:
        super().__init__(name)
        self._log = log
        self._stop_after = stop_after

    def encode_prepared(self, prepared: Sequence[FakePrepared]) -> NDArray[np.float32]:
        """Waits for its end at the chosen batch; logs and embeds before that."""
        if len(self.batches) == self._stop_after:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            signal.pause()
        vectors_BD = super().encode_prepared(prepared)
        with self._log.open("a") as file:
            file.writelines(f"{vector.tobytes().hex()}\n" for vector in vectors_BD)
        return vectors_BD


class Killer:
    """Ends the process at its N-th step: a file operation below a directory, or a statement to a store in it."""

    def __init__(self, directory: Path, countdown: int) -> None:
        self._directory = str(directory)
        self._countdown = countdown

    def start(self) -> None:
        """Begins to count; for the rest of the process's life."""
        killer = self

        class Connection(sqlite3.Connection):
            def __init__(self, path: Any, *arguments: Any, **options: Any) -> None:
                self.is_store = "store.sqlite" in str(path)
                super().__init__(path, *arguments, **options)

            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                if self.is_store:
                    killer.count()
                return super().execute(*arguments)

        connect = sqlite3.connect
        sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    def count(self) -> None:
        """Takes a step."""
        self._countdown -= 1
        if self._countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and any(self._directory in str(argument) for argument in arguments):
            self.count()


def sweep(corpus: Path, old: Path | None, directory: Path, stride: int) -> None:
    """Kills a build at one step after the other; each time looks, and lets another process finish it."""

    def build(output: Path) -> None:
        build_with(corpus, output, LoggingEncoder(Path(f"{output}.log")), batch_size=BATCH_SIZE)

    def finish(output: Path, seen: Path) -> None:
        seen.write_text(str(_num_keys_seen(output)))
        in_child(lambda: build(output))

    _kill_at_steps(stride, old, directory, build, finish)


def sweep_loads(shards: Path, old: Path | None, directory: Path, stride: int) -> None:
    """Kills a load of shards at one step after the other; each time looks, and lets another process load them."""

    def load(output: Path) -> None:
        load_shards([str(shards)], output, lambda count: None)

    def finish(output: Path, seen: Path) -> None:
        seen.write_text(str(_num_keys_seen(output)))
        in_child(lambda: load(output))

    _kill_at_steps(stride, old, directory, load, finish)


def sweep_reembeddings(old: Path, directory: Path, stride: int) -> None:
    """Kills a new embedding at one step after the other; each time looks, and lets another process finish it."""

    def embed_anew(output: Path) -> None:
        encoder = LoggingEncoder(Path(f"{output}.log"), name="another")
        with suppress(UnusableOptionError):  # it has been published before it was killed
            reembed_with(output, encoder, batch_size=BATCH_SIZE)

    def finish(output: Path, seen: Path) -> None:
        with FaissIndex.open(output) as index:
            seen.write_text(f"{index.encoder.name} {sum(1 for _ in index.scan())}")
        in_child(lambda: embed_anew(output))

    _kill_at_steps(stride, old, directory, embed_anew, finish)


def sweep_changes(old: Path, directory: Path, stride: int) -> None:
    """Kills a writer at one step after the other; each time looks at the index and makes one more change."""
    _kill_at_steps(stride, old, directory, make_changes, look_after)


def sweep_rollbacks(old: Path, directory: Path, stride: int) -> None:
    """Kills a rollback at one step after the other; each time looks at the index and makes one more change."""
    _kill_at_steps(stride, old, directory, go_back, look_after_rollback)


def in_child(work: Callable[[], None]) -> bool:
    """Works in a process of its own; gives whether it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("the child failed")
    return os.WIFSIGNALED(status)


def _kill_at_steps(
    stride: int, old: Path | None, directory: Path, work: Callable[[Path], None], look: Callable[[Path, Path], None]
) -> None:
    for countdown in range(0, 10_000, stride):
        output = directory / f"killed-{countdown}"
        if old is not None:
            shutil.copytree(old, output)

        def work_until_killed(output: Path = output, countdown: int = countdown) -> None:
            Killer(output, countdown).start()
            work(output)

        was_killed = in_child(work_until_killed)
        look(output, directory / f"killed-{countdown}.seen")
        if not was_killed:
            return


def _num_keys_seen(output: Path) -> int:
    """What a reader finds; 0 before the first version."""
    try:
        with FaissIndex.open(output) as index:
            (hits,) = index.search(FakeEncoder().encode([Item("word")]), 1000)
            assert len(hits) == index.count()
            return len(hits)
    except IndexNotFoundError:
        return 0


if __name__ == "__main__":
    mode, arguments = sys.argv[1], [Path(argument) for argument in sys.argv[2:]]
    if mode == "sweep":
        sweep(arguments[0], None if sys.argv[3] == "-" else arguments[1], arguments[2], int(sys.argv[5]))
    elif mode == "sweep-loads":
        sweep_loads(arguments[0], None if sys.argv[3] == "-" else arguments[1], arguments[2], int(sys.argv[5]))
    elif mode == "sweep-reembeddings":
        sweep_reembeddings(arguments[0], arguments[1], int(sys.argv[4]))
    elif mode == "sweep-changes":
        sweep_changes(arguments[0], arguments[1], int(sys.argv[4]))
    elif mode == "sweep-rollbacks":
        sweep_rollbacks(arguments[0], arguments[1], int(sys.argv[4]))
    elif mode == "at-random":
        kill_at_random(arguments[0], float(sys.argv[3]), int(sys.argv[4]))
    else:
        encoder = LoggingEncoder(arguments[2], int(sys.argv[5]))
        build_with(arguments[0], arguments[1], encoder, batch_size=BATCH_SIZE)
